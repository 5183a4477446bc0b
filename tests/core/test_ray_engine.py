"""Ray computes the same bytes as the local engine, and its failures are error messages."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.folder import read_timings
from m2raap.core.runner import run_data_stage
from m2raap.core.stage import StepInputs
from m2raap.core.view import View
from m2raap.cotrain.config import CotrainConfig
from m2raap.models.config import BackboneConfig, StanConfig
from m2raap.pipeline.recipe import load_recipe
from m2raap.stages import cotrain
from m2raap.stages.embed import EmbedConfig, EmbedStage
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from tests.conftest import digests
from tests.stages.adapted import drawn_benchmark

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: pip install 'm2raap[ray]'")
SMALL = Path(__file__).parent.parent / "small.yaml"


def refuse(task: int) -> int:
    if task == 3:
        raise M2raapError("clip 3: is not what it says")
    return task


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Started in a folder with Python files of somebody else: no worker may import them."""
    from m2raap.core.ray_engine import RayEngine

    folder = tmp_path_factory.mktemp("theirs")
    for name in ("m2raap", "numpy", "random", "pickle"):
        (folder / f"{name}.py").write_text("raise SystemExit('the Python of a stranger was run')\n")
    with contextlib.chdir(folder):
        ray_engine = RayEngine(2)
    yield ray_engine
    ray_engine.close()


def test_filter_and_keyframes_make_the_same_bytes(engine, small_world: Path, tmp_path: Path):
    recipe = load_recipe(str(SMALL), [], None)
    local = LocalEngine(1)
    views = {"ray": View(small_world / "train").limited(12), "local": View(small_world / "train").limited(12)}
    for stage in ("filter", "keyframes"):
        for name, mapped in (("ray", engine), ("local", local)):
            folder = tmp_path / name / stage
            run_data_stage(recipe.stage(stage), views[name], folder, mapped)
            views[name] = views[name].over(folder)
        ray_digests = digests(tmp_path / "ray" / stage)
        assert ray_digests == digests(tmp_path / "local" / stage)
        assert any(name.startswith("signals") for name in ray_digests)


def test_cotrain_makes_the_same_bytes(engine, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cotrain, "SHARE_CLIPS", 8)
    keyframes = KeyframesStage(KeyframesConfig(k=2, short_side_px=48, senses=("motion",)))
    view = View(small_world / "train").limited(16)
    run_data_stage(keyframes, view, tmp_path / "K", LocalEngine(1))
    cfg = CotrainConfig(
        backbone=BackboneConfig(model="builtin:tiny"), temporal=StanConfig(layers=1), senses=("motion",), num_frames=2, rounds=1,
        coarse=2, fine=2, batch_size=8, threads=1,
    )  # fmt: skip
    for name, mapped in (("ray", engine), ("local", LocalEngine(1))):
        step = StepInputs(view.over(tmp_path / "K"), tmp_path / name, mapped)
        assert cotrain.CotrainStage(cfg).run(step)
    for file in ("train.jsonl", cotrain.CLUSTERS, "model/model.safetensors"):
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()


def test_embed_makes_the_same_bytes(engine, tmp_path: Path):
    view, stage = drawn_benchmark(tmp_path, num=2), EmbedStage(EmbedConfig())
    for name, mapped in (("ray", engine), ("local", LocalEngine(1))):
        assert stage.run_on(view, BackboneConfig(), tmp_path / name, engine=mapped)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local") and not engine.has_gpus()
    assert {row.get("device") for row in read_timings(tmp_path / "ray")} == {"cpu", None}


def test_an_error_of_a_task_comes_back_as_itself(engine):
    with pytest.raises(M2raapError, match="clip 3: is not what it says"):
        dict(engine.map(refuse, list(range(6))))


def test_every_task_is_answered_once(engine):
    assert dict(engine.map(refuse, [5, 6, 7, 8, 9, 10, 11])) == {i: i + 5 for i in range(7)}
