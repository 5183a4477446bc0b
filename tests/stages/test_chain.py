"""A whole run on a small world: once undisturbed, then with everything that must not change its result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from m2raap.core.files import read_json
from m2raap.core.folder import read_timings
from m2raap.core.tables import read_part
from m2raap.core.view import View
from tests.conftest import digests, m2raap
from tests.runs import RECIPE, words


@pytest.fixture(scope="module")
def reported(small_world: Path, undisturbed: Path) -> str:
    return m2raap("report", "write", undisturbed, "--truth", small_world / "truth.parquet").stdout


def test_no_stage_opens_the_truth(undisturbed: Path):
    opened = (undisturbed.parent / "opened.txt").read_text().splitlines()
    assert any(path.endswith(".parquet") for path in opened), "the watch saw the tables"
    assert not [path for path in opened if any(name in path for name in ("truth", "scenes.parquet", "shots.parquet"))]


def test_every_folder_is_whole_and_the_counts_add_up(undisturbed: Path):
    rows = json.loads(m2raap("status", "--verify", undisturbed, "--json").stdout)
    assert {row["state"] for row in rows} == {"ok"} and len(rows) >= 9
    assert not (undisturbed / "cache" / "prefix").exists(), "what frozen layers said goes at the end of the run"
    counts = read_json(undisturbed / "m2raap" / "align" / "manifest.json")["counts"]
    before = read_json(undisturbed / "m2raap" / "keyframes" / "manifest.json")["counts"]
    assert counts["clips_in"] == before["clips_out"] and counts["texts_in"] == before["texts_out"]


def test_check_finds_a_changed_byte(undisturbed: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed / "m2raap" / "filter", copy)
    part = next((copy / "dropped").glob("part-*"))
    part.write_bytes(part.read_bytes() + b"x")
    done = m2raap("status", "--verify", copy, check=1)
    assert "differs from its digest in the manifest" in done.stdout


def test_planted_faults_are_found_and_good_rows_kept(small_world: Path, undisturbed: Path, reported: str):
    overall = json.loads((undisturbed / "report" / "report.json").read_text())["grading"]["overall"]
    assert overall["planted"] >= 15
    assert overall["recall"] >= 0.75 and overall["precision"] >= 0.75


def test_report_shows_every_section_in_both_languages(undisturbed: Path, reported: str):
    assert "synthetic world, tiny model" in reported
    for section in ("Funnel", "Planted faults", "Results", "Paired differences", "Order of frames"):
        assert section in reported
    html = (undisturbed / "report" / "report.html").read_text()
    assert "<script" not in html and "http" not in html.split("<body", 1)[1].split("recipe")[0]
    results = json.loads((undisturbed / "report" / "report.json").read_text())["results"]
    rows_present = {(row["arm"], row["lang"], row["direction"]) for row in results}
    assert rows_present == {
        (a, lang, d) for a in ("zero_shot", "m2raap") for lang in ("en", "zh") for d in ("t2v", "v2t")
    }


def test_exactly_k_frames_a_clip(undisturbed: Path):
    for folder in (undisturbed / "m2raap" / "keyframes", undisturbed / "zero_shot" / "bench-motion" / "keyframes"):
        rows = [
            row for path in (folder / "frames").iterdir() for row in read_part(folder, "frames", int(path.stem[-5:]))
        ]
        assert rows and {len(row["jpegs"]) for row in rows} == {4}


def test_training_learns(undisturbed: Path):
    lines = [json.loads(line) for line in (undisturbed / "m2raap" / "adapt" / "train.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-5:]) / 5 < 0.85 * sum(losses[:5]) / 5
    model = json.loads((undisturbed / "m2raap" / "adapt" / "model" / "model.json").read_text())
    assert "seed" in model["made_from"]["adapt"] and "device" not in model["made_from"]["adapt"], "how is in no digest"


def test_explain_and_status_tell_the_story(undisturbed: Path, small_world: Path):
    dropped = next(
        row
        for path in sorted((undisturbed / "m2raap" / "filter" / "dropped").iterdir())
        for row in read_part(path.parent.parent, "dropped", int(path.stem[-5:]))
        if row["text_id"]
    )
    story = m2raap("explain", dropped["clip_id"], "--in", undisturbed).stdout
    assert dropped["reason"] in story and dropped["text_id"] in story
    assert m2raap("explain", "nobody", "--in", undisturbed, check=1).stderr.startswith(
        "m2raap: nobody: no clip of that id"
    )
    rows = json.loads(m2raap("status", undisturbed, "--json").stdout)
    assert {row["state"] for row in rows} == {"done"}


def test_arms_in_another_order_make_nothing_anew(small_world: Path, undisturbed: Path, tmp_path: Path):
    out = undisturbed.parent.parent / "reordered" / "run"  # manifests say where the world lies: as seen from beside it
    shutil.copytree(undisturbed, out)
    tree = yaml.safe_load(RECIPE.read_text())
    tree["arms"] = dict(reversed(tree["arms"].items()))
    (tmp_path / "reordered.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    command = [
        str(tmp_path / "reordered.yaml") if word == str(RECIPE) else word for word in map(str, words(small_world, out))
    ]
    m2raap(*command)
    assert digests(out) == digests(undisturbed), "every folder is used where it was"
    assert list(json.loads((out / "run.json").read_text())["recipe"]["arms"]) == list(tree["arms"])


def started(*words: object) -> subprocess.Popen[str]:
    """The command line in a process group of its own; it receives Ctrl-C, which a background job of a shell ignores."""
    return subprocess.Popen(
        [sys.executable, "-m", "m2raap.cli.main", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits until the process has reached this point; fails where it ends before."""
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_in_two_stages_and_resumed_gives_the_same_bytes(small_world: Path, undisturbed: Path):
    """kill -9 of the whole process group, first with two workers: results, ranks and all parts are those of the undisturbed run.

    The arm that trains nothing is finished before: its stages are those of the other arm, or earlier ones.
    """
    out = undisturbed.parent.parent / "killed" / "run"  # manifests say where the world lies: as seen from beside it
    shutil.copytree(undisturbed / "zero_shot", out / "zero_shot")
    moments = (("keyframes", 2, "m2raap/keyframes/plan.json"), ("evaluate", 1, "m2raap/adapt/scratch/*"))
    for last, workers, marker in moments:
        process = started(*words(small_world, out, "--workers", workers, "--until", last))
        wait_for(lambda marker=marker: any(out.glob(marker)), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "m2raap" / "adapt" / "manifest.json").exists(), "killed in the middle of it"
    states = {row["folder"]: row for row in json.loads(m2raap("status", out, "--json").stdout)}
    trained = states[str(out / "m2raap" / "adapt")]
    assert trained["state"] == "unfinished" and "parts" not in trained, "a training has steps, not parts"
    m2raap(*words(small_world, out, "--workers", 1, "--until", "evaluate"))
    assert digests(out) == digests(undisturbed)


def test_ctrl_c_prints_the_command_that_resumes(small_world: Path, tmp_path: Path):
    process = started(*words(small_world, tmp_path / "run", "--workers", 2, "--until", "rewrite"))
    wait_for(lambda: any(tmp_path.glob("run/**/keyframes/cache/*")), process)
    os.killpg(process.pid, signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in talk and "--data" in talk.splitlines()[-1]
    assert "Traceback" not in talk


def test_other_settings_in_the_same_folder_are_an_error_that_names_both(
    small_world: Path, undisturbed: Path, tmp_path: Path
):
    more = ("--set", "filter.text.rules.text_too_short.en=5", "--until", "filter")
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = (out / "run.json").read_bytes()
    done = m2raap(*words(small_world, out, *more), check=1)
    assert (out / "run.json").read_bytes() == before, "a refused run leaves the map of the one that is here"
    assert all(f"filter.text.rules.text_too_short.en.min {limit}" in done.stderr for limit in ("2.0", "5.0"))


def test_a_new_threshold_decodes_nothing_and_equals_a_fresh_run(small_world: Path, undisturbed: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    stricter = ("--set", "filter.text.rules.text_too_short.en=6", "--until", "align", "--workers", 1)
    m2raap(*words(small_world, tmp_path / "fresh", *stricter))
    before = {stage: scored(out, stage) for stage in ("filter", "keyframes")}
    m2raap(*words(small_world, out, *stricter, "--force"))
    for stage, clips in before.items():
        assert scored(out, stage) == clips > 0, f"{stage} scored a clip again"
    for stage in (*before, "align"):
        assert digests(out / "m2raap" / stage) == digests(tmp_path / "fresh" / "m2raap" / stage)


def scored(out: Path, stage: str) -> int:
    """How many clips a stage has scored in all its runs so far."""
    return sum(row.get("scored", 0) for row in read_timings(out / "m2raap" / stage))


def test_only_new_clips_are_decoded(small_world: Path, tmp_path: Path):
    """20 clips come to 28: the 28 are not decoded again, and the result is that of a fresh run."""
    from m2raap.core.corpus import write_corpus
    from m2raap.core.replace import replacing

    corpus = View(small_world / "train").corpus
    clips = sorted(corpus.all_rows("clips"), key=lambda row: row["clip_id"])
    folders = {}
    for name, group in (("C", clips[:28]), ("D", clips[:48])):
        part_ids = {row["clip_id"] for row in group}
        texts = [row for row in corpus.all_rows("texts") if row["clip_id"] in part_ids]
        folders[name] = lambda g=group, t=texts: write_corpus(
            tmp_path / "C", g, t, video_root=corpus.video_root, source={}
        )
    folders["C"]()
    m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "k" / "m2raap" / "keyframes", "--workers", 1)
    with replacing(True):
        folders["D"]()
    refused = m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "k" / "m2raap" / "keyframes", check=1)
    assert "was made with inputs.corpus" in refused.stderr
    m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "k" / "m2raap" / "keyframes", "--workers", 1, "--force")
    assert scored(tmp_path / "k", "keyframes") == 48
    m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "fresh" / "m2raap" / "keyframes", "--workers", 2)
    assert digests(tmp_path / "k") == digests(tmp_path / "fresh")


def test_a_benchmarks_own_texts_reach_nothing_but_embed(small_world: Path, undisturbed: Path, tmp_path: Path):
    """Every text of the benchmark is changed: frames and video vectors stay the same to the byte."""
    from m2raap.core.corpus import write_corpus

    corpus = View(small_world / "test").corpus
    texts = [row | {"text": "something else " + row["text_id"]} for row in corpus.all_rows("texts")]
    changed = tmp_path / "test"
    write_corpus(
        changed, corpus.all_rows("clips"), texts, video_root=corpus.video_root, source={}, benchmark=corpus.benchmark,
        num_parts=corpus.num_parts,
    )  # fmt: skip
    m2raap("keyframes", changed, "--out", tmp_path / "k", "--recipe", RECIPE, "--workers", 1)
    m2raap(
        "embed",
        tmp_path / "k",
        "--model",
        undisturbed / "m2raap" / "adapt",
        "--recipe",
        RECIPE,
        "--out",
        tmp_path / "e",
    )
    theirs = undisturbed / "m2raap" / "bench-motion" / "embed"
    assert (tmp_path / "e" / "video.npy").read_bytes() == (theirs / "video.npy").read_bytes()
    assert (tmp_path / "e" / "text.npy").read_bytes() != (theirs / "text.npy").read_bytes()
    frames = undisturbed / "zero_shot" / "bench-motion" / "keyframes" / "frames"
    assert digests(tmp_path / "k" / "frames") == digests(frames)


def test_python_api_loads_the_model(undisturbed: Path):
    import torch

    import m2raap as package

    model = package.load(undisturbed / "m2raap" / "adapt")
    with torch.inference_mode():
        vectors = model.encode_text(model.backbone.tokenize(["a red circle moves right", "一个红色圆形向右移动"]))
    assert vectors.shape[0] == 2 and torch.allclose(vectors.norm(dim=-1), torch.ones(2), atol=1e-5)
