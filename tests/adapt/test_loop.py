import importlib.util
import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from m2raap.adapt.config import AdaptConfig, LoraConfig
from m2raap.adapt.loop import adapt
from m2raap.adapt.sources import ListSource
from m2raap.core import interrupt
from m2raap.core.errors import M2raapError
from m2raap.models.config import AcgConfig, BackboneConfig, MeanConfig, StanConfig
from m2raap.models.families import load_backbone
from m2raap.models.losses import OBJECTIVES
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.world import every_order, ordered
from tests.tiny_backbone import TINY


@pytest.fixture
def cfg(tiny_dir: Path) -> AdaptConfig:
    return AdaptConfig(
        backbone=BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True),
        temporal=StanConfig(layers=2, start="gate"),
        num_frames=4,
        steps=9,
        batch_size=6,
        warmup=0.25,
        temperature=0.1,
        val_every_steps=3,
        checkpoint_every_steps=4,
        threads=1,
    )


def but(cfg: AdaptConfig, **changes: object) -> AdaptConfig:
    return AdaptConfig.model_validate(cfg.model_dump() | changes)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 3), (signal.SIGUSR1, 9)])
def test_a_signal_keeps_the_step_at_which_it_came(cfg: AdaptConfig, number: int, step: int, tmp_path: Path) -> None:
    """Checkpoints are due after steps 4 and 8. A signal during the last step comes after the model is written."""

    def report(what: str, done: int, total: int) -> None:
        if done == step and total == cfg.steps:
            os.kill(os.getpid(), number)

    source, val = ordered(13, 0), ordered(5, 1)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        adapt(cfg, source, val, tmp_path / "stopped", report)
    assert signal.getsignal(number) == before
    kept = interrupt.take_notes()
    if step == cfg.steps:
        assert (tmp_path / "stopped" / "model" / "model.json").is_file() and not kept
        return
    assert f"step {step} of {cfg.steps}" in kept
    steps = []
    adapt(cfg, source, val, tmp_path / "stopped", lambda what, done, total: steps.append(done))
    assert min(done for done in steps if done > 0) in (step, step + 1), "nothing before it is done again"
    if number != signal.SIGTERM:
        return
    adapt(cfg, source, val, tmp_path / "whole")
    logs = [(tmp_path / name / "train.jsonl").read_bytes() for name in ("stopped", "whole")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"full_batch": True, "train_text": False, "batch_size": 5},
        {"cache": "prefix", "group_size": 3},
        {"cache": "off", "train_vision_layers": 4, "learn_temperature": True},
        {
            "temporal": MeanConfig(),
            "train_vision_layers": 3,
            "texts_per_clip": 2,
            "precision": "bf16",
            "temperature": 0.005,
        },
        {
            "temporal": MeanConfig(),
            "precision": "fp16",
            "objective": "sigmoid",
            "interaction": {"name": "fine", "text_units": "tokens"},
            "loss": {"interaction": 0.5},
            "layer_decay": 0.7,
            "keep": "average",
            "average_share": 0.7,
        },
        {
            "train_text": False,
            "keep": "last",
            "keep_by": "loss",
            "objective": "info_nce_multi",
            "interaction": {"name": "mug"},
            "loss": {"interaction": {"weight": 0.5, "start": 0.4}},
        },
        {
            "loss": {"clauses": 1.0, "event_order": {"weight": 0.5, "start": 0.4}},
            "lr_new": 1e-2,
            "micro_batch": 3,
            "keep": "last",
        },
        {
            "acg": AcgConfig(mix=True),
            "interaction": {"name": "caption_guided_mug", "weights": "cross_attention", "start": "open"},
            "loss": {"frame_caption": 0.5, "interaction": 0.5, "direction": 1.0},
            "micro_batch": 4,
        },
    ],
    ids=[
        "cached levels",
        "full batch",
        "cached prefix",
        "all live",
        "mean, bf16",
        "sigmoid, fp16",
        "frozen text",
        "order of events",
        "acg and interaction in chunks",
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(cfg: AdaptConfig, changes: dict, tmp_path: Path) -> None:
    cfg = but(cfg, **changes)
    source, val = ordered(13, 0), ordered(5, 1)
    whole = adapt(cfg, source, val, tmp_path / "whole")
    for stop in (0, 3, 6) if "cache" in changes else (4,):  # before any checkpoint, at one, and between two
        assert not adapt(cfg, source, val, tmp_path / "killed", stop_after=stop).finished
    again = adapt(cfg, source, val, tmp_path / "killed")
    assert (tmp_path / "killed" / "train.jsonl").read_bytes() == (tmp_path / "whole" / "train.jsonl").read_bytes()
    assert (again.model_dir / "model.safetensors").read_bytes() == (whole.model_dir / "model.safetensors").read_bytes()
    assert (again.model_dir / "model.json").read_bytes() == (whole.model_dir / "model.json").read_bytes()
    assert again.finished and not (tmp_path / "killed" / "scratch").exists()


def test_the_log_says_what_happened(cfg: AdaptConfig, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    result = adapt(cfg, ordered(13, 0), ordered(5, 1), tmp_path, progress=lambda *call: calls.append(call))
    log = lines(tmp_path)
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 10))
    assert [line["step"] for line in log if "val" in line] == [0, 3, 6, 9]
    assert all(math.isfinite(line["grad_norm"]) and "gate" in line["gates"] for line in log if "loss" in line)
    val = {line["step"]: line["val"] for line in log if "val" in line}
    assert log[-1]["kept_step"] == result.kept_step == result.best_step in val
    kept = val[result.best_step]
    assert result.val == {"start": val[0], "best": kept, "last": val[9], "kept": kept}
    assert calls[-1][1:] == (9, 9) and any("MB" in what for what, _, _ in calls)
    assert result.cache_bytes == 18 * 2 * 4 * 17 * 64 * 2
    timings = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert timings[0]["prepared"] == 0 and [row["step"] for row in timings[1:]] == list(range(1, 10))
    assert all(row["seconds"] >= row["data_wait_s"] >= 0 for row in timings[1:])


def test_before_the_first_step_it_is_the_backbone(cfg: AdaptConfig, tmp_path: Path) -> None:
    """Rates of nought: the saved model is mean pooling of the untouched backbone."""
    result = adapt(but(cfg, lr=0.0, lr_new=0.0, lr_gate=0.0, steps=2), ordered(8, 0), None, tmp_path)
    model, plain = VideoCLIP.load(result.model_dir), VideoCLIP(load_backbone(cfg.backbone), MeanConfig())
    frames = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_video(frames), plain.encode_video(frames), atol=1e-6, rtol=0)
    assert result.best_step == -1 and result.kept_step == 2 and not result.val


def test_the_backbones_own_bias_learns_and_leaves_with_the_model(cfg: AdaptConfig, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY | {"init_logit_bias": -3.0}}))
    backbone = BackboneConfig(model=f"local-dir:{tmp_path / 'own'}", random_init=True)
    cfg = but(cfg, backbone=backbone, objective="sigmoid", steps=5, keep="last", learn_temperature=True)
    whole = adapt(cfg, ordered(8, 0), None, tmp_path / "whole")
    adapt(cfg, ordered(8, 0), None, tmp_path / "killed", stop_after=4)
    again = adapt(cfg, ordered(8, 0), None, tmp_path / "killed")
    assert (again.model_dir / "model.safetensors").read_bytes() == (whole.model_dir / "model.safetensors").read_bytes()
    assert abs(float(VideoCLIP.load(whole.model_dir).backbone.clip.logit_bias) + 3.0) > 1e-3
    plain = adapt(but(cfg, objective="info_nce", steps=1), ordered(8, 0), None, tmp_path / "plain")
    assert float(VideoCLIP.load(plain.model_dir).backbone.clip.logit_bias) == -3.0


def test_texts_are_cut_to_a_length_and_counted(cfg: AdaptConfig, tmp_path: Path) -> None:
    """Four tokens leave the first two words: both orders of two colours read alike in training and in validation."""
    words = ("red", "green", "blue", "red")
    train = ordered(8, 0)
    train.pairs = [[("en", f"clip {n} {words[n % 4]}", "raw")] for n in range(8)]
    same = ordered(8, 0)
    same.pairs = [[("en", f"clip {n} thing", "raw")] for n in range(8)]
    results, logs = [], []
    for name, source in (("words", train), ("things", same)):
        run = adapt(but(cfg, text_length=4, langs=("en",), steps=3), source, ordered(4, 1), tmp_path / name)
        results.append(run)
        logs.append([line.get("loss") or line.get("val") for line in lines(tmp_path / name)])
    assert logs[0] == logs[1] and [run.num_truncated_texts for run in results] == [8, 8]
    whole = adapt(but(cfg, langs=("en",), steps=3), train, ordered(4, 1), tmp_path / "whole")
    assert whole.num_truncated_texts == 0
    assert [line["loss"] for line in lines(tmp_path / "whole") if "loss" in line] != [
        x for x in logs[0] if isinstance(x, float)
    ]


def test_a_learnt_temperature_moves_and_stays_below_its_bound(
    cfg: AdaptConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By about lr_gate a step; and with a loss that falls with the scale for ever, to CLIP's 100 and no further."""
    cfg = but(cfg, learn_temperature=True, keep="last", lr_gate=1e-2)

    def scale_after(cfg: AdaptConfig, name: str) -> float:
        model = VideoCLIP.load(adapt(cfg, ordered(8, 0), None, tmp_path / name).model_dir)
        return float(model.backbone.logit_scale.detach())

    assert 0.01 < abs(scale_after(cfg, "moved") - math.log(1 / 0.1)) < 0.01 * 9 * 1.5
    monkeypatch.setitem(OBJECTIVES, "rising", lambda logits, *rest: -logits.abs().mean(1))
    assert scale_after(but(cfg, objective="rising", lr_gate=1.0), "bound") == pytest.approx(math.log(100))


def test_only_what_was_named_learns(cfg: AdaptConfig, tmp_path: Path) -> None:
    result = adapt(but(cfg, train_text=False, train_vision_layers=1), ordered(8, 0), None, tmp_path)
    old, new = load_backbone(cfg.backbone).state_dict(), VideoCLIP.load(result.model_dir).backbone.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    last_layer = ("clip.visual.transformer.resblocks.3", "clip.visual.ln_post", "clip.visual.proj")
    assert moved - {"clip.logit_scale"} and all(n.startswith(last_layer) for n in moved - {"clip.logit_scale"})


def test_cached_and_live_learn_alike(cfg: AdaptConfig, tmp_path: Path) -> None:
    """float16 moves the losses by less than a thousandth."""
    losses = []
    for cache in ("off", "prefix", "levels"):
        adapt(but(cfg, cache=cache), ordered(8, 0), None, tmp_path / cache)
        losses.append([line["loss"] for line in lines(tmp_path / cache) if "loss" in line])
    for cached in losses[1:]:
        assert cached == pytest.approx(losses[0], abs=2e-3) and cached != losses[0]


def test_stan_learns_order_that_mean_pooling_cannot(cfg: AdaptConfig, tmp_path: Path) -> None:
    """New clips of the 12 orders of two colours: mean pooling sees pairs, so it finds every second one at best."""
    scores = {}
    for temporal in (MeanConfig(), StanConfig(layers=2, start="matrix", time_std=1.0, drop_path=0.0)):
        tuned = but(cfg, temporal=temporal, steps=80, batch_size=16, lr=1e-3, lr_floor=1.0)
        tuned = but(tuned, train_vision_layers=1, val_every_steps=40)
        scores[temporal.name] = adapt(tuned, ordered(96, 0), every_order(3), tmp_path / temporal.name).val["best"][
            "en_t2v_r1"
        ]
    assert scores["stan"] > 0.7 and scores["mean"] < 0.65, scores


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr_new": 1e30, "lr_gate": 1e30}, r"step \d.*adapt\.lr_new"),
        ({"objective": "none"}, "info_nce"),
        ({"train_vision_layers": 9}, "adapt.train_vision_layers is 9.* 4 "),
        ({"train_vision_layers": 4, "cache": "prefix"}, "adapt.cache=prefix.*adapt.train_vision_layers"),
        ({"train_vision_layers": 1, "cache": "levels"}, "adapt.cache=levels.*adapt.train_vision_layers"),
        ({"langs": ("fr",)}, "clip 'clip0' has no text in fr"),
        ({"text_length": 17}, r"adapt\.text_length is 17.*16 tokens"),
    ],
)
def test_faults_are_named(cfg: AdaptConfig, changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=words):
        adapt(but(cfg, **changes), ordered(8, 0), None, tmp_path)


def test_clips_without_frames_and_too_few_clips_are_named(cfg: AdaptConfig, tmp_path: Path) -> None:
    source = ordered(8, 0)
    source.jpegs[5] = []
    with pytest.raises(M2raapError, match="clip 'clip5'"):
        adapt(cfg, source, None, tmp_path)
    with pytest.raises(M2raapError, match="at least 2 clips"):
        adapt(cfg, ListSource([], [], []), None, tmp_path)


def test_a_checkpoint_of_other_data_is_refused(cfg: AdaptConfig, tmp_path: Path) -> None:
    adapt(cfg, ordered(8, 0), None, tmp_path, stop_after=5)
    with pytest.raises(M2raapError, match=r"checkpoint-00000004\.pt"):
        adapt(cfg, ordered(8, 2), None, tmp_path)


def test_a_run_resumes_with_another_how(cfg: AdaptConfig, tmp_path: Path) -> None:
    whole = adapt(cfg, ordered(8, 0), None, tmp_path / "whole")
    adapt(cfg, ordered(8, 0), None, tmp_path / "killed", stop_after=5)
    again = adapt(but(cfg, checkpoint_every_steps=2, decoders=3), ordered(8, 0), None, tmp_path / "killed")
    assert (again.model_dir / "model.safetensors").read_bytes() == (whole.model_dir / "model.safetensors").read_bytes()
    timings = [json.loads(line) for line in (tmp_path / "killed" / "timings.jsonl").read_text().splitlines()]
    assert [row["prepared"] for row in timings if "prepared" in row] == [0, 4], (
        "it went on from the checkpoint of step 4"
    )


def test_low_rank_updates_learn_and_leave_a_plain_model(cfg: AdaptConfig, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    cfg = but(cfg, lora=LoraConfig(rank=2), train_vision_layers=2, steps=4, val_every_steps=2, lr_new=1e-2, keep="last")
    whole = adapt(cfg, ordered(8, 0), ordered(3, 1), tmp_path / "whole")
    adapt(cfg, ordered(8, 0), ordered(3, 1), tmp_path / "killed", stop_after=4)
    again = adapt(cfg, ordered(8, 0), ordered(3, 1), tmp_path / "killed")
    assert (again.model_dir / "model.safetensors").read_bytes() == (whole.model_dir / "model.safetensors").read_bytes()
    old, new = load_backbone(cfg.backbone).state_dict(), VideoCLIP.load(whole.model_dir).backbone.state_dict()
    moved = {name.removeprefix("clip.") for name in old if not torch.equal(old[name], new[name])} - {"logit_scale"}
    blocks = ["visual.transformer.resblocks.2", "visual.transformer.resblocks.3"]
    blocks += [f"transformer.resblocks.{i}" for i in range(3)]
    assert moved == {f"{block}.mlp.{part}.weight" for block in blocks for part in ("c_fc", "c_proj")}
    difference = new["clip." + sorted(moved)[0]] - old["clip." + sorted(moved)[0]]
    assert torch.linalg.matrix_rank(difference, atol=1e-5) == 2


def test_low_rank_updates_that_cannot_be_are_named(
    cfg: AdaptConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"adapt\.lora.*adapt\.train_vision_layers"):
        but(cfg, lora=LoraConfig(), train_text=False)
    if importlib.util.find_spec("peft"):
        with pytest.raises(M2raapError, match=r"adapt\.lora\.targets.*c_fc, c_proj"):
            adapt(but(cfg, lora=LoraConfig(targets=("qkv",))), ordered(8, 0), None, tmp_path / "a")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(M2raapError, match=r"pip install 'm2raap\[lora\]'"):
        adapt(but(cfg, lora=LoraConfig()), ordered(8, 0), None, tmp_path / "b")


def test_chinese_for_an_english_tokenizer_is_a_warning(
    cfg: AdaptConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for langs, warned in ((("en", "zh"), True), (("en",), False)):
        adapt(but(cfg, langs=langs), ordered(8, 0), None, tmp_path / langs[-1], stop_after=0)
        stderr_text = capsys.readouterr().err
        assert ("8 clips have Chinese texts" in stderr_text and "Chinese-CLIP" in stderr_text) is warned
    assert not load_backbone(BackboneConfig()).english_only


def test_settings_that_learn_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"adapt\.train_text"):
        AdaptConfig(temporal=MeanConfig(), train_text=False)
    with pytest.raises(ValueError, match=r"adapt\.origin_odds"):
        AdaptConfig(origin_odds=dict.fromkeys(("raw", "rewrite", "translation", "aux"), 0.0))
