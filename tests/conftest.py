"""Shared pieces: a small world, made once a session, and the bytes of a folder that have to be the same again."""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import gc
import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Two test processes share two cores: more threads only make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pytest_plugins = ["tests.runs"]
SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SMALL_WORLD = ["train_clips=48", "val_clips=10", "test_clips=12"]
LONG = (
    "tests/stages/test_chain.py",
    "tests/test_readme.py",
    "tests/stages/test_two_writers.py",
    "tests/export/test_forget.py",
    "tests/adapt/test_loop.py",
    "tests/pipeline/test_recipes_for_real_use.py",
    "tests/curate/test_llm_models.py",
    "tests/core/test_stage.py",
    "tests/core/test_engines_alike.py",
    "tests/export/test_model_export.py",
    "tests/search/test_page.py",
)
# What may differ from run to run: times, caches, and the map and report that show them.
TRANSIENT = ("timings.jsonl", "cache", "report", "run.json", "scratch", "tensorboard")


def m2raap(
    *words: object, check: int | None = 0, process: bool = False, cwd: Path | str = ".", **options
) -> subprocess.CompletedProcess[str]:
    """The command line: in this process, which spares it the imports, or in one of its own where that matters."""
    command = ["m2raap", *map(str, words)]
    if process or options:
        module = [sys.executable, "-m", "m2raap.cli.main", *command[1:]]
        done = subprocess.run(module, capture_output=True, text=True, timeout=110, cwd=cwd, **options)
    else:
        done = _here(command, cwd)
    if check is not None:
        assert done.returncode == check, (
            f"{words} ended with {done.returncode}, not {check}:\n{done.stdout}\n{done.stderr}"
        )
    return done


def _here(command: list[str], cwd: Path | str) -> subprocess.CompletedProcess[str]:
    from m2raap.cli import main
    from m2raap.core import engine

    out, talk = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
        patched.chdir(cwd)
        patched.setattr(sys, "argv", command)
        # The other core is the other test process's: worker processes where a test says --workers.
        patched.setattr(engine, "available_cores", lambda: 1)
        code = main.run_command_line()
    return subprocess.CompletedProcess(command, code, out.getvalue(), talk.getvalue())


@pytest.fixture(scope="session", autouse=True)
def _bugs_stop_the_tests() -> Iterator[None]:
    """A bug in the decoder's process raises an error in the tests; for users the file is one refused video."""
    from m2raap.video.worker import VideoWorker

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(VideoWorker, "stop_at_bugs", True)
        yield


def sign_again(folder: Path, **changes: object) -> None:
    """Makes the manifest of a folder fit its files as they are now, with other values of some keys: as its author could."""
    from m2raap.core.files import file_sha256, read_json, write_json
    from m2raap.core.signed import digest_of, signed_path

    manifest = read_json(folder / "manifest.json") | changes
    paths = {key: signed_path(folder, key) for key in manifest["files"]}
    manifest["files"] |= {key: file_sha256(path) for key, path in paths.items() if path.is_file()}
    write_json(folder / "manifest.json", manifest | {"digest": digest_of(manifest)})


def as_another_command(work: Callable[[], object]) -> object:
    """Runs `work` as a command beside the running one would: it holds none of the locks of its caller."""
    return contextvars.Context().run(work)


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder` that must not change."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(TRANSIENT)
    }


@pytest.fixture(scope="session", autouse=True)
def user_of_the_tests(tmp_path_factory) -> None:
    """What the tests say as a user of this machine stays among them; corpora below their folder may be copied about."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["XDG_STATE_HOME"] = str(base / "state")
    os.environ["M2RAAP_VIDEO_ROOTS"] = str(base)


@pytest.fixture(scope="session", autouse=True)
def no_power_cuts() -> Iterator[None]:
    """A killed process loses nothing that it wrote: only a power cut does, and no test has one. Waiting for the disk is long."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """The garbage collector looks at no object that is older than the file of tests: the libraries alone make a million."""
    gc.freeze()


@pytest.fixture(autouse=True)
def talkative() -> None:
    """A command of another test, in this process, may have been run with --quiet."""
    from m2raap.core import talk

    talk.be_quiet(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The random weights and inputs of a test do not depend on the tests that ran before it in this process."""
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)  # of the CPU alone, which takes a thousandth of the time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process is left alone with one at the end."""
    home = Path(__file__).parent.parent
    assert all((home / name).exists() for name in LONG)
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled, made by the first test process that wants it and read by all. Read only."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once" / name
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.with_suffix(".made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


@pytest.fixture(scope="session")
def small_world(tmp_path_factory) -> Path:
    """OUT of `data import world`: train/ and test/ corpora, videos/, truth.parquet. Read only."""

    def make(folder: Path) -> None:
        settings = [word for item in SMALL_WORLD for word in ("--set", item)]
        m2raap("data", "import", "world", "--out", folder / "W", *settings)

    return made_once(tmp_path_factory, "world", make) / "W"


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real annotation lists are not at {SHARED_DATA.name}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def media_sources(tmp_path_factory):
    """The sound clips that bad media are made from; its folders `corpus` and `canary` lie beside them."""
    from tests.video.bad_media.case import Sources
    from tests.video.bad_media.corpus import write_canary, write_corpus
    from tests.video.bad_media.sources import make_sources

    folder = tmp_path_factory.mktemp("media")
    sources = Sources(folder / "sources", folder / "canary")
    make_sources(sources.folder)
    write_canary(sources.canary, sources)
    write_corpus(folder / "corpus", sources)
    return sources


@pytest.fixture(scope="session")
def bad_media(media_sources) -> Path:
    return media_sources.folder.parent / "corpus"
