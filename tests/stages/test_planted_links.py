"""The files of a folder from somebody else, links above all, cause no writing, deleting or reading outside of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_atomic, write_json
from m2raap.core.folder import read_timings
from m2raap.core.lock import FILE as LOCK_FILE
from m2raap.core.lock import locked
from m2raap.core.state import VIDEO_ROOTS
from m2raap.core.view import View, open_view
from m2raap.curate.llm.cache import Cache
from m2raap.models.config import BackboneConfig
from m2raap.pipeline.inspect import check
from m2raap.pipeline.run_folder import RunFolder
from m2raap.search import index_parts
from m2raap.search.index import make_index
from m2raap.stages.embedder import load_model
from m2raap.stages.training_log import training_summary
from tests.conftest import as_another_command, digests, m2raap
from tests.core.test_stage import make_corpus
from tests.core.test_stage import run as run_length
from tests.core.test_tables import clip, text
from tests.runs import RECIPE, copied
from tests.search.world import TINY, rows, view_of

SECRET = "the user's own words"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    for name in ("bashrc", "report.html", "marker"):
        (tmp_path / "home" / name).write_text(SECRET)
    return tmp_path / "home"


# ---- writing


def test_the_name_of_a_temporary_file_may_be_taken(home: Path, tmp_path: Path):
    """Somebody made a link for every process number: the link is removed, its target stays."""
    (tmp_path / "f").mkdir()
    planted = tmp_path / "f" / f".manifest.json.{os.getpid()}.tmp"
    planted.symlink_to(home / "bashrc")
    write_atomic(tmp_path / "f" / "manifest.json", b"{}")
    assert (home / "bashrc").read_text() == SECRET
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["manifest.json"]


def test_a_folder_in_the_folder_that_was_named_may_be_no_link(
    home: Path, small_world: Path, undisturbed: Path, tmp_path: Path
):
    """The folder that the user named may be a link; a folder below it may not."""
    run, world = copied(undisturbed, small_world, tmp_path / "theirs")
    shutil.move(run / "m2raap" / "filter", home / "F")
    (run / "m2raap" / "filter").symlink_to(home / "F")
    shutil.rmtree(run / "report", ignore_errors=True)
    (run / "report").symlink_to(home)
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "keyframes").symlink_to(home / "F")
    data = ("--data", world / "train", "--bench", f"motion={world / 'test'}")
    before = digests(home)
    for words in (
        ("run", RECIPE, *data, "--out", run, "--set", "filter.text.rules.text_too_short.en=6", "--force"),
        ("embed", world / "videos" / "test", "--out", tmp_path / "E", "--workers", 1, "--force"),
    ):
        message = m2raap(*words, check=1).stderr
        assert "is a link" in message or "leads out of this folder" in message, words
        assert digests(home) == before, words
    (run / "m2raap" / "filter").unlink()
    shutil.move(home / "F", run / "m2raap" / "filter")
    assert (
        "is a link" in m2raap("report", "write", run, check=1).stderr and (home / "report.html").read_text() == SECRET
    )
    (run / "report").unlink()
    (tmp_path / "R").symlink_to(run)
    m2raap("report", "write", tmp_path / "R", "--json")
    assert (run / "report" / "report.html").exists()


def test_a_file_of_the_locks_name_stays(home: Path, tmp_path: Path):
    """A hard link, a text of the user, a pipe: none is a lock file of m2raap."""
    make_corpus(tmp_path / "C", range(4))
    for number, make in enumerate(
        (lambda path: os.link(home / "marker", path), lambda path: path.write_text("x" * 600), os.mkfifo)
    ):
        out = tmp_path / f"out{number}"
        out.mkdir()
        make(out / LOCK_FILE)
        assert str(out / LOCK_FILE) in m2raap("keyframes", tmp_path / "C", "--out", out, check=1).stderr
        assert (out / LOCK_FILE).exists() and (home / "marker").read_text() == SECRET


def test_a_folder_of_the_users_that_holds_only_previous_is_no_stage(tmp_path: Path):
    make_corpus(tmp_path / "C", range(4))
    (tmp_path / "out" / "previous").mkdir(parents=True)
    (tmp_path / "out" / "previous" / "thesis.tex").write_text(SECRET)
    assert "holds 'previous'" in m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "out", check=1).stderr
    assert (tmp_path / "out" / "previous" / "thesis.tex").read_text() == SECRET


def test_answers_are_not_written_through_a_link(home: Path, undisturbed: Path, small_world: Path, tmp_path: Path):
    for name in ("llm.sqlite", "llm.sqlite-wal", "llm.sqlite-shm"):
        folder = tmp_path / name / "cache"
        folder.mkdir(parents=True)
        (folder / name).symlink_to(home / "marker")
        with pytest.raises(M2raapError, match=f"{name}: "):
            Cache(folder / "llm.sqlite")
    run, _ = copied(undisturbed, small_world, tmp_path)
    before = digests(run)
    shutil.rmtree(run / "cache", ignore_errors=True)
    asked = ("run", "--out", run, "--stage", "rewrite", "--requests", tmp_path / "asked.jsonl")
    assert "name: endpoint" in m2raap(*asked, check=1).stderr
    assert digests(run) == before and not (run / "cache").exists() and (home / "marker").read_text() == SECRET


# ---- deleting


def test_forget_deletes_only_copies_of_the_corpus_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rows of a corpus from somebody else may name files of the user's corpora."""
    data = tmp_path / "data"
    for name in ("mine", "theirs"):
        (data / name / "videos").mkdir(parents=True)
        (data / name / "videos" / "keep.mp4").write_text(SECRET)
    root = data / "mine" / "videos"
    write_corpus(data / "mine", [clip(0, video="keep.mp4")], [text(0)], video_root=root, source={})
    names = ("mine/videos/keep.mp4", "mine/manifest.json", "theirs/videos/keep.mp4")
    clips = [clip(number, video=name) for number, name in enumerate((*names, "other.mp4"), 1)]
    write_corpus(data / "theirs", clips, [text(number) for number in (1, 2, 3, 4)], video_root=data, source={})
    (tmp_path / "ids.txt").write_text("c001\nc002\nc003\n")
    m2raap("data", "forget", data / "theirs", "--ids", tmp_path / "ids.txt", "--run", data)
    assert (root / "keep.mp4").read_text() == SECRET
    assert not (data / "theirs" / "videos" / "keep.mp4").exists(), "that one was a copy of its own"
    assert {row["state"] for row in check(data)} == {"ok"}


def test_a_manifest_of_a_corpus_names_no_file_outside_of_it_to_forget(home: Path, tmp_path: Path):
    make_corpus(tmp_path / "C", range(8))
    manifest = read_json(tmp_path / "C" / "manifest.json")
    for key in ("../../home/marker", "missing/../../home/marker"):
        write_json(tmp_path / "C" / "manifest.json", manifest | {"files": manifest["files"] | {key: "0" * 64}})
        m2raap("data", "forget", tmp_path / "C", "--clip", "c003", check=1)
        assert (home / "marker").read_text() == SECRET


# ---- handing out


def test_parts_that_a_link_brings_in_are_not_read(home: Path, tmp_path: Path):
    make_corpus(home / "private", range(4))
    make_corpus(tmp_path / "theirs", range(4))
    shutil.rmtree(tmp_path / "theirs" / "texts")
    (tmp_path / "theirs" / "texts").symlink_to(home / "private" / "texts")
    said = m2raap("data", "export", "csv", tmp_path / "theirs", "--out", tmp_path / "E", check=1).stderr
    assert "texts/part-" in said and not (tmp_path / "E").exists()


def test_only_what_a_model_is_made_of_goes_to_the_hub(home: Path, tmp_path: Path):
    load_model(BackboneConfig()).save(tmp_path / "M", {"recipe": "r"})
    (tmp_path / "M" / "notes.txt").symlink_to(home / "marker")
    (tmp_path / "M" / "extra").symlink_to(home)
    (tmp_path / "M" / "own.py").write_text("print()")
    m2raap("model", "export", tmp_path / "M", "--to", "hub", "--licence", "mit", "--out", tmp_path / "H")
    names = {path.name for path in (tmp_path / "H").rglob("*")}
    assert not names & {"notes.txt", "extra", "own.py", "marker", "bashrc"}
    assert (tmp_path / "H" / "model.safetensors").read_bytes() == (tmp_path / "M" / "model.safetensors").read_bytes()
    assert read_json(tmp_path / "H" / "model.json") == read_json(tmp_path / "M" / "model.json")


def test_a_link_beside_a_list_is_no_word_of_the_users(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A list that came with `videos` as a link: its user has not named the target as a folder of videos."""
    monkeypatch.delenv(VIDEO_ROOTS)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "videos").symlink_to(home)
    (folder / "list.csv").write_text("video,caption\nmarker,a man\nbashrc,a woman\n")
    for kind in ("didemo", "lsmdc"):
        said = m2raap("data", "import", kind, folder, "--out", tmp_path / kind, check=1).stderr
        assert f"--video-dir {home}" in said, kind
    said = m2raap("data", "import", "msrvtt", folder, "--out", tmp_path / "M", check=1).stderr
    assert f"--video-dir {home}" in said


def test_a_map_names_only_corpora_that_the_run_was_made_over(undisturbed: Path, small_world: Path, tmp_path: Path):
    run, _ = copied(undisturbed, small_world, tmp_path)
    make_corpus(tmp_path / "private", range(4))
    tree = read_json(run / "run.json")
    write_json(run / "run.json", tree | {"data": os.path.relpath(tmp_path / "private", run)})
    for words in (("status", run), ("explain", "c001", "--in", run), ("report", "write", run)):
        done = m2raap(*words, check=1)
        assert "word word" not in done.stdout
    with pytest.raises(M2raapError, match="private"):
        _ = RunFolder.open(run).inputs


def test_a_backbone_that_only_a_model_folder_names_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    asked: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda address, *_, **__: asked.append(address) or 1 / 0)
    load_model(BackboneConfig()).save(tmp_path / "M", {"backbone": {"model": "hf-hub:someone/else"}})
    words = ("model", "interpolate", tmp_path / "M", "--alpha", "0.5", "--out", tmp_path / "half")
    assert "hf-hub:someone/else" in m2raap(*words, check=1).stderr and not asked


# ---- reading what is no file, and parents that change


def test_pipes_and_other_folders_faults_do_not_stop_check(tmp_path: Path):
    for name in ("a", "b", "c"):
        make_corpus(tmp_path / name, range(4))
    (tmp_path / "a" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "a" / "manifest.json")
    manifest = read_json(tmp_path / "b" / "manifest.json")
    write_json(tmp_path / "b" / "manifest.json", manifest | {"files": {"../../etc/passwd": "0" * 64}})
    states = {Path(row["folder"]).name: row["state"] for row in check(tmp_path)}
    assert states == {"a": "damaged", "b": "damaged", "c": "ok"}
    for name in ("run.json", "plan.json"):
        os.mkfifo(tmp_path / "c" / name)
    assert "no regular file" in m2raap("status", tmp_path / "c", check=1).stderr
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").symlink_to("/dev/zero")
    assert "no regular file" in m2raap("data", "export", "csv", tmp_path / "d", "--out", tmp_path / "E", check=1).stderr


def test_a_parent_that_changes_meanwhile_is_not_signed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    corpus = make_corpus(tmp_path / "c", range(12), num_parts=2)
    run_length(corpus, tmp_path / "a", minimum=10)
    seen: list[int] = []

    def redo(*args: Any, **options: Any) -> Any:
        if not seen:
            seen.append(1)
            as_another_command(lambda: run_length(corpus, tmp_path / "a", minimum=16, force=True))
        return replaced(*args, **options)

    replaced = os.replace
    view = open_view(tmp_path / "a")
    monkeypatch.setattr(os, "replace", redo)
    with pytest.raises(M2raapError, match="its inputs have changed while"):
        run_length(view, tmp_path / "b")
    monkeypatch.undo()
    assert not (tmp_path / "b" / "manifest.json").exists()
    with pytest.raises(M2raapError, match="was made with inputs.a"):
        run_length(open_view(tmp_path / "a"), tmp_path / "b")
    assert run_length(open_view(tmp_path / "a"), tmp_path / "b", force=True)


def test_an_index_over_a_view_that_changes_meanwhile_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    view = view_of(tmp_path, rows(6))
    real = index_parts.write_table

    def change(*args: Any) -> Any:
        monkeypatch.setattr(index_parts, "write_table", real)
        as_another_command(lambda: view_of(tmp_path, rows(6), num_frames=4))
        return real(*args)

    monkeypatch.setattr(index_parts, "write_table", change)
    with pytest.raises(M2raapError, match="has changed"):
        make_index(tmp_path / "index", view, TINY)
    assert make_index(tmp_path / "index", open_view(tmp_path / "keyframes"), TINY)["embedded"] == 6
    assert {row["state"] for row in check(tmp_path / "index")} == {"ok"}


def test_vectors_of_one_folder_are_not_those_of_another_with_the_same_names(small_world: Path, tmp_path: Path):
    for name, source in (("V1", 0), ("V2", 1)):
        (tmp_path / name).mkdir()
        video = sorted((small_world / "videos" / "test").iterdir())[source]
        shutil.copy(video, tmp_path / name / "a.mp4")
    m2raap("embed", tmp_path / "V1", "--out", tmp_path / "E", "--workers", 1)
    before = digests(tmp_path / "E")
    assert str(tmp_path / "E") in m2raap("embed", tmp_path / "V2", "--out", tmp_path / "E", check=1).stderr
    assert digests(tmp_path / "E") == before


def test_where_an_export_may_go(undisturbed: Path, tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert "is a link" in m2raap("data", "export", "csv", undisturbed, "--out", tmp_path / "link", check=1).stderr
    (tmp_path / "here").mkdir()
    m2raap("data", "export", "csv", undisturbed, "--out", ".", cwd=tmp_path / "here")
    assert json.loads((tmp_path / "here" / "export.json").read_text())["kind"] == "export"


def test_names_beside_what_was_typed_lead_nowhere(home: Path, small_world: Path, tmp_path: Path):
    """The draft folder of an export and the folder of a holdout, which the user did not name."""
    (home / "draft").mkdir()
    (home / "draft" / "chapter.tex").write_text(SECRET)
    make_corpus(tmp_path / "C", range(4))
    (tmp_path / ".E.exporting").symlink_to(home)
    assert "is a link" in m2raap("data", "export", "csv", tmp_path / "C", "--out", tmp_path / "E", check=1).stderr
    make_corpus(home / "mine", range(4))
    (tmp_path / "D-holdout").symlink_to(home / "mine")
    videos = sorted((small_world / "videos" / "test").iterdir())[:3]
    (tmp_path / "list.csv").write_text("video,caption\n" + "".join(f"{path.name},a round thing\n" for path in videos))
    before = digests(home)
    words = ("data", "import", "table", tmp_path / "list.csv", "--video-dir", videos[0].parent, "--holdout", 1)
    assert "is a link" in m2raap(*words, "--out", tmp_path / "D", check=1).stderr
    assert digests(home) == before


def test_a_way_back_up_behind_a_link_is_the_systems(home: Path, tmp_path: Path):
    (tmp_path / "there" / "sub").mkdir(parents=True)
    (tmp_path / "L").symlink_to(tmp_path / "there" / "sub")
    make_corpus(tmp_path / "C", range(4))
    m2raap("data", "export", "csv", tmp_path / "C", "--out", f"{tmp_path}/L/../E")
    assert (tmp_path / "there" / "E" / "clips.csv").exists()
    (tmp_path / "there" / "R" / "stage").parent.mkdir()
    (tmp_path / "there" / "R" / "stage").symlink_to(home)
    outer, inner = locked(Path(f"{tmp_path}/L/../R"), written=()), locked(Path(f"{tmp_path}/L/../R/stage/x"))
    with outer, pytest.raises(M2raapError, match="R/stage: "), inner:
        pass


def test_forget_leaves_the_users_other_files_alone_and_goes_on_past_what_is_none_of_ours(tmp_path: Path):
    data = tmp_path / "data"
    make_corpus(data / "C", range(8))
    others = {
        "web/report.html": SECRET, "web/report.json": "{}", "web/a.tmp": SECRET, "web/.site.exporting/z": SECRET,
        "other/manifest.json": "[1]", "tool/run.json": '{"x": 1}', "app/manifest.json": '{"stage": "filter"}',
        "weird/plan.json": '{"stage": "weird"}', "broken/manifest.json": "{", "db/places.sqlite": "SQLite format 3\0x",
        "junk/x.parquet": "PAR1 no", "idx/manifest.json": '{"stage": "index", "files": {}, "counts": {}, "digest": "d"}',
        "thesis/previous/thesis.tex": SECRET, "web/cache/prefix/x": SECRET,
    }  # fmt: skip
    for name, text_ in others.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text_)
    shown = m2raap("data", "forget", data / "C", "--clip", "c003", "--run", data).stdout
    assert f"{data / 'junk' / 'x.parquet'}" in shown and f"{data / 'db' / 'places.sqlite'}" in shown
    assert {name: (data / name).read_text() for name in others} == others
    assert "c003" not in {row["clip_id"] for part in View(data / "C").parts() for row in part.clips}


def test_folders_of_the_user_with_names_like_ours_are_not_ours(small_world: Path, tmp_path: Path):
    view = view_of(tmp_path, rows(4))
    for name in ("scratch", "next"):
        (tmp_path / "I" / name / "jobs").mkdir(parents=True)
        with pytest.raises(M2raapError, match=f"'{name}'"):
            make_index(tmp_path / "I", view, TINY)
        shutil.rmtree(tmp_path / "I")
    (tmp_path / "S" / "previous.tmp").mkdir(parents=True)
    (tmp_path / "S" / "previous.tmp" / "thesis.tex").write_text(SECRET)
    make_corpus(tmp_path / "C", range(4))
    assert "holds 'previous.tmp'" in m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "S", check=1).stderr
    assert (tmp_path / "S" / "previous.tmp" / "thesis.tex").exists()
    (tmp_path / "V" / "videos").mkdir(parents=True)
    (tmp_path / "V" / "videos" / ".idea.tmp").write_text(SECRET)
    video = sorted((small_world / "videos" / "test").iterdir())[0]
    assert "no import has put there" in m2raap("data", "split", video, "--cut", "--out", tmp_path / "V", check=1).stderr
    assert (tmp_path / "V" / "videos" / ".idea.tmp").exists()


def test_pipes_in_the_place_of_logs_hang_nothing(tmp_path: Path):
    view = make_corpus(tmp_path / "C", range(4))
    run_length(view, tmp_path / "S")
    (tmp_path / "S" / "timings.jsonl").unlink()
    os.mkfifo(tmp_path / "S" / "timings.jsonl")
    with pytest.raises(M2raapError, match=r"timings.jsonl: is neither"):
        run_length(view, tmp_path / "S")
    with pytest.raises(M2raapError, match="no regular file"):
        read_timings(tmp_path / "S")
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(M2raapError, match="no regular file"):
        training_summary(tmp_path)
