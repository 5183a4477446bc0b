import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml

from m2raap.core.errors import M2raapError
from m2raap.export.model_export import export_lines, export_model
from m2raap.models.config import BackboneConfig, StanConfig
from m2raap.models.images import images_from_jpegs
from m2raap.models.video_clip import VideoCLIP
from tests.stages.adapted import drawn_benchmark, save_adapted
from tests.stages.pictures import draw

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@torch.no_grad()
def test_the_adapted_towers_load_in_plain_open_clip(model: Path, tmp_path: Path):
    about = export_model(model, "open_clip", tmp_path / "out", drawn_benchmark(tmp_path))
    clip, _, theirs = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    ours = VideoCLIP.load(model)
    words = ["a red circle", "一个蓝色圆形"]
    assert torch.equal(
        clip.eval().encode_text(tokenize(words), normalize=True), ours.encode_text(ours.backbone.tokenize(words))
    )
    images = images_from_jpegs([draw("red"), draw("blue")], ours.backbone.preprocess)
    torch.testing.assert_close(
        clip.encode_image(images, normalize=True), ours.backbone.encode_image(images), atol=1e-6, rtol=0
    )
    assert theirs is not None

    assert about["left_out"] == ["stan", "acg"]
    assert [(row["lang"], row["direction"], row["queries"]) for row in about["exported"]] == [
        ("en", "t2v", 4), ("en", "v2t", 4), ("zh", "t2v", 4), ("zh", "v2t", 4),
    ]  # fmt: skip
    rows_of_both = zip(about["adapted"], about["exported"], about["exported_minus_adapted"], strict=True)
    for adapted, exported, change in rows_of_both:
        assert change["diff"] == pytest.approx(exported["r1"] - adapted["r1"])
    assert sum(line.startswith("exported on custom") for line in export_lines(about, tmp_path / "out")) == 4
    assert json.loads((tmp_path / "out" / "m2raap_export.json").read_text()) == about


def test_both_halves_run_in_onnxruntime_at_any_batch(tmp_path: Path):
    import onnxruntime

    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    cfg = BackboneConfig(model=f"local-dir:{tmp_path / 'clip'}", random_init=True)
    model = save_adapted(tmp_path / "model", cfg, StanConfig(layers=1))
    about = export_model(model, "onnx", tmp_path / "out", num_frames=3)
    assert max(about["largest_difference"].values()) < about["allowed_difference"] == 1e-4
    clip, draw_ = VideoCLIP.load(model), torch.Generator().manual_seed(9)
    frames, mask = torch.randn(5, 3, 3, 32, 32, generator=draw_), torch.ones(5, 3, dtype=torch.bool)
    mask[1:3, 2] = False
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "video.onnx"))
    video_BE = session.run(None, {"frames": frames.numpy(), "mask": mask.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(video_BE, clip.encode_video(frames, mask).numpy(), atol=1e-4)


def test_a_hub_folder_is_the_model_with_a_card(model: Path, tmp_path: Path):
    about = export_model(model, "hub", tmp_path / "out", drawn_benchmark(tmp_path))
    _, head, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "apache-2.0" and head["language"] == ["en", "zh"] and "stan" in head["tags"]
    row = about["adapted"][0]
    assert f"| en | t2v | 4 | {row['r1']:.1f} ({row['lo']:.1f}-{row['hi']:.1f}) |" in text
    assert VideoCLIP.load(tmp_path / "out").digest == VideoCLIP.load(model).digest == about["model"]


@pytest.mark.parametrize(
    ("to", "backbone", "message"),
    [
        ("tflite", {}, "--to tflite: .*open_clip, onnx, hub"),
        (
            "hub",
            {"model": "ViT-B-32", "pretrained": "openai"},
            "ViT-B-32.*--licence",
        ),
        ("hub", {"model": True}, "made_from.*adapt.backbone.model"),
    ],
)
def test_what_cannot_be_exported_is_named_and_leaves_nothing(
    model: Path, tmp_path: Path, to: str, backbone: dict, message
):
    VideoCLIP.load(model).save(tmp_path / "model", {"adapt": {"backbone": backbone, "langs": ["en"]}})
    with pytest.raises(M2raapError, match=message):
        export_model(tmp_path / "model", to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_measuring_needs_the_frames_of_a_benchmark(model: Path, tmp_path: Path):
    from m2raap.core.view import View

    view = drawn_benchmark(tmp_path)
    with pytest.raises(M2raapError, match="keyframes"):
        export_model(model, "open_clip", tmp_path / "out", View(view.corpus_path))


def test_a_graph_that_is_tied_to_one_batch_is_refused(tmp_path: Path):
    """As some towers' are (SigLIP2 of transformers, EVA): here one that onnx itself builds."""
    from onnx import TensorProto, helper, save

    from m2raap.models.onnx_export import largest_difference

    def tensor(name: str):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])

    graph = helper.make_graph(
        [helper.make_node("Identity", ["tokens"], ["text"])], "g", [tensor("tokens")], [tensor("text")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(tmp_path / "text.onnx"))
    assert largest_difference(tmp_path / "text.onnx", torch.nn.Identity(), ["tokens"], (torch.ones(2, 3),)) == 0
    with pytest.raises(M2raapError, match="text.onnx: .*batch 3 "):
        largest_difference(tmp_path / "text.onnx", torch.nn.Identity(), ["tokens"], (torch.ones(3, 3),))
