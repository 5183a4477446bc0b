"""Captions of frames: which belongs to which, and what ACG learns from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from m2raap.adapt.captions import caption_keep, caption_table
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.loop import adapt
from m2raap.adapt.loss_config import LossConfig, TermConfig
from m2raap.adapt.sources import ListSource
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import AcgConfig, BackboneConfig, MeanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.world import ordered, words_of


@pytest.fixture
def model(tiny_dir: Path) -> VideoCLIP:
    backbone: Backbone = load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))
    return VideoCLIP(backbone, MeanConfig(), AcgConfig())


@torch.no_grad()
def test_each_frame_gets_its_own_caption(model: VideoCLIP) -> None:
    source = ordered(3, 0)
    table = caption_table(source, model, 2)  # thinned: frames 1 and 3 of 4
    (vectors, there), words = table.encode(model, np.array([2, 0])), words_of(table, np.array([2, 0]))
    assert there.tolist() == [[False, True]] * 2
    assert [row[1] for row in words] == [source.frame_captions[2][3], source.frame_captions[0][3]]
    for row, text in zip(vectors[:, 1], [row[1] for row in words], strict=True):
        expected = model.encode_text(model.backbone.tokenize([text]))[0]
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


def test_leaving_out_follows_the_share_and_the_step() -> None:
    kept = caption_keep(200, 0.3, 7, 1)
    assert 0.6 < float(kept.float().mean()) < 0.8
    assert torch.equal(kept, caption_keep(200, 0.3, 7, 1)) and not torch.equal(kept, caption_keep(200, 0.3, 7, 2))


def test_without_captions_the_stage_is_named(tiny_dir: Path, tmp_path: Path) -> None:
    silent = ordered(4, 0)
    silent.frame_captions = []
    cfg = AdaptConfig(
        backbone=BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), acg=AcgConfig(), steps=1
    )
    with pytest.raises(M2raapError, match=r"adapt\.acg.*'caption'"):
        adapt(cfg, silent, None, tmp_path)


def test_gates_move_and_other_captions_are_another_run(tiny_dir: Path, tmp_path: Path) -> None:
    cfg = AdaptConfig(
        backbone=BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), temporal=MeanConfig(),
        acg=AcgConfig(), loss=LossConfig(frame_caption=TermConfig(weight=1.0)), steps=6, batch_size=6,
        num_frames=4, threads=1, warmup=0.17,
    )  # fmt: skip
    source = ordered(12, 0)
    adapt(cfg, source, None, tmp_path / "a")
    acg = VideoCLIP.load(tmp_path / "a" / "model").acg
    assert acg is not None and all(abs(gate) > 1e-4 for gate in acg.gates().values())
    other = ListSource(source.clip_ids, source.jpegs, source.pairs, [["red"] * 4] * 12)
    adapt(cfg, other, None, tmp_path / "b", stop_after=2)
    again = adapt(cfg, source, None, tmp_path / "b")
    assert again.finished
