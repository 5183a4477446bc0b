"""Every command of the README is run, in the README's order, in one folder. Scales that differ from the README are in SCALE."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.view import View
from m2raap.pipeline.recipe import load_recipe
from tests.conftest import SHARED_DATA, m2raap

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What the test adds to a command so that it ends in seconds. The small world holds more broken files than 5%.
SMALLER = [word for item in ("keyframes.k=4", "adapt.steps=2", "adapt.batch_size=8") for word in ("--set", item)]
SCALE = {
    "data import table": ["--holdout", 12],
    "run panda": [*SMALLER, "--allow-refused", "100%"],
}
NUM_CLIPS = 28  # of the small world's 48


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    inline = re.findall(r"`(m2raap (?:filter|keyframes) \w+ --out \w+)`", README)
    return [shlex.split(line, comments=True) for line in (*lines, *inline)]


@pytest.fixture(scope="module")
def folder(small_world: Path, tmp_path_factory) -> Path:
    """Where a reader of the README would stand: captions.jsonl, videos/, MSRVTT/ and sim.npy."""
    here = tmp_path_factory.mktemp("readme")
    corpus = View(small_world / "train").corpus
    texts = {row["clip_id"]: row["text"] for row in corpus.all_rows("texts") if row["lang"] == "en"}
    (here / "videos").mkdir()
    rows = []
    for number, clip in enumerate(sorted(corpus.all_rows("clips"), key=lambda row: row["clip_id"])[:NUM_CLIPS]):
        name = f"clip_{number:03d}.mp4"
        shutil.copy(corpus.video_root / clip["video"], here / "videos" / name)
        rows.append({"video": name, "caption": texts[clip["clip_id"]]})
    (here / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(here / "sim.npy", np.eye(6) + 0.1)
    (here / "ids.txt").write_text("clip_003\n")
    return here


def test_the_readme_names_the_two_commands():
    assert ["make", "demo"] in commands() and ["make", "test"] in commands()
    assert len(commands()) >= 12


def test_commands_of_the_readme_run(folder: Path):
    for words in commands():
        shown = " ".join(words)
        if words[0] == "make":
            dry = subprocess.run(
                ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            assert ("m2raap run demo" if words[1] == "demo" else "pytest") in dry
            continue
        assert words[0] == "m2raap", f"the README has a command that this test does not know: {shown}"
        if "msrvtt" in words:
            if not SHARED_DATA.is_dir():
                continue  # the lists may not be copied here; test_table.py skips and says so
            words = [str(SHARED_DATA / "msrvtt") if word == "MSRVTT" else word for word in words]
        scale = next((more for start, more in SCALE.items() if shown.startswith(f"m2raap {start}")), [])
        m2raap(*words[1:], *scale, cwd=folder)
        report = folder / "R" / "report" / "report.html"
        if shown.startswith("m2raap run panda"):
            assert report.is_file()
    assert not report.exists(), "forget takes the report away: it may show forgotten clips"
    assert not (folder / "R2").exists(), "a dry run does nothing"


def test_python_of_the_readme_runs(folder: Path, monkeypatch):
    if not (folder / "R" / "adapt").exists():
        pytest.skip("the commands of the README did not run in this process")
    monkeypatch.chdir(folder)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_recipes_of_the_readme_parse(tmp_path: Path):
    found = {}
    for number, text in enumerate(blocks("yaml")):
        (tmp_path / f"{number}.yaml").write_text(text)
        loaded = load_recipe(str(tmp_path / f"{number}.yaml"))
        found[loaded.name] = set(loaded.arms)
    assert found == {"with_a_server": set(), "mine": {"mean", "stan"}}
