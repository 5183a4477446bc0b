"""embed: the length to which texts are cut, its workers and shares, its batches, and the precision of the towers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.view import View
from m2raap.models.config import BackboneConfig, MeanConfig, MugConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.retrieval.embeddings import Embeddings
from m2raap.stages import embed_parts
from m2raap.stages.embed import EmbedConfig, EmbedStage, embed
from m2raap.stages.embedder import ClipFrame, VideoClipEmbedder, encode_texts
from m2raap.stages.rerank import RerankConfig
from tests.conftest import digests
from tests.stages.adapted import drawn_benchmark
from tests.stages.pictures import draw


@pytest.fixture(scope="module")
def clip() -> VideoCLIP:
    return VideoCLIP(load_backbone(BackboneConfig()), MeanConfig())


def test_texts_of_a_benchmark_are_cut_and_the_protocol_says_so(clip: VideoCLIP, tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path, num=2)
    rows, scores = {}, {}
    for length in (None, 4):
        out = tmp_path / str(length)
        out.mkdir()
        embed(
            view, EmbedConfig(text_length=length, rerank=RerankConfig(interaction=MugConfig(start="open"))), clip, out
        )
        embeddings = rows[length] = Embeddings.load(out)
        scores[length] = np.load(out / "rerank.npz")["en-t2v-scores"]
        assert ("texts cut to 4 tokens" in embeddings.made_with.preprocess) is (length == 4)
    with torch.no_grad():
        cut = clip.encode_text(clip.backbone.tokenize(list(rows[4].texts), 4)).numpy()
    np.testing.assert_allclose(rows[4].text_TE, cut, atol=1e-6)
    assert np.abs(rows[4].text_TE - rows[None].text_TE).max() > 0.01
    assert np.abs(scores[4] - scores[None]).max() > 1e-3, "Mug reads the tokens of the same texts"
    assert np.array_equal(rows[4].video_VE, rows[None].video_VE)


def test_a_corpus_without_key_frames_is_named_before_anything_is_written(tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path, num=2)
    with pytest.raises(M2raapError, match="bench: has no key-frames; give the folder that 'm2raap keyframes' makes"):
        EmbedStage(EmbedConfig()).run_on(View(view.corpus_path), BackboneConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_length_that_the_model_has_not_is_named(clip: VideoCLIP, tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path, num=2)
    with pytest.raises(M2raapError, match=rf"embed\.text_length is 999.*{clip.backbone.context_length} tokens"):
        embed(view, EmbedConfig(text_length=999), clip, tmp_path)
    with pytest.raises(M2raapError, match=r"embed\.text_length=null"):
        embed(view, EmbedConfig(text_length=4), VideoClipEmbedder(clip), tmp_path)


STAGE = EmbedStage(EmbedConfig(frame_ablations=("reversed",), rerank=RerankConfig(interaction=MugConfig(start="open"))))


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> View:
    return drawn_benchmark(tmp_path_factory.mktemp("parts"), num=2, num_parts=3)


@pytest.fixture(scope="module")
def whole(in_parts: View, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a stage that embedded all parts by an Embedder in this process."""
    out = tmp_path_factory.mktemp("whole") / "embed"
    assert STAGE.run_on(in_parts, BackboneConfig(), out)
    return digests(out)


def test_shares_write_the_same_files(in_parts: View, whole: dict[str, str], tmp_path: Path) -> None:
    for share in ((2, 2), (1, 2)):
        assert not (tmp_path / "shares" / "manifest.json").exists()
        done = STAGE.run_on(in_parts, BackboneConfig(), tmp_path / "shares", engine=LocalEngine(1), share=share)
        assert done is (share == (1, 2))
    assert digests(tmp_path / "shares") == whole


def test_finished_parts_are_kept_and_damaged_ones_made_again(
    in_parts: View, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, computed = embed_parts.part_vectors, []
    monkeypatch.setattr(
        embed_parts, "part_vectors", lambda part, *more: computed.append(part.index) or real(part, *more)
    )
    out, engine = tmp_path / "embed", LocalEngine(1)
    assert not STAGE.run_on(in_parts, BackboneConfig(), out, engine=engine, share=(1, 2))  # parts 0 and 2
    part = out / "parts" / "part-00002.npz"
    part.write_bytes(part.read_bytes()[:-100])
    assert STAGE.run_on(in_parts, BackboneConfig(), out, engine=engine)
    assert computed == [0, 2, 1, 2] and digests(out) == whole


def test_batches_are_halved_where_the_gpu_is_full(clip: VideoCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [[ClipFrame(draw(colour)) for colour in ("red", "blue")]] * 5
    embedder = VideoClipEmbedder(clip)
    before_VE = embedder.videos(clips)[0]
    real, sizes = clip.levels_of_images, []

    def small(frames_BTCHW: torch.Tensor, mask_BT: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(frames_BTCHW))
        if len(frames_BTCHW) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(frames_BTCHW, mask_BT)

    monkeypatch.setattr(clip, "levels_of_images", small)
    np.testing.assert_allclose(embedder.videos(clips)[0], before_VE, atol=1e-6)
    assert sizes == [5, 3, 2, 2, 1]


def test_bf16_is_named_and_gives_nearly_the_same_unit_vectors(clip: VideoCLIP, tmp_path: Path) -> None:
    view = drawn_benchmark(tmp_path, num=2)
    rows = {}
    for precision in ("fp32", "bf16"):
        (tmp_path / precision).mkdir()
        cfg = EmbedConfig(precision=precision, rerank=RerankConfig(interaction=MugConfig(start="open")))
        embed(view, cfg, clip, tmp_path / precision)
        rows[precision] = Embeddings.load(tmp_path / precision)
    assert "bf16" in rows["bf16"].made_with.preprocess and "bf16" not in rows["fp32"].made_with.preprocess
    for name in ("video_VE", "text_TE"):
        exact, rounded = getattr(rows["fp32"], name), getattr(rows["bf16"], name)
        np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)
        assert 1e-5 < np.abs(exact - rounded).max() < 0.02
    scores = [np.load(tmp_path / precision / "rerank.npz")["en-t2v-scores"] for precision in rows]
    np.testing.assert_allclose(*scores, atol=0.02)
    assert "precision" not in EmbedStage(EmbedConfig()).settings(), "folders from before the key stay finished"
    with pytest.raises(M2raapError, match=r"embed\.precision=fp32"):
        embed(view, EmbedConfig(precision="bf16"), VideoClipEmbedder(clip), tmp_path)
    assert encode_texts(clip, []).shape == (0, 0)
