"""Folders from somebody else: no path in one is followed out of it, and commands that only read write nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.corpus import open_corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, inside, read_json, write_json
from m2raap.core.folder import manifest_digest
from m2raap.core.replace import replacing
from m2raap.core.state import VIDEO_ROOTS, allowed_video_root
from m2raap.core.view import View, open_view
from m2raap.pipeline.inspect import check
from m2raap.pipeline.run_folder import RunFolder
from m2raap.search.backend import NotThere
from m2raap.search.search import Search
from tests.conftest import digests, m2raap
from tests.core.test_stage import make_corpus
from tests.core.test_stage import run as run_length
from tests.core.test_tables import clip, text
from tests.runs import copied
from tests.search.world import index_of, rows, write_video

SECRET = "the user's own words"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What the user has on this machine, beside a folder for downloads."""
    (tmp_path / "home" / "photos").mkdir(parents=True)
    (tmp_path / "home" / "photos" / "1.jpg").write_text(SECRET)
    (tmp_path / "home" / "important.docx").write_text(SECRET)
    (tmp_path / "home" / "notes.txt").write_text("c001 is mine\nother\n")
    write_json(tmp_path / "home" / "results.json", {"c001": 1, "other": 2})
    return tmp_path / "home"


@pytest.fixture
def untrusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of the tests: no folder of videos is trusted beforehand."""
    monkeypatch.delenv(VIDEO_ROOTS)


# ---- forget


def test_forget_in_a_folder_of_a_stranger_takes_nothing_of_the_user_with_it(home: Path, tmp_path: Path):
    """No file outside is changed that run.json, manifests, links or rows of the folder name."""
    make_corpus(home / "C", range(8))
    run_length(View(home / "C"), home / "S")
    view = make_corpus(tmp_path / "theirs" / "C", range(8))
    run_length(view, tmp_path / "theirs" / "S")
    (tmp_path / "theirs" / "link").symlink_to(home / "S")
    clips = open_corpus(tmp_path / "theirs" / "C").all_rows("clips")
    clips = [row | {"video": "../home/important.docx"} for row in clips]
    texts = open_corpus(tmp_path / "theirs" / "C").all_rows("texts")
    with replacing(True):
        write_corpus(tmp_path / "theirs" / "C", clips, texts, video_root=tmp_path / "theirs", source={}, num_parts=3)
    write_json(tmp_path / "theirs" / "run.json", {"data": "../home/C", "benches": {}, "scores": [], "steps": []})
    before = digests(home)
    m2raap("data", "forget", "theirs/C", "--clip", "c001", "--run", "theirs", cwd=tmp_path)
    assert digests(home) == before
    (tmp_path / "theirs" / "report").symlink_to(home)
    assert "is a link" in m2raap("data", "forget", "theirs/C", "--run", "theirs", check=1, cwd=tmp_path).stderr
    assert digests(home) == before


# ---- commands that read


READING = (
    ("status", "--verify", "{R}"), ("status", "{R}"), ("explain", "t000001", "--in", "{R}"),
    ("report", "lint", "{W}/test"), ("data", "audit", "{R}", "--card"),
    ("report", "compare", "{R}/m2raap/bench-motion/evaluate", "{R}/zero_shot/bench-motion/evaluate"),
    ("search", "query", "{I}", "a red circle", "--json"), ("status", "--verify", "{W}"),
    ("data", "probe", "{W}/videos/test", "--json"),
    ("run", "{RECIPE}", "--data", "{W}/train", "--bench", "motion={W}/test", "--out", "{R}", "--dry-run"),
    ("data", "export", "csv", "{R}", "--out", "{E}"), ("doctor",), ("recipe", "show", "demo"),
)  # fmt: skip


def test_commands_that_read_write_nothing(small_world: Path, undisturbed: Path, tmp_path: Path):
    run, world = copied(undisturbed, small_world, tmp_path / "sent")
    m2raap("search", "index", run / "m2raap" / "rewrite", "--model", "builtin:tiny", "--out", tmp_path / "sent" / "I")
    names = {"R": run, "W": world, "I": tmp_path / "sent" / "I", "E": tmp_path / "E"}
    names["RECIPE"] = Path(__file__).parent.parent / "small.yaml"
    before = state_of(tmp_path / "sent")
    for words in READING:
        m2raap(*(word.format(**names) for word in words))
        assert state_of(tmp_path / "sent") == before, words


def state_of(folder: Path) -> dict[str, tuple[int, int, str]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns, "d" if path.is_dir() else "f")
        for path in sorted(folder.rglob("*"))
    }


# ---- paths that are read from files


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "C:\\x", "C:x", "\\\\server\\x", "a\\..\\..\\x", "x\0y", "", 7, None, ["x"]],
)
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: object):
    (tmp_path / "f").mkdir()
    if name == "":
        assert inside(tmp_path / "f", name) == tmp_path / "f"
        return
    with pytest.raises(M2raapError, match="leads out of this folder"):
        inside(tmp_path / "f", name)


def test_a_link_that_leaves_its_folder_is_refused(tmp_path: Path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "out").symlink_to(tmp_path)
    (tmp_path / "f" / "loop").symlink_to(tmp_path / "f" / "loop")
    (tmp_path / "f" / "in").symlink_to(tmp_path / "f")
    for name in ("out/x", "out"):
        with pytest.raises(M2raapError, match="leads out of this folder"):
            inside(tmp_path / "f", name)
    assert inside(tmp_path / "f", "in/x") == tmp_path / "f" / "in" / "x"


@pytest.mark.parametrize("key", ["../home/important.docx", "/etc/hostname", "texts/../../home/important.docx"])
def test_a_manifest_names_only_files_of_its_folder(home: Path, tmp_path: Path, key: str):
    make_corpus(tmp_path / "C", range(4))
    manifest = read_json(tmp_path / "C" / "manifest.json")
    manifest["files"][key] = file_sha256(home / "important.docx")
    write_json(tmp_path / "C" / "manifest.json", manifest)
    (row,) = check(tmp_path / "C")
    assert row["state"] == "damaged" and repr(key) in row["faults"][0]


def test_a_manifest_that_names_a_device_is_damaged(tmp_path: Path):
    make_corpus(tmp_path / "C", range(4))
    manifest = read_json(tmp_path / "C" / "manifest.json")
    os.mkfifo(tmp_path / "C" / "pipe")
    write_json(tmp_path / "C" / "manifest.json", manifest | {"files": manifest["files"] | {"pipe": "0" * 64}})
    (row,) = check(tmp_path / "C")
    assert row["state"] == "damaged" and any("pipe" in fault for fault in row["faults"])


def test_a_map_names_only_stage_folders_of_its_run(undisturbed: Path, tmp_path: Path):
    tree = read_json(undisturbed / "run.json")
    for key, value in (("folder", "../../home"), ("parents", ["/etc"])):
        write_json(tmp_path / "run.json", tree | {"steps": [tree["steps"][0] | {key: value}]})
        with pytest.raises(M2raapError, match="leads out of this folder"):
            _ = RunFolder.open(tmp_path).steps


# ---- an index


def test_a_planted_next_state_of_an_index_moves_no_file_out_of_it(home: Path, tmp_path: Path):
    (tmp_path / "ids.txt").write_text("c001\n")
    index = tmp_path / "index"
    (index / "next").mkdir(parents=True)
    (index / "evil").write_text("alias sudo=...")
    for key in ("../home/notes.txt", str(home / "notes.txt"), "a/../../home/notes.txt"):
        ready = {"settings": {}, "counts": {}, "model": "x", "files": {key: "0" * 64}}
        write_json(index / "next" / "ready.json", ready)
        before = digests(home)
        stderr = m2raap("search", "index", "--out", index, "--remove", tmp_path / "ids.txt", check=1).stderr
        assert repr(key) in stderr and digests(home) == before
    write_json(index / "next" / "ready.json", ["evil"])
    assert (
        "holds no JSON object"
        in m2raap("search", "index", "--out", index, "--remove", tmp_path / "ids.txt", check=1).stderr
    )


def test_links_inside_an_index_or_a_stage_are_not_written_through(home: Path, tmp_path: Path):
    (tmp_path / "ids.txt").write_text("c001\n")
    (home / "clips").mkdir()
    (home / "clips" / "part-00000.parquet").write_text(SECRET)
    for name, words in (
        ("index", ("search", "index", "--remove", tmp_path / "ids.txt", "--out")),
        ("stage", ("keyframes", tmp_path / "C", "--out")),
    ):
        make_corpus(tmp_path / "C", range(4))
        (tmp_path / name).mkdir()
        (tmp_path / name / "clips").symlink_to(home / "clips")
        (tmp_path / name / "timings.jsonl").symlink_to(home / "notes.txt")
        before = digests(home)
        assert "is a link" in m2raap(*words, tmp_path / name, check=1).stderr
        assert digests(home) == before


def test_an_index_hands_out_nothing_of_folders_whose_content_its_maker_did_not_know(tmp_path: Path):
    theirs = index_of(tmp_path, rows(4))
    resigned(theirs, lambda sources: sources["views"][0].update(digest="0" * 32))  # the path is easily guessed
    hits = json.loads(m2raap("search", "query", theirs, "a red circle", "--json").stdout)["hits"]
    assert hits and all(hit["video_path"] is None and hit["frames_part"] is None for hit in hits)
    search = Search(theirs)
    for hand_out in (search.video, search.jpegs, search.frames_part):
        with pytest.raises(NotThere):
            hand_out("c0")


def test_what_is_no_video_is_not_handed_out_as_one(tmp_path: Path):
    index = index_of(tmp_path, rows(4))
    (tmp_path / "videos" / "red.mp4").write_text(SECRET)
    search = Search(index)
    assert search.video_path("c0") == tmp_path / "videos" / "red.mp4"
    with pytest.raises(NotThere, match="clip 'c0'"):
        search.video("c0")
    write_video(tmp_path / "videos" / "red.mp4", "red")
    assert search.video("c0") == tmp_path / "videos" / "red.mp4"


def resigned(index: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The index with other sources, and a manifest that was signed over them."""
    sources = read_json(index / "sources.json")
    change(sources)
    write_json(index / "sources.json", sources)
    manifest = read_json(index / "manifest.json")
    manifest["files"]["sources.json"] = file_sha256(index / "sources.json")
    write_json(index / "manifest.json", manifest | {"digest": manifest_digest(manifest)})


def test_a_model_that_only_an_index_names_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    connections: list[str] = []
    monkeypatch.setattr(socket, "create_connection", lambda address, *_, **__: connections.append(address) or 1 / 0)
    index = index_of(tmp_path, rows(4))
    named = {"model": "hf-hub:someone/else", "pretrained": None}
    resigned(index, lambda sources: sources["model"]["backbone"].update(named))
    stderr = m2raap("search", "query", index, "a red circle", check=1).stderr
    assert "--model hf-hub:someone/else" in stderr and not connections


# ---- where videos lie


def test_a_corpus_may_name_only_folders_that_the_user_named(home: Path, tmp_path: Path, untrusting: None):
    clips = [clip(0, video="important.docx"), clip(1, video="photos/1.jpg")]
    theirs = tmp_path / "theirs" / "C"
    write_corpus(theirs, clips, [text(0), text(1)], video_root=theirs, source={})
    manifest = read_json(theirs / "manifest.json")
    write_json(theirs / "manifest.json", manifest | {"video_root": "../../home"})
    for words in (
        ("data", "export", "webdataset", theirs, "--out", tmp_path / "E"),
        ("keyframes", theirs, "--out", tmp_path / "K", "--workers", 1),
        ("filter", theirs, "--out", tmp_path / "F", "--workers", 1),
        ("embed", theirs, "--out", tmp_path / "V"),
    ):
        stderr = m2raap(*words, check=1).stderr
        if words[0] != "embed":  # which reads frames alone
            assert str(home) in stderr and VIDEO_ROOTS in stderr, stderr
        assert not (tmp_path / "E").exists()
    with pytest.raises(M2raapError, match=VIDEO_ROOTS):
        _ = open_corpus(theirs).video_root


def test_who_imported_a_corpus_may_read_its_videos_and_so_may_who_says_so(
    home: Path, tmp_path: Path, untrusting: None, monkeypatch: pytest.MonkeyPatch
):
    mine = write_corpus(tmp_path / "C", [clip(0)], [text(0)], video_root=home, source={})
    assert mine.video_root == home
    shutil.copytree(tmp_path / "C", tmp_path / "D")
    with pytest.raises(M2raapError, match=VIDEO_ROOTS):
        _ = open_corpus(tmp_path / "D").video_root
    monkeypatch.setenv(VIDEO_ROOTS, os.pathsep.join(["/nowhere", str(home.parent)]))
    assert open_corpus(tmp_path / "D").video_root == home
    monkeypatch.setenv(VIDEO_ROOTS, ".")  # relative to wherever: says nothing
    with pytest.raises(M2raapError, match=VIDEO_ROOTS):
        _ = open_corpus(tmp_path / "D").video_root
    assert allowed_video_root(tmp_path / "D", tmp_path / "D" / "videos") == tmp_path / "D" / "videos"
    (tmp_path / "D" / "videos").symlink_to(home)
    with pytest.raises(M2raapError, match=VIDEO_ROOTS):
        allowed_video_root(tmp_path / "D", tmp_path / "D" / "videos")


def test_a_stage_of_a_stranger_lies_on_nothing_of_the_users(home: Path, tmp_path: Path):
    """A view may name the user's corpus, but its author does not know the digest."""
    make_corpus(home / "C", range(8))
    run_length(make_corpus(tmp_path / "theirs" / "C", range(6)), tmp_path / "theirs" / "S")
    manifest = read_json(tmp_path / "theirs" / "S" / "manifest.json")
    manifest["view"]["corpus"] = os.path.relpath(home / "C", tmp_path / "theirs" / "S")
    write_json(tmp_path / "theirs" / "S" / "manifest.json", manifest)
    with pytest.raises(M2raapError, match=rf"was made from {home / 'C'}, whose content has changed"):
        open_view(tmp_path / "theirs" / "S")
    assert (
        "was made from"
        in m2raap("data", "export", "csv", tmp_path / "theirs" / "S", "--out", tmp_path / "E", check=1).stderr
    )


def test_python_that_lies_where_the_command_is_given_is_not_run(small_world: Path, tmp_path: Path):
    """Neither by the command nor by its workers, the decoder's process and what those import first."""
    names = (
        "multiprocessing",
        "random",
        "pickle",
        "signal",
        "av",
        "numpy",
        "torch",
        "m2raap",
        "sitecustomize",
        "typer",
    )
    for name in names:
        (tmp_path / f"{name}.py").write_text(
            "import os\nopen(os.environ['MARKER'], 'a').write(__name__ + '\\n')\nraise SystemExit\n"
        )
    command = [Path(sys.executable).parent / "m2raap", "filter", small_world / "train", "--out", "F", "--workers", "2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"MARKER": str(tmp_path / "ran.txt")}, capture_output=True, timeout=100
    )
    assert done.returncode == 0 and not (tmp_path / "ran.txt").exists(), done.stderr
