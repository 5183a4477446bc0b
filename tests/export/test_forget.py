"""Nothing of a forgotten clip is left, whatever strikes in between; what stays is what a run without it would be."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from m2raap.cli import main
from m2raap.cli.data_export import exporters
from m2raap.core import tombstones
from m2raap.core.config import build
from m2raap.core.corpus import open_corpus, write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.exports import ids_digest
from m2raap.core.files import read_json, write_json
from m2raap.core.folder import read_timings
from m2raap.core.scores import open_scores
from m2raap.core.tables import read_part
from m2raap.core.tombstones import MARK
from m2raap.core.view import View, open_view
from m2raap.export.amend import _thin_rows, all_rows
from m2raap.export.corpus import curated_view, export
from m2raap.export.forget import forget, read_ids
from m2raap.pipeline.inspect import check
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run import run as carry_out
from m2raap.pipeline.run_folder import RunFolder
from tests.conftest import digests, m2raap
from tests.core.test_stage import run as run_length
from tests.core.test_tables import clip, text
from tests.runs import copied

GONE = [3, 7, 8, 11]


def readable(path: Path) -> bytes:
    """What a file says once it is unpacked."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return b"\0".join(
            value if isinstance(value, bytes) else str(value).encode()
            for column in table.columns
            for cell in column.to_pylist()
            for value in (cell if isinstance(cell, list) else [cell])
        )
    return path.read_bytes()


def holding(root: Path, words: list[bytes]) -> list[str]:
    """Files below `root`, other than videos, that hold one of the words."""
    return [
        f"{path.relative_to(root)}: {word[:40]!r}"
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".mp4"
        for said in [readable(path)]
        for word in words
        if word in said
    ]


@pytest.fixture(scope="module")
def forgotten(small_world: Path, undisturbed: Path, tmp_path_factory) -> dict[str, Any]:
    """A copy of the whole run with exports, a cache, an audit sheet and notes in it, after four clips were forgotten."""
    run, world = copied(undisturbed, small_world, tmp_path_factory.mktemp("forgotten"))
    arm = run / "m2raap"
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "report.html").write_text("strips and captions")
    view = curated_view(run)
    kept = [row for part in view.parts() for row in part.clips if row["split"] == "train"]
    dropped = [row["clip_id"] for index in range(view.num_parts) for row in view.dropped(index)]
    verdicts = [row for index in range(view.num_parts) for row in read_part(arm / "align", "verdicts", index)]
    copy_of = next(row["copy_of"] for row in verdicts if row["copy_of"])
    tested = open_corpus(world / "test").all_rows("clips")[0]["clip_id"]
    ids = list(dict.fromkeys([kept[0]["clip_id"], copy_of, dropped[0], tested]))
    texts = [t for name in ("train", "test") for t in open_corpus(world / name).all_rows("texts")]
    texts += all_rows(arm / "rewrite", "texts")
    stay = {row["text"] for row in texts if row["clip_id"] not in ids}
    captions = sorted({row["text"] for row in texts if row["clip_id"] in ids} - stay)
    jpegs = [
        jpeg
        for folder in run.rglob("keyframes")
        for row in all_rows(folder, "frames")
        if row["clip_id"] in ids
        for jpeg in row["jpegs"]
    ]
    assert len(captions) >= 4 and len(jpegs) >= 16
    for kind in exporters():
        media = "frames" if kind in ("webdataset", "data-juicer") else None
        export(view, exporters()[kind], kind, run / "exports" / kind, media)
    cache = sqlite3.connect(run / "cache.sqlite")
    cache.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, content TEXT, clip_id TEXT)")
    rows = [
        ("a", "a caption", ids[0]),
        ("b", json.dumps({"raw": captions[0]}), "other"),
        ("c", "nothing of them", "other"),
    ]
    cache.executemany("INSERT INTO answers VALUES (?, ?, ?)", rows)
    cache.commit()
    cache.close()
    (run / "sheet.csv").write_text(f"item,clip_id,text\r\n1,{ids[0]},x\r\n2,{kept[5]['clip_id']},y\r\n")
    (run / "notes.md").write_text(f"look at {ids[0]} again")
    (run / "cache" / "prefix" / "k").mkdir(parents=True)
    (run / "cache" / "prefix" / "k" / "tokens.part").write_bytes(b"what frozen layers said of all frames")
    (arm / "filter" / "dropped" / ".part-00000.parquet.99.tmp").write_bytes(b"half of " + captions[0].encode())
    before = digests(arm / "adapt" / "model")
    done = forget([run, world], [*ids, "nobody"], exporters())
    assert digests(arm / "adapt" / "model") == before
    named = [i.encode() for i in ids] + [c.encode() for c in captions] + jpegs
    return {
        "run": run,
        "arm": arm,
        "world": world,
        "ids": ids,
        "done": done,
        "words": named,
        "kept": kept[0]["clip_id"],
    }


def test_no_byte_of_them_is_left(forgotten: dict[str, Any]):
    found = holding(forgotten["run"], forgotten["words"])
    for name in ("train", "test"):
        found += holding(forgotten["world"] / name, forgotten["words"])
    assert found == [f"notes.md: {forgotten['ids'][0].encode()!r}"]
    assert forgotten["done"]["still_named_in"] == [str(forgotten["run"] / "notes.md")]
    rows = sqlite3.connect(forgotten["run"] / "cache.sqlite").execute("SELECT key FROM answers").fetchall()
    assert rows == [("c",)]
    assert not (forgotten["run"] / "report" / "report.html").exists()
    assert not (forgotten["run"] / "cache" / "prefix").exists()
    told = [row for row in all_rows(forgotten["arm"] / "align", "verdicts") if row["copy_of"] == "(forgotten)"]
    assert told and all(row["clip_id"] not in forgotten["ids"] for row in told)


def test_what_was_done_is_told(forgotten: dict[str, Any]):
    done = forgotten["done"]
    assert done["clips"] == len(forgotten["ids"]) and done["not_found"] == 1
    (checkpoint,) = done["checkpoints"]
    assert checkpoint["model"] == str(forgotten["arm"] / "adapt" / "model") and sum(checkpoint["clips"].values()) >= 1
    assert checkpoint["digest"] == read_json(forgotten["arm"] / "adapt" / "manifest.json")["models"]["model"]
    assert len(done["video_files_left"]) == len(forgotten["ids"])
    assert all(Path(path).is_file() for path in done["video_files_left"])
    for kind in exporters():
        tree = read_json(path_of(forgotten, kind) / "export.json")
        assert tree["counts"]["forgotten"] >= 1 and tree["ids"] == ids_digest(
            exporters()[kind].clip_ids(path_of(forgotten, kind))
        )
        assert forgotten["kept"] not in exporters()[kind].clip_ids(path_of(forgotten, kind))


def path_of(forgotten: dict[str, Any], kind: str) -> Path:
    return forgotten["run"] / "exports" / kind


def test_every_manifest_is_signed_again_with_a_count(forgotten: dict[str, Any]):
    rows = check(forgotten["run"]) + check(forgotten["world"])
    assert {row["state"] for row in rows} == {"ok"} and len(rows) >= 12, rows
    counts = read_json(forgotten["arm"] / "keyframes" / "manifest.json")["counts"]
    corpus = open_corpus(forgotten["world"] / "train")
    assert corpus.counts["forgotten"] == len(forgotten["ids"]) - 1 and counts["forgotten"] >= 1
    benchmark = open_corpus(forgotten["world"] / "test")
    assert benchmark.benchmark == "world-motion-minus-1"
    results = read_json(forgotten["arm"] / "bench-motion" / "evaluate" / "results.json")
    assert results["protocol"] == benchmark.benchmark
    assert max(row["gallery"] for row in results["rows"]) == benchmark.counts["clips"]


def test_the_run_goes_on_without_doing_anything_again(forgotten: dict[str, Any]):
    run = RunFolder.open(forgotten["run"])
    before = digests(run.path)
    timings = {step.folder: len(read_timings(step.folder)) for step in run.steps}
    arms = {name: run.tree["recipe"]["arms"][name] for name in run.arms()}  # in the order in which they share folders
    recipe = build(Recipe, run.tree["recipe"] | {"arms": arms}, "run.json")
    assert carry_out(recipe, run.inputs, run.path, LocalEngine(1))
    assert digests(run.path) == before
    assert {step.folder: len(read_timings(step.folder)) for step in run.steps} == timings


def test_embeddings_lose_their_rows(forgotten: dict[str, Any], undisturbed: Path):
    old, new = (path / "bench-motion" / "embed" for path in (undisturbed / "m2raap", forgotten["arm"]))
    ids = {path: read_json(path / "ids.json") for path in (old, new)}
    for array, names in (("video", "video_ids"), ("video-shuffled", "video_ids"), ("text", "text_ids")):
        rows = {path: dict(zip(ids[path][names], np.load(path / f"{array}.npy"), strict=True)) for path in (old, new)}
        assert 0 < len(rows[new]) < len(rows[old])
        assert all(np.array_equal(rows[old][name], row) for name, row in rows[new].items())


def test_an_import_does_not_bring_them_back(forgotten: dict[str, Any], small_world: Path, tmp_path: Path):
    """Neither into the same folder nor, told so, into another one; nor the same bytes under another name."""
    old = open_corpus(small_world / "train")
    clips, texts = old.all_rows("clips"), old.all_rows("texts")
    same = forgotten["world"] / "train"
    as_forgotten = open_corpus(same)
    more = {"video_root": old.video_root, "source": old.source, "num_parts": old.num_parts}
    renamed = [row | {"clip_id": "new" + row["clip_id"]} for row in clips]
    owned = [row | {"clip_id": "new" + row["clip_id"]} for row in texts]
    with tombstones.honouring([same]):
        other = write_corpus(tmp_path / "other", renamed, owned, **more)
    assert other.counts["forgotten"] == as_forgotten.counts["forgotten"]
    assert len(tombstones.read(tmp_path / "other")) == as_forgotten.counts["forgotten"]
    written = write_corpus(tmp_path / "again", clips, texts, **more)
    assert written.digest == old.digest
    shutil.copy(same / tombstones.FILE, tmp_path / "again" / tombstones.FILE)
    assert write_corpus(tmp_path / "again", clips, texts, **more).digest == as_forgotten.digest
    stones = (same / tombstones.FILE).read_text()
    assert not any(clip_id in stones for clip_id in forgotten["ids"])


def test_forgetting_twice_finds_nothing(forgotten: dict[str, Any]):
    before = digests(forgotten["run"])
    done = forget([forgotten["run"], forgotten["world"]], forgotten["ids"], exporters())
    assert done["clips"] == 0 and done["not_found"] == 0
    assert digests(forgotten["run"]) == before


# ---- kill -9 at every single change of the disk, on a chain that takes milliseconds


def caption(number: int) -> str:
    return f"caption number {number} " + "word " * (number % 5)


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """A corpus, two stages over it, an unfinished third, a cache and a loose list."""
    home = tmp_path_factory.mktemp("kill") / "k"
    clips = [clip(i) for i in range(16)]
    (home / "videos").mkdir(parents=True)
    for i in range(16):
        (home / "videos" / f"{i}.mp4").write_bytes(b"video %d" % i)
    texts = [text(i, text=caption(i)) for i in range(16)]
    write_corpus(home / "c", clips, texts, video_root=home / "videos", source={}, num_parts=2)
    run_length(View(home / "c"), home / "a", minimum=20)
    run_length(open_view(home / "a"), home / "b", minimum=5, mark="?")
    run_length(open_view(home / "b"), home / "d", minimum=5, mark=".")
    (home / "d" / "manifest.json").unlink()
    with sqlite3.connect(home / "cache.sqlite") as cache:
        cache.execute("CREATE TABLE answers (request TEXT)")
        cache.executemany("INSERT INTO answers VALUES (?)", [(f"Rewrite: {caption(i)}",) for i in range(16)])
    cache.close()
    (home / "list.jsonl").write_text("".join(json.dumps({"clip_id": f"c{i:03d}"}) + "\n" for i in range(16)))
    return home


def killed_at(change: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that is killed before its n-th change of the disk. False: it made fewer."""
    child = os.fork()
    if child == 0:
        left = [change]

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def change_of_disk(*args: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return change_of_disk

        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_anywhere_and_done_again_it_is_as_if_undisturbed(chain: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a killed process loses nothing that it wrote
    gone = [f"c{i:03d}" for i in GONE]
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(chain, undisturbed)
    forget([undisturbed], gone, {})
    words = [i.encode() for i in gone] + [caption(i).encode() for i in GONE]
    assert holding(undisturbed, words) == []
    assert {row["state"] for row in check(undisturbed)} == {"ok", "unfinished"}
    expected = digests(undisturbed)
    kills = 0
    for change in range(0, 200, 13):
        home = tmp_path / "killed"
        shutil.copytree(chain, home)
        if not killed_at(change, lambda home=home: forget([home], gone, {})):
            break
        kills += 1
        before = digests(home)
        with contextlib.suppress(M2raapError):
            check(home)
        assert digests(home) == before, "a command that reads has changed something"
        forget_again(home, gone)
        assert digests(home) == expected, change
        shutil.rmtree(home)
    assert kills >= 6


def forget_again(home: Path, gone: list[str]) -> None:
    """The same command again, as the command line runs it."""
    (home.parent / "ids.txt").write_text("\n".join(gone))
    command_line("-q", "data", "forget", home, "--ids", home.parent / "ids.txt")


def command_line(*words: object) -> int:
    old = sys.argv
    sys.argv = ["m2raap", *map(str, words)]
    try:
        code = main.run_command_line()
    finally:
        sys.argv = old
    assert code == 0
    return code


def test_any_later_command_refuses_until_it_is_finished(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    assert killed_at(12, lambda: forget([home], ["c003"], {}))
    before = digests(home)
    assert list(home.rglob(MARK))
    for words in (
        ("explain", "c004", "--in", home / "b"),
        ("status", "--verify", home),
        ("data", "export", "csv", home / "b", "--out", "E"),
    ):
        assert m2raap(*words, check=1, cwd=tmp_path).stderr.count("a 'm2raap data forget' was interrupted here") == 1
        assert digests(home) == before
    finished = m2raap("data", "forget", home)
    assert "finishing a 'm2raap data forget' that was interrupted" in finished.stderr
    assert holding(home, [b"c003"]) == [] and not list(home.rglob(MARK))
    assert {row["state"] for row in check(home)} == {"ok", "unfinished"}


def test_what_the_folders_lie_on_has_to_be_named(chain: Path, tmp_path: Path):
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    before = digests(home)
    with pytest.raises(M2raapError, match=rf"was made from {home / 'c'}, .* name all of them"):
        forget([home / "a", home / "b"], ["c003"], {})
    (home / "elsewhere").symlink_to(home / "b")
    assert forget([home / "c"], ["c003"], {})["folders"] == {str(home / "c"): 1}
    assert {k: v for k, v in digests(home).items() if not k.startswith("c/")} == {
        k: v for k, v in before.items() if not k.startswith("c/")
    }


def test_parts_are_those_of_a_run_without_them(chain: Path, tmp_path: Path):
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    forget([home], [f"c{i:03d}" for i in GONE], {})
    stay = [i for i in range(16) if i not in GONE]
    old = open_corpus(chain / "c")
    texts = [row for row in old.all_rows("texts") if int(row["clip_id"][1:]) in stay]
    write_corpus(tmp_path / "c", [clip(i) for i in stay], texts, video_root=home / "videos", source={}, num_parts=2)
    run_length(View(tmp_path / "c"), tmp_path / "a", minimum=20)
    assert open_corpus(tmp_path / "c").digest == open_corpus(home / "c").digest
    new, fresh = (read_json(path / "a" / "manifest.json") for path in (home, tmp_path))
    assert new["files"] == fresh["files"] and new["inputs"] == fresh["inputs"]
    assert new["counts"] == fresh["counts"] | {"forgotten": len(GONE)}


def test_a_run_that_was_left_out_catches_up(chain: Path, tmp_path: Path):
    """The corpus forgets first; a stage folder elsewhere is then stale, and forgets without being told the ids."""
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    shutil.move(home / "d", tmp_path / "unfinished")
    forget([home / "c"], ["c003"], {})
    assert "damaged" in {row["state"] for row in check(home / "a")}
    assert forget([home / "a", home / "b", home / "c"], [], {})["clips"] == 1
    assert {row["state"] for row in check(home)} == {"ok"}
    assert holding(home / "a", [b"c003"]) == []


def test_a_whole_run_that_was_left_out_catches_up(small_world: Path, undisturbed: Path, tmp_path: Path):
    run, world = copied(undisturbed, small_world, tmp_path)
    clip_id = next(
        row["clip_id"] for row in open_view(run / "m2raap" / "rewrite").part(0).clips if row["split"] == "train"
    )
    forget([world], [clip_id], {})
    assert forget([run, world], [], {})["clips"] == 1
    assert {row["state"] for row in check(run)} == {"ok"}
    assert not any(clip_id in row["clip_id"] for folder in run.rglob("keyframes") for row in all_rows(folder, "frames"))


def test_all_that_has_to_be_named_is_said_at_once(small_world: Path, undisturbed: Path, tmp_path: Path):
    run, world = copied(undisturbed, small_world, tmp_path)
    with pytest.raises(M2raapError) as refusal:
        forget([run], ["t000001"], {})
    assert str(refusal.value).endswith(f"m2raap data forget {run} {world / 'train'} {world / 'test'}")


@pytest.mark.parametrize("kind", ["csv", "videofolder", "data-juicer"])
def test_an_export_of_a_stranger_deletes_no_file_of_the_users(chain: Path, tmp_path: Path, kind: str):
    (tmp_path / "important.docx").write_text("mine")
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    exporter = exporters()[kind]
    out = tmp_path / "E"
    out.mkdir()
    row = {"clip_id": "c003", "video": "../important.docx"}
    if kind == "csv":
        (out / "clips.csv").write_text("clip_id,video,caption_en\nc003,../important.docx,x\n")
    elif kind == "videofolder":
        (out / "train").mkdir()
        row = {"clip_id": "c003", "file_name": "../../important.docx"}
        (out / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    else:
        row = {"text": "x", "videos": ["../important.docx"], "images": [], "meta": {"clip_id": "c003"}}
        (out / "data.jsonl").write_text(json.dumps(row) + "\n")
    write_json(out / "export.json", {"kind": "export", "format": kind, "media": "videos", "counts": {}})
    assert exporter.clip_ids(out) == {"c003"}
    assert forget([out], ["c003"], exporters())["clips"] == 1
    assert (tmp_path / "important.docx").read_text() == "mine" and exporter.clip_ids(out) == set()


def test_scores_that_the_user_brought_lose_their_rows(chain: Path, tmp_path: Path):
    """And the stages that read them know the file by its new digest: the same command finds them done."""
    import pyarrow as pa

    home = tmp_path / "k"
    shutil.copytree(chain, home)
    rows = [{"clip_id": f"c{i:03d}", "nsfw": i / 16} for i in range(16)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "nsfw.parquet")
    run_length(View(home / "c").with_scores((tmp_path / "nsfw.parquet",)), home / "s", minimum=5)
    write_json(home / "run.json", {"data": "c", "benches": {}, "scores": ["../nsfw.parquet"], "steps": []})
    with pytest.raises(M2raapError, match=r"was made from .*nsfw.parquet"):
        forget([home], ["c003"], {})
    forget([home, tmp_path / "nsfw.parquet"], ["c003"], {})
    assert pq.read_table(tmp_path / "nsfw.parquet")["clip_id"].to_pylist() == [
        r["clip_id"] for r in rows if r["clip_id"] != "c003"
    ]
    open_scores.cache_clear()
    before = digests(home / "s")
    assert run_length(View(home / "c").with_scores((tmp_path / "nsfw.parquet",)), home / "s", minimum=5)
    assert digests(home / "s") == before


def test_a_limit_still_means_the_same_clips(chain: Path, tmp_path: Path):
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    before = View(home / "c").limited(8)
    clips = {row["clip_id"] for part in before.parts() for row in part.clips}
    gone = sorted(clips)[0]
    forget([home], [gone], {})
    after = View(home / "c").limited(8)
    assert after.cutoff == before.cutoff
    assert {row["clip_id"] for part in after.parts() for row in part.clips} == clips - {gone}


def test_videos_that_an_import_copied_go_too(tmp_path: Path):
    (tmp_path / "c" / "videos").mkdir(parents=True)
    for name in ("0", "1"):
        (tmp_path / "c" / "videos" / f"{name}.mp4").write_bytes(name.encode())
    clips = [clip(0), clip(1), clip(2, video="1.mp4", start_s=1.0)]
    write_corpus(tmp_path / "c", clips, [text(i) for i in range(3)], video_root=tmp_path / "c" / "videos", source={})
    done = forget([tmp_path / "c"], ["c000", "c001"], {})
    assert [path.name for path in (tmp_path / "c" / "videos").iterdir()] == ["1.mp4"]  # another clip is cut out of it
    assert done["video_files_left"] == []


def test_another_folder_that_nobody_can_take_apart_goes_whole(chain: Path, tmp_path: Path):
    home = tmp_path / "k"
    shutil.copytree(chain, home)
    base = read_json(home / "b" / "manifest.json")
    (home / "cubes").mkdir()
    (home / "cubes" / "flat.bin").write_bytes(b"vectors")
    manifest = {"kind": "stage", "stage": "cubes", "files": {}, "counts": {}, "models": {}, "settings": {}}
    write_json(home / "cubes" / "manifest.json", manifest | {"inputs": {"b": base["digest"]}, "digest": "0" * 32})
    done = forget([home], ["c003"], {})
    assert done["removed_whole"] == [str(home / "cubes")] and not (home / "cubes").exists()


def test_bad_lists_and_folders_are_named(tmp_path: Path, chain: Path):
    with pytest.raises(M2raapError, match="nowhere: no such folder"):
        forget([tmp_path / "nowhere"], ["x"], {})
    with pytest.raises(M2raapError, match="holds no run, corpus, stage folder or export"):
        forget([tmp_path], ["x"], {})
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(M2raapError, match=r"ids.txt: cannot be read as a list of clip ids"):
        read_ids(tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("\ufeffa\r\n\r\n b \na\n", encoding="utf-8")
    assert read_ids(tmp_path / "ids.txt") == ["a", "b"]
    (tmp_path / "stones.json").write_text("{}")
    with (
        pytest.raises(M2raapError, match=r"stones.json: is no tombstone file"),
        tombstones.honouring([tmp_path / "stones.json"]),
    ):
        pass


def test_half_an_array_is_named(tmp_path: Path):
    sink = io.BytesIO()
    np.save(sink, np.zeros((4, 2), np.float32))
    (tmp_path / "video.npy").write_bytes(sink.getvalue())
    with pytest.raises(M2raapError, match=r"4 rows for 5 ids"):
        _thin_rows(tmp_path / "video.npy", [True, False, True, True, False])
