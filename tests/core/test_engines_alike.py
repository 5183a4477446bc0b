"""Two workers, and Ray, write the same bytes as one process; the failures of Ray are error messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from m2raap.core.engine import Engine, LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.folder import read_timings
from m2raap.core.runner import run_data_stage
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.core.stage import StepInputs
from m2raap.core.view import View
from m2raap.cotrain.config import CotrainConfig
from m2raap.models.config import BackboneConfig, MugConfig, StanConfig
from m2raap.pipeline.recipe import load_recipe
from m2raap.search.index import make_index
from m2raap.stages import cotrain
from m2raap.stages.embed import EmbedConfig, EmbedStage
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.stages.rerank import RerankConfig
from tests.annotate.made import fit_of, made_job
from tests.conftest import digests
from tests.search.world import TINY, index_of, rows, view_of
from tests.stages.adapted import drawn_benchmark

SMALL = Path(__file__).parent.parent / "small.yaml"


def refuse(task: int) -> int:
    if task == 3:
        raise M2raapError("clip 3: is not what it says")
    return task


def start(name: str, folder: Path) -> Engine:
    if name == "two workers":
        return LocalEngine(2)
    if find_spec("ray") is None:
        pytest.skip("Ray is an extra: pip install 'm2raap[ray]'")
    from m2raap.core.ray_engine import RayEngine

    # Started in a folder with Python files of somebody else: no worker may import them.
    for module in ("m2raap", "numpy", "random", "pickle"):
        (folder / f"{module}.py").write_text("raise SystemExit('the Python of a stranger was run')\n")
    with contextlib.chdir(folder):
        return RayEngine(2)


@pytest.fixture(scope="module", params=["two workers", "ray"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Of one process that imports the libraries once: starting the workers takes longer than all their work here."""
    started = start(request.param, tmp_path_factory.mktemp("theirs"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the inputs lie, and what one process made of them in `alone`; all engines write beside it."""
    return tmp_path_factory.mktemp("engines")


def curated(engine: Engine, small_world: Path, out: Path) -> None:
    recipe, view = load_recipe(str(SMALL), [], None), View(small_world / "train").limited(12)
    for name in ("filter", "keyframes"):
        run_data_stage(recipe.stage(name), view, out / name, engine)
        view = view.over(out / name)


def test_filter_and_keyframes(engine: Engine, small_world: Path, home: Path):
    if not (home / "alone" / "keyframes").exists():
        curated(LocalEngine(1), small_world, home / "alone")
    curated(engine, small_world, out := home / type(engine).__name__)
    for stage in ("filter", "keyframes"):
        assert digests(out / stage) == digests(home / "alone" / stage)
    assert any(name.startswith("signals") for name in digests(out / "filter"))


def test_cotrain(engine: Engine, small_world: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    """In shares of 8 clips, of which a window has two, by workers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    keyframes = KeyframesStage(KeyframesConfig(k=2, short_side_px=48, senses=("motion",)))
    view = View(small_world / "train").limited(24)
    run_data_stage(keyframes, view, home / "K", LocalEngine(1))
    cfg = CotrainConfig(
        backbone=BackboneConfig(model="builtin:tiny"), temporal=StanConfig(layers=1), num_frames=2,
        senses=("motion",), texts=("zh",), rounds=2, coarse=2, fine=2, batch_size=8, threads=1, window=16,
    )  # fmt: skip
    alone, out = home / "alone" / "cotrain", home / type(engine).__name__ / "cotrain"
    for folder, mapped in ((alone, LocalEngine(1)), (out, engine)):
        if not folder.exists():
            assert cotrain.CotrainStage(cfg).run(StepInputs(view.over(home / "K"), folder, mapped))
        monkeypatch.setattr(cotrain, "SHARE_CLIPS", 8)
    for file in ("train.jsonl", cotrain.CLUSTERS, PAIR_SIGNALS, "model/model.safetensors"):
        assert (out / file).read_bytes() == (alone / file).read_bytes()


def test_fitting_a_tagger(engine: Engine, home: Path):
    alone, out = home / "alone" / "tagger", home / type(engine).__name__ / "tagger"
    for folder, mapped in ((alone, LocalEngine(1)), (out, engine)):
        if not folder.exists():
            fit_of(made_job(folder, num_clips=120, rounds=1, shared_steps=2), mapped)
    assert digests(out / "tagger") == digests(alone / "tagger")


def test_embed(engine: Engine, home: Path):
    stage = EmbedStage(
        EmbedConfig(frame_ablations=("reversed",), rerank=RerankConfig(interaction=MugConfig(start="open")))
    )
    alone, out = home / "alone" / "embed", home / type(engine).__name__ / "embed"
    view = (
        drawn_benchmark(home, num=2, num_parts=3)
        if not alone.exists()
        else View(home / "bench").over(home / "keyframes")
    )
    for folder, mapped in ((alone, None), (out, engine)):
        if not folder.exists():
            assert stage.run_on(view, BackboneConfig(), folder, engine=mapped)
    assert digests(out) == digests(alone) and not engine.has_gpus()
    assert {row.get("device") for row in read_timings(out)} == {"cpu", None}


def test_index(engine: Engine, home: Path):
    """Made of four clips, then two more are added: as one that was made of six at once by one process."""
    alone, place = home / "index of one process", home / f"index of {type(engine).__name__}"
    if not alone.exists():
        index_of(alone, rows(6))
    index_of(place, rows(4), engine=engine)
    counts = make_index(place / "index", view_of(place, rows(6)), TINY, add=True, engine=engine)
    assert (counts["embedded"], counts["kept"]) == (2, 4) and digests(place / "index") == digests(alone / "index")


def test_an_error_of_a_task_comes_back_as_itself(engine: Engine):
    with pytest.raises(M2raapError, match="clip 3: is not what it says"):
        dict(engine.map(refuse, list(range(6))))


def test_every_task_is_answered_once(engine: Engine):
    assert dict(engine.map(refuse, [5, 6, 7, 8, 9, 10, 11])) == {i: i + 5 for i in range(7)}
