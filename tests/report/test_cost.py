import io
import json
from pathlib import Path

import pytest
import torch

from m2raap.core.files import write_json
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.pipeline.plan import plan
from m2raap.pipeline.recipe import Recipe, arms_of, load_recipe
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.console import print_modules
from m2raap.report.cost import cost_of_run, read_costs
from m2raap.report.data import ReportData
from m2raap.report.html import write_report
from tests.conftest import sign_again
from tests.pipeline.test_train_cost import SMALL

torch.set_num_threads(1)


def test_modules_are_priced_beside_mean_pooling_with_the_gates_that_were_kept(tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    tree = {
        "name": "r",
        "backbone": {"model": f"local-dir:{tmp_path}", "random_init": True},
        "adapt": {"temporal": {"name": "stan", "layers": 2}, "num_frames": 3, "acg": {}, "train_text": False},
        "arms": {"zero_shot": {"stages": []}, "stan": {}, "again": {"seed": 1}},
    }
    run = tmp_path / "run"
    step = {
        "arm": "stan",
        "owner": "stan",
        "stage": "adapt",
        "bench": None,
        "folder": "stan/adapt",
        "parents": [],
        "model": None,
    }
    others = [step | {"arm": arm, "owner": arm, "folder": f"{arm}/adapt"} for arm in ("zero_shot", "again")]
    inputs = {"kind": "run", "data": "none", "digests": {}, "benches": {}, "limit": None, "scores": []}
    write_json(run / "run.json", {**inputs, "recipe": tree, "steps": [others[0], step, others[1]]})
    (run / "stan" / "adapt").mkdir(parents=True)
    kept = {"step": 5, "loss": 1.0, "gates": {"out": 0.25, "acg_inter": 0.5}}
    last = {"step": 9, "loss": 1.0, "gates": {"out": 0.75, "acg_inter": 0.75}}
    scores = [{"step": step, "val_r1": {"mean": mean}} for step, mean in ((0, 0.1), (5, 0.3), (9, 0.2))]
    lines = [scores[0], kept, scores[1], last, scores[2]]
    (run / "stan" / "adapt" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    empty: dict[str, dict[str, str]] = {key: {} for key in ("settings", "inputs", "counts", "models")}
    manifest = {"kind": "stage", "stage": "adapt", "version": 1, "files": {"train.jsonl": ""}, **empty}
    write_json(run / "stan" / "adapt" / "manifest.json", manifest)
    sign_again(run / "stan" / "adapt")

    zero_shot, stan, again = rows = cost_of_run(RunFolder.open(run), threads=1)
    one = Recipe.model_validate(tree)
    backbone = load_backbone(one.backbone)
    model = VideoCLIP(backbone, one.adapt.temporal, one.adapt.acg)
    new = sum(p.numel() for p in model.temporal.parameters()) + 3  # ACG's gates
    assert (stan.module, stan.new_m * 1e6, stan.learning_m * 1e6) == (
        "stan + acg",
        pytest.approx(new),
        pytest.approx(new),
    )
    assert zero_shot.new_m == 0 and zero_shot.gflop == zero_shot.mean_gflop == stan.mean_gflop < stan.gflop
    assert (again.gflop, again.ms) == (stan.gflop, stan.ms) and stan.ms > 0
    assert stan.gates == {"out": 0.25, "acg_inter": 0.5} and not again.gates
    assert read_costs(run) == rows and read_costs(tmp_path) == []

    said = io.StringIO()
    print_modules(rows, said)
    assert "out 0.25, acg_inter 0.5" in said.getvalue() and "1 thread" in said.getvalue()
    write_report(ReportData("t", False, modules=rows), run / "report.html", run / "report.json")
    assert (
        "What the modules cost" in (run / "report.html").read_text()
        and "acg_inter 0.500" in (run / "report.html").read_text()
    )
    assert json.loads((run / "report.json").read_text())["modules"][1]["gates"]["out"] == 0.25


def test_uniform_frames_at_test_share_the_training(tmp_path: Path):
    recipe = load_recipe("frame_ablations")
    steps = plan(recipe, tmp_path, "corpus", {"b": "bench"})
    owner = {(step.arm, step.stage, step.bench): step.owner for step in steps}
    assert owner["uniform_at_test", "adapt", None] == "keyframes_at_test"
    for stage in ("keyframes", "embed", "evaluate"):
        assert owner["uniform_at_test", stage, "b"] == "uniform_at_test"
    uniform = arms_of(recipe)["uniform_at_test"].bench_keyframes
    assert uniform is not None and (uniform.strategy, uniform.k) == ("uniform", 8)
