"""cotrain as a stage: the same bytes after a kill; adaptation starts from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pydantic import ValidationError

from data_tools.world.make import make_world
from data_tools.world.plan import WorldConfig
from m2raap.adapt.config import AdaptConfig
from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.interrupt import take_notes
from m2raap.core.runner import run_data_stage, run_stage
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.core.split import read_splits
from m2raap.core.stage import StepInputs
from m2raap.core.view import View
from m2raap.cotrain import rounds
from m2raap.cotrain.config import CotrainConfig
from m2raap.curate.limits import Limit
from m2raap.models.config import BackboneConfig, StanConfig
from m2raap.models.video_clip import VideoCLIP
from m2raap.stages import cotrain as stage_module
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.cotrain import CotrainStage
from m2raap.stages.filter import FilterConfig, FilterStage
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from tests.runs import m2raap

WORLD = WorldConfig(seed=2, train_clips=24, val_clips=2, test_clips=2, size_px=48, fps=8, sound=0.7)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Key-frames, sound and motion of a world without any text."""
    out = tmp_path_factory.mktemp("cotrain")
    world = make_world(WORLD, out, workers=2)
    corpus = write_corpus(out / "C", world.train_clips, [], video_root=out / "videos", source={"importer": "world"})
    keyframes = KeyframesStage(KeyframesConfig(k=2, short_side_px=48, senses=("sound", "motion")))
    assert run_data_stage(keyframes, View(corpus.path), out / "K", LocalEngine(1))
    return View(corpus.path).over(out / "K")


def stage(tiny_dir: Path, **changes: Any) -> CotrainStage:
    settings: dict[str, Any] = {
        "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), "temporal": StanConfig(layers=1),
        "num_frames": 2, "rounds": 3, "coarse": 2, "fine": 2, "batch_size": 4, "threads": 1, "window": 16,
    }  # fmt: skip
    return CotrainStage(CotrainConfig(**settings | changes))


def files(folder: Path) -> dict[str, bytes]:
    names = ("train.jsonl", stage_module.CLUSTERS, "model/model.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def undisturbed(view: View, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "cotrain"
    assert stage(tiny_dir).run(StepInputs(view, out, LocalEngine(1)))
    return out


def test_it_learns_and_says_what_the_clusters_are(undisturbed: Path, tiny_dir: Path, view: View) -> None:
    lines = [json.loads(line) for line in (undisturbed / "train.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "round" in line] == [0, 1, 2, 3]
    assert sum("loss" in line for line in lines) == 3 * 4
    table = pq.read_table(undisturbed / stage_module.CLUSTERS).to_pydict()
    senses = {row["clip_id"]: row for row in pq.read_table(view.folders[0] / "senses").to_pylist()}
    assert len(table["clip_id"]) == 24 and set(table["clip_id"]) < set(senses), "the training clips"
    for clip_id, coarse, pmi in zip(table["clip_id"], table["coarse_sound"], table["frames_pmi_sound"], strict=True):
        assert (coarse is not None) == (senses[clip_id]["sound"] is not None) == (pmi is not None)
    assert np.isfinite(table["frames_pmi_motion"]).all()
    assert not (undisturbed / PAIR_SIGNALS).exists(), "it read no captions"
    model = VideoCLIP.load(undisturbed / "model")
    assert not model.temporal.out.weight.any(), "video vectors stay where the texts look for them"
    new = VideoCLIP(model.backbone, StanConfig(layers=1))
    assert (model.temporal.time - new.temporal.time).abs().max() > 1e-4
    assert not (undisturbed / "scratch").exists()


def test_a_killed_run_ends_in_the_same_bytes(
    undisturbed: Path, view: View, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = rounds._round, []

    def failing(*args: Any) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(rounds, "_round", failing)
    with pytest.raises(KeyboardInterrupt):
        stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    monkeypatch.setattr(rounds, "_round", real)
    assert stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    assert files(tmp_path / "cotrain") == files(undisturbed)
    with pytest.raises(M2raapError, match=r"cotrain\.seed|seed"):
        stage(tiny_dir, seed=5).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))


def test_ctrl_c_in_the_last_round_ends_the_command_too(
    undisturbed: Path, view: View, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rounds._round

    def last(cfg: CotrainConfig, state: Any, *args: Any) -> int:
        args[-1].requested = state.number == cfg.rounds - 1
        return real(cfg, state, *args)

    monkeypatch.setattr(rounds, "_round", last)
    with pytest.raises(KeyboardInterrupt):
        stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    assert "after round 3 of 3" in take_notes()
    monkeypatch.setattr(rounds, "_round", lambda *_: pytest.fail("it trains"))
    assert stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    assert files(tmp_path / "cotrain") == files(undisturbed)


def test_captions_are_a_modality_and_each_gets_a_score(small_world: Path, tiny_dir: Path, tmp_path: Path) -> None:
    corpus = View(small_world / "train")
    keyframes = KeyframesStage(KeyframesConfig(k=2, short_side_px=48, senses=("motion",)))
    assert run_data_stage(keyframes, corpus, tmp_path / "K", LocalEngine(1))
    view = corpus.over(tmp_path / "K")
    out = tmp_path / "cotrain"
    assert stage(tiny_dir, senses=("motion",), texts=("en", "zh"), rounds=2).run(StepInputs(view, out, LocalEngine(1)))
    table = pq.read_table(out / PAIR_SIGNALS).to_pydict()
    (tables,) = read_splits(view, ["train"])
    assert table["text_id"] == sorted(set(tables.texts["raw_id"].to_pylist()))
    assert np.isfinite(table["cluster_pmi"]).all() and np.isfinite(table["cluster_pmi_motion"]).all()
    filtering = FilterStage(FilterConfig(scores={"cluster_pmi": Limit(min=0.0)}))
    assert run_stage(filtering, StepInputs(view, tmp_path / "F", LocalEngine(1), scores=(out / PAIR_SIGNALS,)))
    dropped = {
        row["text_id"] for row in pq.read_table(tmp_path / "F" / "dropped").to_pylist() if row["reason"] == "user_score"
    }
    below = {text for text, score in zip(table["text_id"], table["cluster_pmi"], strict=True) if score < 0}
    assert dropped and dropped <= below, "also behind a stage that has measured other things"
    clips = pq.read_table(out / stage_module.CLUSTERS).to_pydict()
    assert len(clips["coarse_text_zh"]) == len(tables.clips) and None not in clips["frames_pmi_text_en"]


@pytest.mark.parametrize("file", ["others.safetensors", "model/model.safetensors", "backbone.txt"])
def test_damaged_towers_are_named(
    view: View, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def stopping(*args: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rounds, "_round", stopping)
        stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    (path,) = tmp_path.rglob(f"round-00000/{file}")
    cut = path.read_bytes()[:100]
    path.unlink()
    if file != "backbone.txt":
        path.write_bytes(cut)
    with pytest.raises(M2raapError, match=r"round-00000: its towers cannot be read \(.*remove it"):
        stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))


def test_a_run_that_ended_before_its_manifest_trains_no_second_time(
    undisturbed: Path, view: View, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed, tmp_path / "cotrain")
    manifest = tmp_path / "cotrain" / "manifest.json"
    before = json.loads(manifest.read_text())
    manifest.unlink()
    monkeypatch.setattr(rounds, "_round", lambda *_: pytest.fail("it trains"))
    assert stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    after = json.loads(manifest.read_text())
    assert (after["files"], after["counts"]) == (before["files"], before["counts"])
    assert not (tmp_path / "cotrain" / "scratch").exists() and not (tmp_path / "cotrain" / "cache").exists()


def test_shares_of_windows_change_nothing(
    undisturbed: Path, view: View, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window is encoded share by share, and the clips at the end window by window: 24 clips by windows of 16."""
    monkeypatch.setattr(stage_module, "SHARE_CLIPS", 5)
    assert stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    first, second = (pq.read_table(folder / stage_module.CLUSTERS) for folder in (undisturbed, tmp_path / "cotrain"))
    assert first.equals(second) and first.num_rows == 24


@pytest.mark.parametrize(
    ("temporal", "message"),
    [({"name": "mean"}, "'mean'"), ({"name": "stan", "start": "open"}, "set matrix or gate")],
)
def test_modules_whose_inside_cannot_learn_alone_are_refused(temporal: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CotrainConfig.model_validate({"temporal": temporal})


def test_too_many_vision_layers_are_named(view: View, tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=r"cotrain\.train_vision_layers is 99"):
        stage(tiny_dir, train_vision_layers=99).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))


def test_a_cache_that_the_disk_has_no_room_for_is_left_out_by_a_key_of_cotrain(
    view: View, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 0})
    monkeypatch.setattr("m2raap.adapt.prefix_cache.shutil.disk_usage", lambda _: full)
    with pytest.raises(M2raapError, match=r"set cotrain\.cache_limit_gb=1e-06"):
        stage(tiny_dir).run(StepInputs(view, tmp_path / "cotrain", LocalEngine(1)))
    assert stage(tiny_dir, cache_limit_gb=1e-6, rounds=1).run(StepInputs(view, tmp_path / "without", LocalEngine(1)))


def test_vision_layers_that_learn_share_the_cache_of_those_before(view: View, tiny_dir: Path, tmp_path: Path) -> None:
    caches = tmp_path / "caches"
    inputs = StepInputs(view, tmp_path / "cotrain", LocalEngine(1), caches=caches)
    assert stage(tiny_dir, train_vision_layers=1).run(inputs)
    assert len(list(caches.glob("*/tokens.npy"))) == 1


def test_a_window_of_all_clips_is_no_window(view: View, tiny_dir: Path, tmp_path: Path) -> None:
    for name, window in (("all", None), ("window", 1000)):
        assert stage(tiny_dir, window=window, rounds=1).run(StepInputs(view, tmp_path / name, LocalEngine(1)))
    assert files(tmp_path / "all") == files(tmp_path / "window")


def test_what_is_not_there_is_named(view: View, tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=r"fewer than cotrain\.coarse"):
        stage(tiny_dir, coarse=64).run(StepInputs(view, tmp_path / "few", LocalEngine(1)))
    plain = KeyframesStage(KeyframesConfig(k=2, short_side_px=48))
    corpus = View(view.corpus_path)
    assert run_data_stage(plain, corpus, tmp_path / "K", LocalEngine(1))
    with pytest.raises(M2raapError, match=r"keyframes\.senses"):
        stage(tiny_dir).run(StepInputs(corpus.over(tmp_path / "K"), tmp_path / "no", LocalEngine(1)))
    assert stage(tiny_dir, senses=(), rounds=1).run(
        StepInputs(corpus.over(tmp_path / "K"), tmp_path / "a", LocalEngine(1))
    )


def test_adapt_learns_from_sound_and_compares_texts_with_it(tiny_dir: Path, tmp_path: Path) -> None:
    world = make_world(WORLD.model_copy(update={"train_clips": 12}), tmp_path, workers=2)
    videos = tmp_path / "videos"
    corpus = write_corpus(
        tmp_path / "C", world.train_clips, world.train_texts, video_root=videos, source={"importer": "world"}
    )
    keyframes = KeyframesStage(KeyframesConfig(k=2, short_side_px=48, senses=("sound",)))
    assert run_data_stage(keyframes, View(corpus.path), tmp_path / "K", LocalEngine(1))
    view = View(corpus.path).over(tmp_path / "K")
    settings: dict[str, Any] = {
        "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), "temporal": StanConfig(layers=1),
        "num_frames": 2, "steps": 2, "batch_size": 6, "threads": 1, "loss": {"clip_sound": 1.0}, "harmonize": {"gamma": [-1, -1]},
    }  # fmt: skip
    adapt = AdaptStage(AdaptConfig(**settings))
    adapt.run(StepInputs(view, tmp_path / "adapt", LocalEngine(1)))
    lines = [json.loads(line) for line in (tmp_path / "adapt" / "train.jsonl").read_text().splitlines()]
    assert all(line["terms"]["clip_sound"] > 0 for line in lines if "loss" in line)
    sounds = {row["clip_id"]: row["sound"] for row in pq.read_table(tmp_path / "K" / "senses").to_pylist()}
    scored = pq.read_table(tmp_path / "adapt" / PAIR_SIGNALS)["text_id"].to_pylist()
    assert scored and all(sounds[text_id.split(".")[0]] is not None for text_id in scored)
    plain = KeyframesStage(KeyframesConfig(k=2, short_side_px=48))
    assert run_data_stage(plain, View(corpus.path), tmp_path / "P", LocalEngine(1))
    with pytest.raises(M2raapError, match=r"keyframes\.senses \[sound\], or set adapt\.loss\.clip_sound to 0"):
        adapt.run(StepInputs(View(corpus.path).over(tmp_path / "P"), tmp_path / "without", LocalEngine(1)))


def test_a_recipe_adapts_what_cotrain_has_learnt(small_world: Path, tmp_path: Path) -> None:
    temporal = {"name": "stan", "layers": 1}
    tree = {
        "name": "started", "stages": ["keyframes", "cotrain", "adapt"], "backbone": {"model": "builtin:tiny"},
        "keyframes": {"k": 2, "short_side_px": 48, "senses": ["motion"]},
        "cotrain": {"senses": ["motion"], "rounds": 1, "coarse": 2, "fine": 2, "num_frames": 2, "temporal": temporal},
        "adapt": {"steps": 1, "batch_size": 4, "num_frames": 2, "temporal": temporal},
        "arms": {"started": {}, "plain": {"stages": ["keyframes", "adapt"]}},
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    run = ("run", tmp_path / "r.yaml", "--data", small_world / "train", "--out", tmp_path / "R", "--allow-refused", "1")
    m2raap(*run, "--limit", "30")
    started, plain, begun = (
        VideoCLIP.load(tmp_path / "R" / folder / "model").temporal.time.detach()
        for folder in ("started/adapt", "plain/adapt", "started/cotrain")
    )
    assert torch.equal(started, begun) and not torch.equal(started, plain)
    data = json.loads((tmp_path / "R" / "report" / "report.json").read_text())
    seconds = {row["arm"]: row["cotrain_s"] for row in data["costs"]}
    assert seconds["started"] > 0 and seconds["plain"] is None
    assert {curve["chart"]: curve["label"] for curve in data["curves"] if "co-training" in curve["chart"]} == {
        "co-training loss": "started", "co-training: mean cluster_pmi": "started frames-motion",
    }  # fmt: skip
    page = (tmp_path / "R" / "report" / "report.html").read_text()
    assert "co-training loss" in page and '<th class="n">co-training</th>' in page
    assert "already finished" in m2raap(*run, "--limit", "30").stderr
    tree["arms"]["started"] = {"cotrain": {"temporal": {"name": "stan", "layers": 2}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    other = (
        "run",
        tmp_path / "r.yaml",
        "--data",
        small_world / "train",
        "--out",
        tmp_path / "S",
        "--allow-refused",
        "1",
    )
    assert "another temporal" in m2raap(*other, "--limit", "30", check=1).stderr


def test_the_two_commands(view: View, small_world: Path, tmp_path: Path) -> None:
    keyframes, short = view.folders[0], ("--set", "cotrain.rounds=1", "--set", "cotrain.num_frames=2")
    m2raap("cotrain", keyframes, "--out", tmp_path / "T", *short, "--set", "cotrain.coarse=2", "--workers", "1")
    m2raap("keyframes", small_world / "train", "--out", tmp_path / "K", "--set", "keyframes.k=2", "--limit", "20")
    steps = ("--set", "adapt.steps=1", "--set", "adapt.num_frames=2", "--set", "adapt.batch_size=4")
    m2raap("adapt", tmp_path / "K", "--start", tmp_path / "T", "--out", tmp_path / "A", *steps)
    begun, adapted = (VideoCLIP.load(tmp_path / name / "model").state_dict() for name in ("T", "A"))
    new = VideoCLIP(VideoCLIP.load(tmp_path / "T" / "model").backbone, StanConfig()).state_dict()
    assert torch.equal(begun["temporal.time"], adapted["temporal.time"])
    assert not torch.equal(begun["temporal.time"], new["temporal.time"])
    assert not begun["temporal.out.weight"].any() and adapted["temporal.out.weight"].any()
