from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import ffmpeg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.core.config import build
from m2raap.core.corpus import open_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import read_json
from m2raap.core.replace import replacing
from m2raap.core.signed import verify_files
from m2raap.core.tables import read_all
from m2raap.stages import reasons
from m2raap.stages.split import SplitConfig, SplitDone, as_name, pieces, split
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.paths import resolve_video
from m2raap.video.scenes import Scenes
from m2raap.video.worker import VideoWorker
from tests.conftest import digests, m2raap
from tests.video.conftest import encode

CFG = SplitConfig()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """long.mp4: shots of 2, 0.8, 5 and 1.6 s; sub/-odd name: one shot of 1 s; and what is no good video."""
    folder = tmp_path_factory.mktemp("raw")
    names = (
        ("testsrc2", 2),
        ("mandelbrot", 0.8),
        ("life=seed=7:mold=10:ratio=0.3:death_color=red", 5),
        ("smptehdbars", 1.6),
    )
    shots = [
        ffmpeg.input(f"{name}{':' if '=' in name else '='}s=160x90:r=25", f="lavfi", t=length_s).filter(
            "format", "yuv420p"
        )
        for name, length_s in names
    ]
    encode(ffmpeg.concat(*shots), folder / "long.mp4", g=100)
    (folder / "sub").mkdir()
    encode(ffmpeg.input("testsrc2=s=160x90:r=25:d=1", f="lavfi"), folder / "one.mp4")
    (folder / "one.mp4").rename(folder / "sub" / "-o#d\n 猫.mp4")
    (folder / "cut off.mp4").write_bytes((folder / "long.mp4").read_bytes()[:9000])
    (folder / "notes.txt").write_text("not a video")
    (folder / "leaves.mp4").symlink_to(Path(__file__))
    return folder


def run(
    paths: list[Path], out: Path, cfg: SplitConfig = CFG, scenes: Path | None = None, workers: int = 1
) -> SplitDone:
    engine = LocalEngine(workers)
    try:
        return split(paths, out, cfg, engine, scenes)
    finally:
        engine.close()


def rows(out: Path, table: str) -> list[dict]:
    return list(read_all(out, table))


def spans(out: Path) -> list[tuple[str, float, float]]:
    return [(row["video"], row["start_s"], row["end_s"]) for row in rows(out, "clips")]


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("split") / "C"
    done = run([raw], out)
    assert (done.num_videos, done.left_out) == (4, 1)
    assert done.dropped == {"clip_too_short": 1, "header_missing": 1, "not_media": 1}
    return out


def test_shots_become_clips(whole: Path) -> None:
    found = {row["clip_id"]: row for row in rows(whole, "clips")}
    assert list(found) == ["long.mp4.00000", "long.mp4.00002", "long.mp4.00003", "sub+-o%23d%0A%20猫.mp4.00000"]
    edges = [(found[i]["start_s"], found[i]["end_s"]) for i in list(found)[:3]]
    assert edges == [pytest.approx(pair) for pair in ((0.0, 2.0), (2.8, 7.8), (7.8, 9.4))]
    corpus = open_corpus(whole)
    for row in found.values():
        assert row["source"] == row["video"] and resolve_video(corpus.video_root, row["video"]).is_file()
    assert {row["split"] for row in found.values()} == {"train", "val"}  # by video
    assert len({row["split"] for row in found.values() if row["video"] == "long.mp4"}) == 1
    assert corpus.counts == {"clips": 4, "texts": 0, "missing_file": 0, "dropped": 3}


def test_what_was_dropped_says_why(whole: Path) -> None:
    dropped = {row["clip_id"]: row for row in rows(whole, "dropped")}
    assert set(dropped) == {"long.mp4.00001", "cut%20off.mp4", "notes.txt"}
    short = dropped["long.mp4.00001"]
    assert (short["reason"], short["score"], short["threshold"]) == ("clip_too_short", pytest.approx(0.8), 1.0)
    assert all(row["stage"] == "split" and row["reason"] in reasons() and row["detail"] for row in dropped.values())


def test_same_bytes_for_two_workers_and_files_when_asked(raw: Path, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"cut": True, "max_s": 3.0})
    one, two = tmp_path / "one", tmp_path / "two"
    run([raw], one, cfg)
    run([raw / "sub", raw / "long.mp4", raw / "notes.txt", raw], two, cfg, workers=2)
    assert digests(one) == digests(two)
    clips = rows(one, "clips")
    assert [row["source"] for row in clips if row["clip_id"] == "long.mp4.00003"] == ["long.mp4#t=5.300000,7.800000"]
    assert all(row["start_s"] is None and row["end_s"] is None for row in clips)
    with VideoWorker() as worker:
        frames = [worker.probe((one / "videos" / row["video"]).resolve()).num_frames for row in clips]
    assert frames == [50, 63, 62, 40, 25]
    assert sorted(p.name for p in (one / "videos").iterdir()) == sorted(row["video"] for row in clips)


def test_goes_on_after_an_interruption_and_sweeps_up(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = CFG.model_copy(update={"cut": True})
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    run([raw], undisturbed, cfg)
    from m2raap.stages import split as module

    cuts: list[str] = []
    real_cut = module.cut

    def failing_cut(path: Path, start_s: float, end_s: float, scenes: Scenes, target: Path, limits: object) -> None:
        if len(cuts) == 2:
            raise KeyboardInterrupt
        cuts.append(target.name)
        real_cut(path, start_s, end_s, scenes, target, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "cut", failing_cut)
    with pytest.raises(KeyboardInterrupt):
        run([raw], out, cfg)
    (out / "videos" / ".half.mp4.1.tmp").write_bytes(b"half")
    monkeypatch.setattr(VideoWorker, "scenes", _never)  # long.mp4 is known; only the videos after it are looked at
    with pytest.raises(AssertionError, match="notes.txt"):
        monkeypatch.setattr(module, "cut", real_cut)
        run([raw], out, cfg)
    monkeypatch.undo()
    again: list[str] = []
    monkeypatch.setattr(module, "cut", lambda *args: (again.append(args[4].name), real_cut(*args)))
    run([raw], out, cfg)
    assert not set(again) & set(cuts)
    assert digests(out) == digests(undisturbed)
    # Other lengths, and no files: nothing is decoded again, and what was cut goes.
    (out / "videos" / "mine.mp4").write_bytes(b"not ours")
    monkeypatch.setattr(VideoWorker, "scenes", _never)
    before = digests(out)
    with pytest.raises(M2raapError, match="--force"):  # before a cut of the corpus is touched
        run([raw], out, CFG.model_copy(update={"min_s": 0.5}))
    assert digests(out) == before
    with replacing(True):
        run([raw], out, CFG.model_copy(update={"min_s": 0.5}))
    assert len(rows(out, "clips")) == 5
    assert [p.name for p in (out / "videos").iterdir()] == ["mine.mp4"]


def _never(self: VideoWorker, path: Path, *_: object) -> None:
    raise AssertionError(f"decoded again: {path}")


def test_a_changed_video_is_looked_at_again(raw: Path, tmp_path: Path) -> None:
    video, out = tmp_path / "v" / "x.mp4", tmp_path / "out"
    video.parent.mkdir()
    shutil.copy(raw / "long.mp4", video)
    run([video], out)
    assert len(spans(out)) == 3
    shutil.copy(raw / "sub" / "-o#d\n 猫.mp4", video)
    with pytest.raises(M2raapError, match="3 clips .* 1 clips .* --force"):
        run([video], out)
    assert len(spans(out)) == 3
    with replacing(True):
        run([video], out)
    assert spans(out) == [("x.mp4", 0.0, 1.0)]


def test_scene_lists_instead_of_detection(raw: Path, tmp_path: Path) -> None:
    header = "Scene Number,Start Time (seconds),End Time (seconds)\n"
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "long-Scenes.csv").write_text(
        "Timecode List:,00:00:03.000\n" + header + "1,0.0,3.0\n2,3.0,4.2\n3,5.0,90.0\n"
    )
    out = tmp_path / "out"
    run([raw / "long.mp4"], out, scenes=lists / "long-Scenes.csv")
    assert spans(out) == [("long.mp4", *span) for span in ((0.0, 2.9995), (2.9995, 4.1995), (4.9995, 9.4))]
    assert open_corpus(out).source["detector"] == "scene list"
    run([raw / "long.mp4"], tmp_path / "same", scenes=lists)
    assert spans(tmp_path / "same") == spans(out)
    with pytest.raises(UsageError, match="4 videos"):
        run([raw], out, scenes=lists / "long-Scenes.csv")
    with pytest.raises(M2raapError, match="-Scenes.csv"):
        run([raw], out, scenes=lists)
    (lists / "long-Scenes.csv").write_text(header + "1,0.0,3.0\n2,30.0,31.0\n")
    with pytest.raises(M2raapError, match=r"long.mp4: .*30.000 s.*9.4"):
        run([raw / "long.mp4"], out, scenes=lists)


def test_spans_of_a_late_picture_are_times_of_a_player(tmp_path: Path) -> None:
    """The sound starts 0.8 s before the picture: spans count from it, whereas a scene list counts from the first frame."""
    late, out = tmp_path / "late.mkv", tmp_path / "out"
    colours = ffmpeg.concat(*(ffmpeg.input(f"color={c}:s=64x48:r=25:d=1.2", f="lavfi") for c in ("red", "blue")))
    sound = ffmpeg.input("sine=d=4", f="lavfi")
    options = {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv420p", "acodec": "aac"}
    made = ffmpeg.output(colours.filter("setpts", "PTS+0.8/TB"), sound, str(late), **options)
    run_ffmpeg(made.compile(cmd=ffmpeg_exe()))
    run([late], out, build(SplitConfig, {"detector": "content"}, "split"))
    assert spans(out) == [("late.mkv", 0.8, 2.0), ("late.mkv", 2.0, pytest.approx(3.2, abs=0.001))]
    (tmp_path / "late-Scenes.csv").write_text("Start Time (seconds),End Time (seconds)\n0.0,1.2\n1.2,2.4\n")
    run([late], tmp_path / "listed", scenes=tmp_path / "late-Scenes.csv")
    assert spans(tmp_path / "listed") == [("late.mkv", 0.8, 1.9995), ("late.mkv", 1.9995, 3.1995)]
    run([late], tmp_path / "cut", CFG.model_copy(update={"cut": True}), scenes=tmp_path / "late-Scenes.csv")
    with VideoWorker() as worker:
        cut = [
            worker.probe((tmp_path / "cut/videos" / row["video"]).resolve()) for row in rows(tmp_path / "cut", "clips")
        ]
    assert [probe.num_frames for probe in cut] == [30, 30]


def test_a_wrong_scene_list_leaves_out_its_own_video_alone(raw: Path, tmp_path: Path, capsys) -> None:
    videos = [tmp_path / f"{name}.mp4" for name in ("good", "turned", "longer")]
    for video in videos:
        shutil.copy(raw / "sub" / "-o#d\n 猫.mp4", video)
    header = "Scene Number,Start Time (seconds),End Time (seconds)\n"
    for name, scenes in (
        ("good", "1,0.0,1.0\n"),
        ("turned", "1,0.0,0.5\n2,0.5,0.2\n"),
        ("longer", "1,0.0,1.0\n2,30,31\n"),
    ):
        (tmp_path / f"{name}-Scenes.csv").write_text(header + scenes)
    done = run(videos, tmp_path / "out", SplitConfig(min_s=0.5), scenes=tmp_path)
    assert {row["video"] for row in rows(tmp_path / "out", "clips")} == {"good.mp4"}
    assert done.dropped == {"bad_scene_list": 2}
    drops = {row["clip_id"]: row["detail"] for row in rows(tmp_path / "out", "dropped")}
    assert "turned-Scenes.csv: row 3" in drops["turned.mp4"] and "30.000 s" in drops["longer.mp4"]
    talk = capsys.readouterr().err
    assert drops["turned.mp4"] in talk and drops["longer.mp4"] in talk
    with pytest.raises(M2raapError, match=r"longer.mp4: .*turned-Scenes.csv: row 3"):
        run(videos[1:], tmp_path / "none", scenes=tmp_path)


def test_names_that_a_corpus_cannot_hold(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    good = (raw / "sub" / "-o#d\n 猫.mp4").read_bytes()
    (folder / "fine.mp4").write_bytes(good)
    (folder / "C:x.mp4").write_bytes(good)  # a drive, where a corpus may travel to
    with open(os.fsencode(folder) + b"/\xff.mp4", "wb") as file:
        file.write(good)
    run([folder], tmp_path / "out")
    assert [(row["clip_id"], row["reason"]) for row in rows(tmp_path / "out", "dropped")] == [
        ("%FF.mp4", "bad_name"),
        ("C%3Ax.mp4", "bad_name"),
    ]
    run([folder], tmp_path / "cut", CFG.model_copy(update={"cut": True}))
    assert [row["clip_id"] for row in rows(tmp_path / "cut", "clips")] == [
        "%FF.mp4.00000",
        "C%3Ax.mp4.00000",
        "fine.mp4.00000",
    ]


def test_nothing_left_nothing_there_and_another_folder(raw: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match="no clip is left of 1 videos.*not_media"):
        run([raw / "notes.txt"], tmp_path / "out")
    with pytest.raises(M2raapError, match=str(raw / "absent")):
        run([raw / "absent"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(M2raapError, match=str(tmp_path / "empty")):
        run([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(M2raapError, match=str(raw)):
        run([raw], raw)
    with pytest.raises(UsageError, match="min_s 2 .*max_s 3"):
        build(SplitConfig, {"min_s": 2, "max_s": 3}, "split")
    with pytest.raises(UsageError, match="detector: .*adaptiv"):
        build(SplitConfig, {"detector": "adaptiv"}, "split")


@given(
    st.lists(st.floats(0.01, 500), min_size=1, max_size=5),
    st.floats(0.1, 100),
)
def test_pieces_cover_the_shots_equally(lengths: list[float], max_s: float) -> None:
    shots, start = [], 0.0
    for length in lengths:
        shots.append((start, start + length))
        start += length
    found = pieces(shots, max_s)
    assert [a for a, _ in found[1:]] == [b for _, b in found[:-1]]
    assert all(0 < b - a <= max_s + 2e-6 for a, b in found)
    for low, high in shots:
        inside = [b - a for a, b in found if a >= low - 1e-6 and b <= high + 1e-6]
        assert sum(inside) == pytest.approx(high - low, abs=1e-5)
        assert max(inside) - min(inside) < 1e-5 and (len(inside) == 1 or sum(inside) / (len(inside) - 1) > max_s - 1e-3)


@given(st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=2, unique=True))
def test_names_are_safe_and_different(videos: list[str]) -> None:
    videos = [v.encode("utf-8", "ignore").decode() for v in videos]
    names = [as_name(video) for video in videos]
    for name in names:
        assert len(name.encode()) <= 120 and name == os.path.basename(name) and not name.startswith((".", "-"))
        assert name.isprintable() and not set(name) & set(' :*?"<>|\\\n#&')
    assert (names[0] == names[1]) == (videos[0] == videos[1])


def test_command_line_and_the_stages_after_it(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "C"
    done = json.loads(
        m2raap(
            "data", "split", raw, "--out", out, "--detector", "content", "--max-s", 4, "--workers", 1, "--json"
        ).stdout
    )
    assert done["clips"] == 5 and done["videos"] == 4 and done["dropped"]["not_media"] == 1
    assert verify_files(out, read_json(out / "manifest.json")["files"]) == []
    m2raap("keyframes", out, "--out", tmp_path / "K", "--workers", 1)
    frames = rows_of(tmp_path / "K", "frames")
    assert {row["clip_id"]: len(row["jpegs"]) for row in frames} == dict.fromkeys(
        [row["clip_id"] for row in rows(out, "clips")], 8
    )


def rows_of(folder: Path, table: str) -> list[dict]:
    return list(read_all(folder, table))
