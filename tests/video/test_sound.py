"""The sound of clips: where its tones lie, and what becomes of odd and broken sound, which never costs the picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_data_stage
from m2raap.core.tables import read_all
from m2raap.core.view import View
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.sound import FLOOR_DB, NUM_BANDS, NUM_SEGMENTS, read_sound
from m2raap.video.worker import VideoWorker
from tests.video.sounds import CASES, film, write

LIMITS = VideoConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sounds")
    write(path)
    return path


@pytest.fixture(scope="module")
def worker() -> Iterator[VideoWorker]:
    with VideoWorker() as worker:
        yield worker


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_it(name: str, folder: Path, worker: VideoWorker) -> None:
    pid = worker.probe(folder / "tone.mp4") and worker.pid
    try:
        sound = worker.sound(folder / name, 0.0, 2.0)
        state = "none" if sound is None else "ok"
    except Refused as refused:
        sound, state = None, refused.reason
    assert state == CASES[name][0]
    if sound is not None:
        db = np.frombuffer(sound, np.float16)
        assert db.size == NUM_SEGMENTS * NUM_BANDS and np.isfinite(db).all() and db.min() >= FLOOR_DB
    assert worker.pid == pid, "no file ends the decoder's process"


def loud(path: Path, start_s: float = 0.0, length_s: float = 2.0) -> np.ndarray:
    """Which segments are heard, and the band of the peak there."""
    db_SF = read_sound(path, start_s, length_s, LIMITS).db_SF
    assert db_SF is not None
    return (db_SF.max(1) > -20).astype(int) * (1 + db_SF.argmax(1))


def test_a_tone_has_its_band_at_any_rate_and_its_level(folder: Path, tmp_path: Path) -> None:
    bands = {
        name: loud(folder / name) for name in ("tone.mp4", "8_khz.mp4", "flac.mkv", "64_channels.mkv", "float.mov")
    }
    peaks = {name: np.bincount(bands[name]).argmax() for name in bands}
    assert len(set(peaks.values())) == 1
    film(tmp_path / "high.mp4", "sine=frequency=3000:sample_rate=44100:duration=2")
    assert np.bincount(loud(tmp_path / "high.mp4")).argmax() > next(iter(peaks.values())) + 20
    levels = []
    for gain in (1.0, 0.1):
        film(tmp_path / "level.mkv", f"aevalsrc={gain}*sin(440*2*PI*t):s=16000:d=2", acodec="flac")
        db_SF = read_sound(tmp_path / "level.mkv", 0.0, 2.0, LIMITS).db_SF
        assert db_SF is not None
        levels.append(float(db_SF[20:80].max()))
    assert levels[0] - levels[1] == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize(
    ("name", "start_s", "length_s", "part"),
    [
        ("shorter.mp4", 0.0, 2.0, (0.0, 0.25)),
        ("late.mkv", 0.0, 2.0, (0.5, 1.0)),
        ("shorter.mp4", 0.25, 1.0, (0.0, 0.25)),
        ("late.mkv", 0.5, 1.0, (0.5, 1.0)),
        ("longer.mp4", 1.0, 4.0, (0.0, 1.0)),
    ],
)
def test_it_is_heard_when_it_sounds(name: str, start_s: float, length_s: float, part: tuple, folder: Path) -> None:
    is_loud = loud(folder / name, start_s, length_s) > 0
    expected = np.zeros(NUM_SEGMENTS, bool)
    expected[round(part[0] * NUM_SEGMENTS) : round(part[1] * NUM_SEGMENTS)] = True
    wrong = np.flatnonzero(is_loud != expected)
    edges = np.array(part) * NUM_SEGMENTS
    # A window is 25 ms long, and AAC spreads an edge over 23 ms; the last window ends with the sound.
    assert all(np.abs(edges - place).min() <= 0.06 / length_s * NUM_SEGMENTS + 1 for place in wrong)


def test_a_clip_shorter_than_its_segments_has_no_gaps(folder: Path) -> None:
    db_SF = read_sound(folder / "flac.mkv", 0.5, 0.2, LIMITS).db_SF
    assert db_SF is not None
    assert (db_SF[5:-20].max(1) > 0).all()


def test_the_stage_keeps_pictures_whatever_is_wrong_with_the_sound(folder: Path, tmp_path: Path) -> None:
    names = ["tone.mp4", "silent.mp4", "another_codec.avi", "noisy_sound.ts"]
    clips = [{"clip_id": n, "video": n, "start_s": None, "end_s": None, "split": "train"} for n in names]
    corpus = write_corpus(tmp_path / "c", clips, [], video_root=folder, source={}, num_parts=1)
    view = View(corpus.path)
    for senses, columns in (((), set()), (("sound", "motion"), {"sound", "motion"})):
        out = tmp_path / "-".join(("k", *senses))
        stage = KeyframesStage(KeyframesConfig(k=2, senses=senses))
        assert run_data_stage(stage, view, out, LocalEngine(1))
        frames = {row["clip_id"]: len(row["jpegs"]) for row in read_all(out, "frames")}
        assert frames == dict.fromkeys(names, 2)
        assert (out / "senses").exists() == bool(columns)
    rows = {row["clip_id"]: row for row in read_all(out, "senses")}
    states = {name: row["sound_state"] for name, row in rows.items()}
    assert states == dict(zip(names, ("ok", "none", "unsupported_codec", "none"), strict=True))
    assert [rows[name]["sound"] is not None for name in names] == [True, False, False, False]
    assert all(row["motion"] is not None for row in rows.values())
