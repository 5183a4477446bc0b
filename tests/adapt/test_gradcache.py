"""Gradients of chunks, and of shares of several processes, against those of one big batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from m2raap.adapt import step as steps
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.draw import Share
from m2raap.adapt.gradcache import cut
from m2raap.adapt.loop import adapt
from m2raap.adapt.pixels import Decoding
from m2raap.adapt.prepare import prepare
from m2raap.adapt.sources import ListSource
from m2raap.adapt.state import DropPathRng, TrainState
from m2raap.core.errors import M2raapError
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.models.config import (
    AcgConfig,
    BackboneConfig,
    CaptionGuidedMugConfig,
    FineConfig,
    MeanConfig,
    MugConfig,
    StanConfig,
)
from tests.adapt.world import ordered

EVERYTHING: dict[str, Any] = {
    "temporal": StanConfig(layers=2, start="open", drop_path=0.5), "acg": AcgConfig(mix=True),
    "interaction": CaptionGuidedMugConfig(form="full", start="open", weights="cross_attention", rank=4, add_captions=True),
    "loss": {"plain": 1.0, "frame_caption": 0.5, "interaction": 0.5, "direction": 1.0, "clauses": 0.5, "event_order": 0.5},
    "texts_per_clip": 2, "train_vision_layers": 4,
    "learn_temperature": True,
}  # fmt: skip
FROZEN_TEXT: dict[str, Any] = {"temporal": StanConfig(layers=2, start="open"), "train_text": False, "cache": "levels"}
SCORES = {"plain": 0.0, "interaction": 1.0}
PARTS: list[dict[str, Any]] = [
    {
        "temporal": MeanConfig(),
        "interaction": FineConfig(clip_units="patches", start="open"),
        "loss": SCORES,
        "cache": "levels",
    },
    {**FROZEN_TEXT, "interaction": FineConfig(form="fg2"), "loss": {"interaction": 1.0}},
    {"temporal": StanConfig(layers=1, class_token="frame"), "interaction": MugConfig(start="open"), "loss": SCORES},
]
ORDER: dict[str, Any] = {
    "temporal": StanConfig(layers=2, start="open"), "loss": {"clauses": 1.0, "event_order": 1.0}, "lr_new": 1e-2,
}  # fmt: skip
RAW = {"temporal": MeanConfig(), "train_vision_layers": 1, "objective": "info_nce_multi"}


def but(tiny_dir: Path, **changes: Any) -> AdaptConfig:
    return AdaptConfig(
        **{
            "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), "num_frames": 4,
            "steps": 3, "batch_size": 7, "temperature": 0.1, "val_every_steps": 2, "checkpoint_every_steps": 2,
            "threads": 1, **changes,
        }
    )  # fmt: skip


def world() -> ListSource:
    """Nine clips, one of two frames, and one whose texts say no order; with twelve orders of colours there are twins."""
    source = ordered(9, 0)
    source.pairs[5] = [("en", "two squares", "raw"), ("zh", "两个方块", "raw")]
    source.jpegs[3], source.frame_captions[3] = source.jpegs[3][:2], source.frame_captions[3][:2]
    return source


def opened(cfg: AdaptConfig, out: Path, dist_context: DistContext | None = None) -> TrainState:
    return prepare(cfg, world(), None, out, lambda *_: None, dist_context or DistContext(), Decoding())


def gradients_of(run: TrainState) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of step 1."""
    try:
        share = run.prefetcher.get(1)
        texts, num_clips = share.step.batch_texts.texts, len(share.step.clips_B)
        assert len({tuple(of_clip) for of_clip in zip(*texts, strict=True)}) < num_clips, "there are twins"
        loss = float(steps.gradients(run, share).total)
        learning = [*run.model.named_parameters()]
        learning += run.optim.modules.named_parameters("modules")
        return loss, {name: p.grad for name, p in learning if p.grad is not None}
    finally:
        run.close()


def same(actual: tuple[float, dict[str, torch.Tensor]], whole: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert actual[0] == pytest.approx(whole[0], abs=1e-5) and set(actual[1]) == set(whole[1])
    for name, gradient in whole[1].items():
        torch.testing.assert_close(
            actual[1][name], gradient, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert max(float(gradient.abs().max()) for gradient in whole[1].values()) > 1e-2, "there is something to compare"


@pytest.fixture(scope="module")
def everything(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one big batch, with every term of the loss."""
    return gradients_of(opened(but(tiny_dir, **EVERYTHING), tmp_path_factory.mktemp("whole")))


def test_chunks_have_the_gradients_of_the_batch(everything: tuple, tiny_dir: Path, tmp_path: Path) -> None:
    same(gradients_of(opened(but(tiny_dir, **EVERYTHING, micro_batch=3), tmp_path)), everything)


@pytest.mark.parametrize(
    "changes",
    [FROZEN_TEXT, RAW, ORDER, ORDER | {"train_text": False}, *PARTS],
    ids=["frozen text", "mean", "order", "order, frozen text", "patches", "phrases", "mug"],
)
def test_chunks_of_one_clip_too(changes: dict, tiny_dir: Path, tmp_path: Path) -> None:
    whole = gradients_of(opened(but(tiny_dir, **changes), tmp_path / "whole"))
    same(gradients_of(opened(but(tiny_dir, **changes, micro_batch=1), tmp_path / "ones")), whole)


@pytest.mark.parametrize("micro", [None, 3])
def test_layers_computed_again_have_the_gradients_of_kept_ones(
    micro: int | None, everything: tuple, tiny_dir: Path, tmp_path: Path
) -> None:
    cfg = but(tiny_dir, **EVERYTHING, recompute=True, micro_batch=micro)
    run = opened(cfg, tmp_path)
    again: list[int] = []
    layer = run.model.backbone.vision.run
    run.model.backbone.vision.run = lambda index, tokens: again.append(index) or layer(index, tokens)  # type: ignore[method-assign]
    across: list[torch.Tensor] = []
    run.model.temporal.temporal[0].attn.register_forward_hook(lambda module, given, result: across.append(result))
    same(gradients_of(run), everything)
    passes = {None: 2, 3: 3}[micro]  # once more for the layers on the way back, and for chunks
    assert again.count(2) >= passes
    assert len(across) >= passes, "the branch, too"


def test_compiled_layers_have_the_gradients_of_others(everything: tuple, tiny_dir: Path, tmp_path: Path) -> None:
    """By the graphs that torch.compile takes, without a compiler."""
    run = opened(but(tiny_dir, **EVERYTHING), tmp_path)
    run.model.backbone.compile_layers("eager")
    same(gradients_of(run), everything)


def test_a_chunk_draws_what_its_rows_draw_in_the_batch() -> None:
    draws = DropPathRng()
    draws.begin([1], 6, 0, 6)
    whole = [draws(18), draws(6)]
    for begin, end in cut((0, 6), 4):
        draws.begin([1], 6, begin, end)
        assert torch.equal(draws((end - begin) * 3), whole[0][begin * 3 : end * 3])
        assert torch.equal(draws(end - begin), whole[1][begin:end])


def full_above(monkeypatch: pytest.MonkeyPatch, when: Callable[[int, bool], bool]) -> list[int]:
    """Encoding as on a GPU that is too small: `when` hears the clips and whether a graph is kept. The sizes tried."""
    encode, tried = steps.encode, []

    def too_large(run: TrainState, share: Share, start: int, stop: int) -> Any:
        tried.append(stop - start)
        actual = encode(run, share, start, stop)
        if when(stop - start, torch.is_grad_enabled()):
            raise torch.cuda.OutOfMemoryError
        return actual

    monkeypatch.setattr(steps, "encode", too_large)
    return tried


def test_out_of_memory_halves_the_chunks_not_the_batch(
    everything: tuple, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        tried = full_above(patch, lambda clips, graph: clips > 2)
        run = opened(but(tiny_dir, **EVERYTHING), tmp_path / "halved")
        same(gradients_of(run), everything)
        assert tried[:3] == [7, 4, 2] and run.optim.grad_cache.micro == 2
    with monkeypatch.context() as patch:  # the second pass needs more than the first
        tried = full_above(patch, lambda clips, graph: graph and clips > 1)
        same(gradients_of(opened(but(tiny_dir, **EVERYTHING, micro_batch=3), tmp_path / "late")), everything)
        assert tried[:4] == [3, 3, 1, 3] and set(tried[4:-7]) == {2} and tried[-7:] == [1] * 7
    with monkeypatch.context() as patch, pytest.raises(M2raapError, match=r" 7 clips.*adapt\.batch_size"):
        patch.setattr(steps, "step_loss", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError))
        gradients_of(opened(but(tiny_dir, **EVERYTHING, micro_batch=4), tmp_path / "loss"))
    full_above(monkeypatch, lambda clips, graph: True)
    with pytest.raises(M2raapError, match=r"adapt\.num_frames"):
        gradients_of(opened(but(tiny_dir, **EVERYTHING), tmp_path / "never"))


@pytest.fixture(scope="module")
def together(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of their own did (tests.adapt.two_processes), and in `one` what this one does with the same."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "tests.adapt.two_processes", str(tiny_dir), str(folder)]
    assert not adapt(training(tiny_dir), world(), ordered(3, 1), folder / "begun by one", stop_after=3).finished
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    adapt(training(tiny_dir), world(), ordered(3, 1), folder / "one")
    adapt(scored(tiny_dir), world(), ordered(5, 1), folder / "scored one")
    adapt(harmonised(tiny_dir, "both"), world(), ordered(3, 1), folder / "harmonised one")
    stderr_texts = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(stderr_texts)
    return folder


def training(tiny_dir: Path) -> AdaptConfig:
    return but(tiny_dir, temporal=StanConfig(layers=2), train_vision_layers=1, cache="prefix", group_size=3, steps=4)


def scored(tiny_dir: Path) -> AdaptConfig:
    """Validated by an interaction, with the average of weights kept."""
    return but(tiny_dir, **PARTS[2], keep="average", average_share=1.0, micro_batch=2)


def harmonised(tiny_dir: Path, mode: str, **changes: Any) -> AdaptConfig:
    """With every loss whose gradients are harmonised."""
    settings: dict[str, Any] = {
        "temporal": StanConfig(layers=2, start="open"), "texts_per_clip": 2,
        "loss": {"plain": 1.0, "clip_caption": 0.5, "direction": 0.5},
        "harmonize": {"mode": mode, "gamma": (0.0, 0.1)}, "train_vision_layers": 2,
    }  # fmt: skip
    return but(tiny_dir, **settings | changes)


@pytest.mark.parametrize("micro", [None, 2])
def test_two_processes_have_the_gradients_of_one(micro: int | None, everything: tuple, together: Path) -> None:
    """Shares of 3 and 4 clips, the second time in chunks."""
    for rank in (0, 1):
        same(torch.load(together / f"gradients-{micro}-{rank}.pt", weights_only=True), everything)


def test_two_processes_train_as_one_and_the_first_writes(together: Path) -> None:
    """Stopped after step 3 and begun again; the checkpoint is of step 2."""
    for name, other in (("one", "two"), ("scored one", "scored two"), ("harmonised one", "harmonised two")):
        same_log(together / name, together / other)
    timings = read_lines(together / "two" / "timings.jsonl")
    assert [line.get("step") for line in timings] == [None, 1, 2, 3, None, 3, 4], "of one process alone"
    assert (together / "two" / "model" / "model.json").is_file()


def test_two_processes_harmonise_as_one(tiny_dir: Path, together: Path, tmp_path: Path) -> None:
    whole = gradients_of(opened(harmonised(tiny_dir, "both"), tmp_path))
    for rank in (0, 1):
        same(torch.load(together / f"gradients-both-{rank}.pt", weights_only=True), whole)
    one, two = (pq.read_table(together / f"harmonised {name}" / PAIR_SIGNALS).to_pydict() for name in ("one", "two"))
    assert one.keys() == two.keys() and one["text_id"] == two["text_id"]
    assert one["conflict_draws"] == two["conflict_draws"]
    assert two["conflict"] == pytest.approx(one["conflict"], abs=1e-4)


def test_a_run_goes_on_with_another_number_of_processes(together: Path) -> None:
    same_log(together / "one", together / "begun by one")
    weights = [load_file(together / name / "model" / "model.safetensors") for name in ("one", "begun by one")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=1e-4)


def same_log(a: Path, b: Path) -> None:
    one, two = (read_lines(folder / "train.jsonl") for folder in (a, b))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for of_one, of_two in zip(one, two, strict=True):
        assert of_two.get("loss") == pytest.approx(of_one.get("loss"), abs=1e-4)
        assert of_two.get("val") == pytest.approx(of_one.get("val"), abs=1e-4)


def test_the_others_get_their_tasks_and_hear_when_the_first_is_gone(together: Path) -> None:
    messages = json.loads((together / "messages-1.json").read_text())
    assert messages["tasks"] == ["a/adapt", ""]
    assert messages["disagreed"].startswith("process 1 sees other data")
    assert messages["alone"].startswith("process 1 of 2 stopped because another process died")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
