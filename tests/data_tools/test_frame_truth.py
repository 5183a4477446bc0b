"""The captioner of planted captions: which caption a frame gets, shares of noise, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.world.frame_truth import FrameTruth, FrameTruthConfig
from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.curate.captioners import ClipFrames

LANGS = ["en", "zh"]
TIMES_S = [0.0, 0.4, 0.499996, 0.9]  # the third is that of the second moment's first frame, rounded


def table(path: Path, num_clips: int, prefix: str = "t") -> Path:
    """Clips of two moments, the cut at 0.5 s; a tenth of them are of the split test."""
    rows: list[dict[str, Any]] = [
        {
            "clip_id": f"{prefix}{i}", "split": "test" if i % 10 == 9 else "train", "start_s": at / 2, "end_s": at / 2 + 0.5,
            "caption_en": f"{prefix}{i} {at}", "caption_zh": f"{prefix}{i} {at} zh",
        }
        for i in range(num_clips)
        for at in (1, 0)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def captioner(*tables: Path, **options: Any) -> FrameTruth:
    return FrameTruth(FrameTruthConfig(tables=tuple(map(str, tables)), **options), None)


def clips(num: int, prefix: str = "t") -> list[ClipFrames]:
    return [ClipFrames(f"{prefix}{i}", [b""] * len(TIMES_S), TIMES_S) for i in range(num)]


def captions(truth: FrameTruth, frames: list[ClipFrames]) -> dict[tuple[str, int, str], str | None]:
    """(clip, frame, lang) -> text."""
    rows = zip(frames, truth.caption_many(frames, LANGS), strict=True)
    return {(clip.clip_id, row["frame_index"], row["lang"]): row["text"] for clip, several in rows for row in several}


def test_a_frame_gets_the_caption_of_its_time_in_both_languages(tmp_path: Path) -> None:
    truth = captioner(table(tmp_path / "a.parquet", 3), table(tmp_path / "b.parquet", 2, "o"))
    rows = truth.caption_many([*clips(1), ClipFrames("none", []), *clips(1, "o")], LANGS)
    assert [row["text"] for row in rows[0][::2]] == ["t0 0", "t0 0", "t0 1", "t0 1"]
    assert [row["text"] for row in rows[2][1::2]] == ["o0 0 zh", "o0 0 zh", "o0 1 zh", "o0 1 zh"]
    assert rows[1] == [] and [(row["frame_index"], row["lang"]) for row in rows[0]] == [
        (frame, lang) for frame in range(4) for lang in LANGS
    ]
    assert {row["outcome"] for row in rows[0]} == {"ok"}


@pytest.mark.parametrize(("noise", "missing"), [(0.0, 0.3), (0.25, 0.0), (0.25, 0.5), (1.0, 0.0)])
def test_shares_of_noise_and_of_missing_captions(tmp_path: Path, noise: float, missing: float) -> None:
    path, num = table(tmp_path / "t.parquet", 500), 500
    truth = captions(captioner(path), clips(num))
    got = captions(captioner(path, noise=noise, missing=missing, seed=3), clips(num))
    absent = {key for key, text in got.items() if text is None}
    wrong = {key for key, text in got.items() if text is not None and text != truth[key]}
    assert len(absent) / len(got) == pytest.approx(missing, abs=0.04)  # 2,000 frames: 3.6 standard deviations
    assert len(wrong) / len(got) == pytest.approx(noise, abs=0.04)
    for clip_id, frame, lang in wrong:
        english, text = got[clip_id, frame, "en"], got[clip_id, frame, lang]
        assert english and text == english + (" zh" if lang == "zh" else ""), "one moment for both languages"
        other = english.split()[0]
        assert other != clip_id and (other[-1] == "9") == (clip_id[-1] == "9"), "of another clip of the same split"
    if wrong:
        assert len({str(got[key]).split()[0] for key in wrong}) > 100


def test_a_caption_depends_on_its_frame_alone(tmp_path: Path) -> None:
    """Not on other clips or frames, nor on other tables; and with more noise, what was spoilt remains so."""
    path, other = table(tmp_path / "t.parquet", 200), table(tmp_path / "o.parquet", 50, "o")
    some = captions(captioner(path, noise=0.2, missing=0.1), clips(200))
    again = captions(captioner(other, path, noise=0.2, missing=0.1), list(reversed(clips(200))))
    assert some == again
    fewer = captioner(path, noise=0.2, missing=0.1).caption_many([ClipFrames("t7", [b""], [0.9])], LANGS)[0]
    assert [row["text"] for row in fewer] == [some["t7", 3, "en"], some["t7", 3, "zh"]]
    truth = captions(captioner(path), clips(200))
    more = captions(captioner(path, noise=0.5, missing=0.3), clips(200))
    assert {key for key in some if some[key] is None} < {key for key in more if more[key] is None}
    assert {key for key, text in some.items() if text not in (None, truth[key])} < {
        key for key, text in more.items() if text not in (None, truth[key])
    }
    assert captions(captioner(path, noise=0.2, missing=0.1, seed=1), clips(200)) != some


def test_what_it_refuses(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", 3)
    with pytest.raises(M2raapError, match=r"clip 'x0' is in none of .*t\.parquet"):
        captions(captioner(path), clips(1, "x"))
    with pytest.raises(M2raapError, match=r"clip 't1' has a key-frame at 1\.2 s"):
        captions(captioner(path), [ClipFrames("t1", [b""], [1.2])])
    with pytest.raises(M2raapError, match="clip 't0' is in another of the tables"):
        captioner(path, path)
    with pytest.raises(UsageError, match=r"caption\.options\.tables: .*nothing.parquet: no such file"):
        FrameTruth.dependencies(FrameTruthConfig(tables=(str(tmp_path / "nothing.parquet"),)))
    with pytest.raises(UsageError, match=r"noise and missing .* add up to 1\.2"):
        build(FrameTruthConfig, {"tables": ["x"], "noise": 0.7, "missing": 0.5}, "mine.yaml")
    with pytest.raises(M2raapError, match="clip 't0' is the only one of its table and split"):
        captions(captioner(table(tmp_path / "one.parquet", 1), noise=1.0), clips(1))
    (tmp_path / "text.parquet").write_text("no table", encoding="utf-8")
    with pytest.raises(M2raapError, match="text.parquet: cannot be read as a table of moments"):
        captioner(tmp_path / "text.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["end_s"]), tmp_path / "less.parquet")
    with pytest.raises(M2raapError, match="less.parquet: cannot be read as a table of moments"):
        captioner(tmp_path / "less.parquet")
    holes = pq.read_table(path).drop_columns(["caption_zh"]).append_column("caption_zh", pa.nulls(6, pa.string()))
    pq.write_table(holes, tmp_path / "holes.parquet")
    with pytest.raises(M2raapError, match="holes.parquet: has no value in some rows of caption_zh"):
        captioner(tmp_path / "holes.parquet")
