"""A folder of videos without a list and without captions, and with a file that is no video."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from m2raap import load
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_json
from m2raap.core.view import View
from m2raap.models.config import MeanConfig
from m2raap.models.images import images_from_jpegs
from m2raap.search.embed_folder import embed_folder, is_video_folder
from m2raap.stages.keyframes import KeyframesConfig
from tests.stages.adapted import save_adapted

torch.set_num_threads(1)


def test_any_folder_of_videos_is_embedded(small_world: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("m2raap.search.clip_vectors.torch_threads", lambda: 1)
    videos = tmp_path / "videos"
    (videos / "deep er").mkdir(parents=True)
    corpus = View(small_world / "test").corpus
    for number, row in enumerate(sorted(corpus.all_rows("clips"), key=lambda row: row["clip_id"])[:2]):
        shutil.copy(corpus.video_root / row["video"], videos / ("a 1.mp4" if number else "deep er/b.mp4"))
    (videos / "notes.txt").write_text("no video")
    (videos / os.fsdecode(b"\xff.mp4")).write_bytes(b"no name for a corpus")
    assert is_video_folder(videos) and not is_video_folder(small_world / "test")
    folder = save_adapted(tmp_path / "adapt" / "model")
    out, cfg = tmp_path / "out", KeyframesConfig(k=4, short_side_px=96)
    engine = LocalEngine(1)
    try:
        counts = embed_folder(videos, cfg, folder, out, engine)
    finally:
        engine.close()
    assert counts == {"files": 4, "embedded": 2, "refused": 2}
    rows = {row["video"]: row for row in pq.read_table(out / "vectors" / "videos.parquet").to_pylist()}
    assert rows["notes.txt"]["reason"] == "not_media" and rows["notes.txt"]["row"] is None
    vectors = np.load(out / "vectors" / "video.npy", allow_pickle=False)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    # The Python example of the README gives the same vectors for the same frames.
    model = load(tmp_path / "adapt")
    framed = View(out / "corpus").over(out / "keyframes")
    for part in framed.parts(("jpegs",)):
        for clip in part.clips:
            frames = images_from_jpegs(part.frames[clip["clip_id"]]["jpegs"], model.backbone.preprocess)
            with torch.inference_mode():
                expected_E = model.encode_video(frames[None])[0].numpy()
            np.testing.assert_allclose(vectors[rows[clip["video"]]["row"]], expected_E, atol=1e-5)
    with torch.inference_mode():
        text = model.encode_text(model.backbone.tokenize(["a red circle", "一个红色圆形"]))
    assert text.shape == (2, vectors.shape[1]) and torch.allclose(text.norm(dim=-1), torch.ones(2))
    assert model.temporal_cfg != MeanConfig()


def test_a_folder_with_nothing_in_it_and_an_out_inside_it_are_refused(tmp_path: Path):
    (tmp_path / "videos").mkdir()
    cfg, folder, engine = KeyframesConfig(), tmp_path / "m", LocalEngine(1)
    with pytest.raises(M2raapError, match=r"m: .*model\.json"):
        embed_folder(tmp_path / "videos", cfg, folder, tmp_path / "out", engine)
    folder.mkdir()
    write_json(folder / "model.json", {"digest": "0"})
    with pytest.raises(M2raapError, match="videos: "):
        embed_folder(tmp_path / "videos", cfg, folder, tmp_path / "out", engine)
    with pytest.raises(M2raapError, match="out: .*--out"):
        embed_folder(tmp_path / "videos", cfg, folder, tmp_path / "videos" / "out", engine)
