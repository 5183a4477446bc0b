from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from m2raap.core.tables import write_part
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import ProgressiveRow
from m2raap.report.protocols import NO_PROTOCOL, Protocols, marked, protocol_rows
from m2raap.report.report import difference_rows, evaluations_of
from tests.conftest import sign_again
from tests.stages.embedded import FRAMES, write_run

UNIFORM = "uniform-12, short side 256 px (4567)"
SMALL = {"num": 12, "langs": ("en",)}


def test_every_arm_under_its_own_protocol(tmp_path: Path) -> None:
    """Arms of one protocol share a row, whatever their models; another choice of frames has a row of its own, and is named."""
    arms = {
        "a": {**SMALL, "lost": 2},
        "b": {**SMALL, "lost": 2, "seed": 1},
        "b~1": {**SMALL, "lost": 2, "seed": 2},
        "uniform": {**SMALL, "lost": 2, "made_with": {"frames": UNIFORM}},
        "old": {**SMALL, "lost": 2},
    }
    run = RunFolder.open(write_run(tmp_path, arms))
    old = tmp_path / "old" / "bench-clips" / "evaluate" / "results.json"
    tree = json.loads(old.read_text())
    old.write_text(
        json.dumps({k: v for k, v in tree.items() if k != "compat"} | {"protocol": tree["protocol"]["name"]})
    )
    sign_again(old.parent)
    missing = {"stage": "keyframes", "reason": "no_video_stream", "rule_version": "1"}
    write_part(tmp_path / "corpus", "missing", 0, [missing | {"clip_id": "v001", "text_id": None}])

    done = evaluations_of(run.steps)
    rows = protocol_rows(done, run.steps, {"clips": tmp_path / "corpus"})
    assert [(row.name, row.arms) for row in rows] == [("A", ["a", "b"]), ("B", ["uniform"]), ("C", ["old"])]
    assert [row.protocol and row.protocol["frames"] for row in rows] == [FRAMES, UNIFORM, None]
    assert rows[0].models == {"a": "model0", "b": "model1", "b~1": "model2"}
    assert all(row.missing == {"v000": "", "v001": "no_video_stream"} for row in rows)

    protocols = Protocols.of(done)
    assert protocols.unlike("a", "b", "clips") == []
    assert protocols.unlike("b", "uniform", "clips") == [f"frames: {FRAMES} and {UNIFORM}"]
    assert protocols.unlike("a", "old", "clips") == [NO_PROTOCOL]
    recipe = Recipe.model_validate({"name": "r", "arms": {arm: {} for arm in ("a", "b", "uniform", "old")}})
    found = {row.arm_b: row.unlike for row in difference_rows(done, protocols, recipe, "a") if row.direction == "t2v"}
    assert found == {"b": [], "uniform": [f"frames: {FRAMES} and {UNIFORM}"], "old": [NO_PROTOCOL]}


def test_a_step_of_the_progressive_table_to_another_protocol_is_marked(tmp_path: Path) -> None:
    arms = {
        "a": SMALL,
        "b": {**SMALL, "made_with": {"frames": UNIFORM}},
        "c": {**SMALL, "made_with": {"frames": UNIFORM}},
    }
    run = RunFolder.open(write_run(tmp_path, arms))
    row = ProgressiveRow(
        "a", "", "clips", "en", 1.0, [0.0, 2.0], [1.0], None, None, 5.0, [4.0, 6.0], None, 1, 1, 0.0, 0.0
    )
    rows = [row, replace(row, arm="b"), replace(row, arm="b", way="rerank"), replace(row, arm="c")]
    found = marked(rows, Protocols.of(evaluations_of(run.steps)))
    assert [(bool(one.unlike), bool(one.unlike_whole)) for one in found] == [
        (False, False), (True, True), (False, True), (False, True),
    ]  # fmt: skip
