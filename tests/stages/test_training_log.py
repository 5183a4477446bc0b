import json
import os
from pathlib import Path

import pytest

from m2raap.core.errors import M2raapError
from m2raap.stages.training_log import kept_text, last_step, training_curves, training_summary


def summary_of(folder: Path, lines: list[dict]) -> dict:
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return training_summary(folder)


def val(mrr: float) -> dict[str, float]:
    return {"mrr": mrr, "r1": mrr / 2, "loss": 1 - mrr, "en_t2v_mrr": mrr}


STEPS = [{"step": step, "loss": 3.0 - step, "gates": {"out": step / 4}} for step in (1, 2)]


def test_a_log_of_today(tmp_path: Path) -> None:
    start, first, last = (
        {"step": step, "val": val(mrr), "best_step": min(step, 1)} for step, mrr in ((0, 0.25), (1, 0.5), (2, 0.375))
    )
    lines = [start, STEPS[0], first, STEPS[1], last, {"step": 2, "kept_step": 1, "gates": {"out": 0.25}}]
    assert summary_of(tmp_path, lines) == {
        "steps": 2, "last_loss": 1.0, "kept_step": 1, "gates": {"out": 0.25}, "best_step": 1,
        "val_start": val(0.25), "val_kept": val(0.5), "val_last": val(0.375),
    }  # fmt: skip
    assert kept_text(training_summary(tmp_path)) == (
        "kept step 1 of 2; val MRR x 100 25.0 at the start, 50.0 kept, 37.5 last"
    )
    assert training_curves(tmp_path).val == {
        "mrr": [(0.0, 0.25), (1.0, 0.5), (2.0, 0.375)],
        "r1": [(0.0, 0.125), (1.0, 0.25), (2.0, 0.1875)],
        "loss": [(0.0, 0.75), (1.0, 0.5), (2.0, 0.625)],
    }


def test_a_log_of_averaged_weights(tmp_path: Path) -> None:
    """The scores of the mean are those that were kept, and no point of the curves."""
    start, last = ({"step": step, "val": val(mrr), "best_step": step} for step, mrr in ((0, 0.25), (2, 0.375)))
    end = {"step": 2, "kept_step": 2, "averaged": 3, "gates": {"out": 0.75}, "val": val(0.5)}
    summary = summary_of(tmp_path, [start, *STEPS, last, end])
    assert (summary["val_kept"], summary["val_last"], summary["gates"]) == (val(0.5), val(0.375), {"out": 0.75})
    assert kept_text(summary) == (
        "kept step 2 of 2, the mean of 3 checkpoints; val MRR x 100 25.0 at the start, 50.0 kept, 37.5 last"
    )
    assert [step for step, _ in training_curves(tmp_path).val["mrr"]] == [0, 2]


def test_a_log_without_val_clips(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, [*STEPS, {"step": 2, "kept_step": 2, "gates": {"out": 0.5}}])
    assert summary == {"steps": 2, "last_loss": 1.0, "kept_step": 2, "gates": {"out": 0.5}}
    assert kept_text(summary) == "kept step 2 of 2; there are no val clips to choose by"
    assert not training_curves(tmp_path).val


def test_a_log_of_an_earlier_version(tmp_path: Path) -> None:
    """It has R@1 alone and no line at the end; the first of equally high ones was kept."""
    rows = [{"step": step, "val_r1": {"en": r1, "mean": r1}} for step, r1 in ((0, 0.25), (1, 0.5), (2, 0.5))]
    summary = summary_of(tmp_path, [rows[0], STEPS[0], rows[1], STEPS[1], rows[2]])
    assert (summary["best_step"], summary["kept_step"], summary["gates"]) == (1, 1, {"out": 0.25})
    assert kept_text(summary) == "kept step 1 of 2; val R@1 25.0 at the start, 50.0 kept, 50.0 last"
    assert training_curves(tmp_path).val == {"r1": [(0.0, 0.25), (1.0, 0.5), (2.0, 0.5)]}
    assert summary_of(tmp_path, STEPS)["kept_step"] == 2


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path):
    assert last_step(tmp_path) is None
    (tmp_path / "train.jsonl").write_bytes(
        b'{"loss": 1, "step": 3}\n' + b'{"step": 12, "loss": 2}\n' * 9000 + b'{"step": 13'
    )
    assert last_step(tmp_path) == 12
    (tmp_path / "train.jsonl").unlink()
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(M2raapError, match="train.jsonl"):  # and does not wait for somebody to write into the pipe
        last_step(tmp_path)
