"""caption with the planted truth of a small world: training corpus and benchmark, two parts, workers, resuming, digests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_tools.world.benchmark import write_benchmark
from data_tools.world.faults import CLIP_FAULTS, TEXT_FAULTS, FaultConfig
from data_tools.world.make import make_world
from data_tools.world.plan import WorldConfig
from m2raap.core.corpus import write_corpus
from m2raap.core.files import read_json
from m2raap.core.tables import read_all
from m2raap.core.videos import VideoDigests
from m2raap.core.view import open_view
from m2raap.stages.source import ViewSource, frame_captions, frame_captions_by_lang
from m2raap.video.limits import VideoConfig
from tests.conftest import digests
from tests.stages.test_rewrite import here

CLEAN = FaultConfig(**dict.fromkeys((*TEXT_FAULTS, *CLIP_FAULTS), 0.0))
NAME = "python:data_tools.world.frame_truth:FrameTruth"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world W with key-frames of its training clips (k), and a benchmark O with its own (kO)."""
    home = tmp_path_factory.mktemp("truth")
    out = home / "W"
    rows = make_world(WorldConfig(train_clips=6, val_clips=2, test_clips=1, seed=2, faults=CLEAN), out, workers=2)
    root: dict[str, Any] = {"video_root": out / "videos", "source": {"importer": "world"}}
    write_corpus(out / "train", rows.train_clips, rows.train_texts, num_parts=2, **root)
    write_benchmark(home / "O", "off_topic", 3, 2)
    for corpus, folder in ((out / "train", home / "k"), (home / "O", home / "kO")):
        here("keyframes", corpus, "--out", folder, "--set", "keyframes.k=6", "--workers", 1)
    return home


def command(home: Path, keyframes: str, out: Path, **options: Any) -> list[object]:
    settings = {"tables": f"[{home / 'W' / 'shots.parquet'}, {home / 'O' / 'shots.parquet'}]", **options}
    words = [word for key, value in settings.items() for word in ("--set", f"caption.options.{key}={value}")]
    return ["caption", home / keyframes, "--out", out, "--set", f"caption.name={NAME}", *words, "--allow-code"]


@pytest.mark.parametrize(("keyframes", "split"), [("k", "train"), ("kO", "test")])
def test_every_key_frame_gets_the_caption_of_what_is_drawn(
    world: Path, tmp_path: Path, keyframes: str, split: str
) -> None:
    here(*command(world, keyframes, tmp_path / "c"), "--workers", 1)
    moments: dict[str, list[dict[str, Any]]] = {}
    for path in (world / "W" / "shots.parquet", world / "O" / "shots.parquet"):
        for row in pq.read_table(path).to_pylist():
            moments.setdefault(row["clip_id"], []).append(row)
    texts = {row["text_id"]: row for row in read_all(tmp_path / "c", "texts")}
    frames = list(read_all(world / keyframes, "frames"))
    assert len(texts) == 2 * 6 * len(frames) and len(frames) == {"k": 8, "kO": 3}[keyframes]
    shots_of_clip = []
    for row in frames:
        shots = []
        for frame, time_s in enumerate(row["times_s"]):
            middle_s = time_s + 0.5 / 12  # no moment ends between a frame and the next one
            (moment,) = [m for m in moments[row["clip_id"]] if m["start_s"] <= middle_s < m["end_s"]]
            for lang in ("en", "zh"):
                text = texts[f"{row['clip_id']}.aux.{lang}{frame}"]
                assert (text["text"], text["frame_index"]) == (moment[f"caption_{lang}"], frame)
            shots.append(moment["shot"])
        shots_of_clip.append(len(set(shots)))
    source = ViewSource(open_view(tmp_path / "c"), split, VideoConfig(), VideoDigests(tmp_path / "videos.json"))
    captions = source.caption_columns()
    places = list(zip(captions.clip_M.tolist(), captions.frame_M.tolist(), strict=True))
    assert places == [(clip, frame) for clip in range(source.num_clips) for frame in range(6)]
    for (clip, frame), text in zip(places, captions.texts, strict=True):
        assert text == texts[f"{source.clip_ids[clip]}.aux.en{frame}"]["text"]
    assert len(source.clip_ids) >= 3
    assert max(shots_of_clip) > 1, "frames of off-topic shots have the captions of these"
    assert {row["producer"] for row in texts.values()} == {"planted truth, noise 0, missing 0, seed 0"}


def test_workers_and_resuming_change_nothing(world: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    here(*command(world, "k", one, noise=0.3, missing=0.2), "--workers", 1)
    here(*command(world, "k", two, noise=0.3, missing=0.2), "--workers", 2)
    assert digests(one) == digests(two) and len(list((one / "texts").iterdir())) == 2
    counts = read_json(one / "manifest.json")["counts"]
    outcomes = [row["caption_outcome"] for row in read_all(one, "signals") if row["text_id"]]
    assert counts["texts_added"] == outcomes.count("ok") and outcomes.count("skipped") > 0
    (two / "manifest.json").unlink()
    for table in ("texts", "signals"):
        next((two / table).glob("part-00001*")).unlink()
    here(*command(world, "k", two, noise=0.3, missing=0.2), "--workers", 1)
    assert digests(one) == digests(two)


def test_table_and_options_are_in_the_digest_of_the_stage(world: Path, tmp_path: Path, capsys) -> None:
    home = tmp_path / "home"
    shutil.copytree(world, home)
    base = command(home, "k", tmp_path / "c")
    here(*base, "--workers", 1)
    here(*command(home, "k", tmp_path / "c", noise=0.1), "--workers", 1, check=1)
    assert "caption.options.noise" in capsys.readouterr().err
    table = pq.read_table(home / "W" / "shots.parquet")
    pq.write_table(table.slice(1), home / "W" / "shots.parquet")
    here(*base, "--workers", 1, check=1)
    assert "tables" in capsys.readouterr().err
    here(*base[:-1], "--workers", 1, check=2)
    assert "--allow-code" in capsys.readouterr().err
    here(*command(home, "k", tmp_path / "d", noisy=0.1), "--workers", 1, check=2)
    assert "caption.options" in (message := capsys.readouterr().err) and "'noise'" in message
    here("caption", home / "k", "--out", tmp_path / "e", "--set", "caption.options.noise=0.1", check=2)
    assert "'options' is for a captioner python:module:class" in capsys.readouterr().err


def test_captions_by_language_and_in_the_first_language_that_has_one() -> None:
    texts: Any = [
        {"origin": "aux", "lang": "zh", "frame_index": 0, "text": "零"},
        {"origin": "aux", "lang": "en", "frame_index": 2, "text": "two"},
        {"origin": "aux", "lang": "zh", "frame_index": 2, "text": "二"},
        {"origin": "aux", "lang": "en", "frame_index": 9, "text": "of no frame"},
        {"origin": "raw", "lang": "en", "frame_index": None, "text": "of the clip"},
    ]
    by_lang = frame_captions_by_lang(texts, 3, ("en", "zh"))
    assert by_lang == {"en": [None, None, "two"], "zh": ["零", None, "二"]} and list(by_lang) == ["en", "zh"]
    assert frame_captions(texts, 3, ("en", "zh")) == ["零", None, "two"]
    assert frame_captions(texts, 3, ("zh", "en")) == ["零", None, "二"]
    assert frame_captions(texts, 3, ("en",)) == [None, None, "two"]
