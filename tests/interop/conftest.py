"""A benchmark of drawn clips, evaluated by the command line in this process: the expected results of every other way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from m2raap.cli.main import app
from m2raap.core.corpus import open_corpus, write_corpus
from m2raap.core.view import View

NUM, FRAMES = 6, 4


def m2raap_here(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="session")
def bench(small_world: Path, tmp_path_factory) -> View:
    """Six clips of the world's benchmark."""
    world = open_corpus(small_world / "test")
    clips = sorted(world.all_rows("clips"), key=lambda row: row["clip_id"])[:NUM]
    texts = [row for row in world.all_rows("texts") if row["clip_id"] in {clip["clip_id"] for clip in clips}]
    out = tmp_path_factory.mktemp("bench") / "C"
    write_corpus(out, clips, texts, video_root=world.video_root, source={}, benchmark="custom", num_parts=1)
    return View(out)


@pytest.fixture(scope="session")
def chain(bench: View, tmp_path_factory) -> Path:
    """keyframes/, embed/ and evaluate/ of the benchmark and the bare tiny model."""
    out = tmp_path_factory.mktemp("chain")
    m2raap_here(
        "keyframes", bench.corpus_path, "--out", out / "keyframes", "--workers", 1, "--set", f"keyframes.k={FRAMES}"
    )
    m2raap_here("embed", out / "keyframes", "--out", out / "embed")
    m2raap_here("evaluate", out / "embed", "--out", out / "evaluate")
    return out


@pytest.fixture(scope="session")
def results(chain: Path) -> dict[str, Any]:
    return json.loads((chain / "evaluate" / "results.json").read_text(encoding="utf-8"))
