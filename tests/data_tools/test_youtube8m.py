"""YouTube-8M's records come in exactly, at both levels, and leave again; what is damaged or odd is named."""

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.tf_example import serialise
from data_tools.youtube8m import import_youtube8m
from data_tools.youtube8m_records import quantised, read_video
from data_tools.youtube8m_vocabulary import numbered, read_vocabulary, write_vocabulary
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError
from m2raap.core.replace import replacing
from m2raap.core.view import View
from tests.conftest import m2raap
from tests.data_tools.test_tfrecord import entry, field, framed

VOCABULARY = "Index,TrainVideoCount,KnowledgeGraphId,Name\n0,9,/m/a,Game\n1,8,/m/b,\n2,7,/m/c,Car\n3,6,/m/d,Game\n"
RGB, AUDIO = np.linspace(-3, 3, 8), np.array([0.5, -0.125])


def example(video_id: str, labels: list[int], rgb: Any = RGB, **more: Any) -> bytes:
    return serialise({"id": [video_id.encode()], "labels": labels, "mean_rgb": np.asarray(rgb)} | more)


def put(folder: Path, name: str, *records: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(map(framed, records)))
    return folder


def signals(corpus: Corpus) -> dict[str, Any]:
    return {key: row for part in View(corpus.path).parts(("signals",)) for key, row in part.signals.items()}


def vectors(row: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(row["features"], "<f2").reshape(-1, row["dim"])


def test_video_level_records_come_in_exactly(tmp_path: Path, capsys):
    # Written out by hand, field by field: tag, length, content.
    features = entry("id", field(1, field(1, b"aB-_"))) + entry("labels", field(3, field(1, bytes([3, 2]))))
    features += entry("mean_audio", field(2, field(1, struct.pack("<2f", *AUDIO))))
    features += entry("mean_rgb", field(2, field(1, struct.pack("<8f", *RGB))))
    put(tmp_path / "f", "train0093.tfrecord", field(1, features))
    put(tmp_path / "f", "test00.tfrecord", example("tttt", [], mean_audio=AUDIO))
    put(tmp_path / "f", "validate-1.tfrecord", example("vvvv", [1], mean_audio=AUDIO, more=[1]))
    (tmp_path / "f" / "vocabulary.csv").write_text(VOCABULARY)
    (corpus,) = import_youtube8m(tmp_path / "f", tmp_path / "C")
    clips = {row["clip_id"]: row for row in corpus.all_rows("clips")}
    assert {name: row["split"] for name, row in clips.items()} == {"aB-_": "train", "tttt": "test", "vvvv": "val"}
    assert clips["aB-_"]["video"] == "youtube8m/aB-_" and corpus.counts["texts"] == 0
    rows = signals(corpus)
    assert {name: row["labels"] for name, row in rows.items()} == {
        "aB-_": ["Game (3)", "Car"],
        "tttt": None,
        "vvvv": ["1"],
    }
    expected = np.concatenate([RGB, AUDIO]).astype("<f2")[None]
    assert all((vectors(row) == expected).all() and row["dim"] == 10 for row in rows.values())
    source = dict(corpus.source)
    assert source.pop("vocabulary") == {"0": "Game (0)", "1": "1", "2": "Car", "3": "Game (3)"}
    assert source == {
        "importer": "youtube8m",
        "holds": "vectors and labels, no videos",
        "level": "video",
        "dim": 10,
        "columns_not_read": {"*.tfrecord": ["more"]},
    }
    err = capsys.readouterr().err
    assert "not read of the records: more" in err and "missing" not in err


def test_frame_level_records_are_dequantised_as_the_starter_kit_does(tmp_path: Path):
    rgb, audio = np.arange(256, dtype=np.uint8).reshape(4, 64), np.arange(8, dtype=np.uint8).reshape(4, 2)
    frames = {name: [[row.tobytes()] for row in rows] for name, rows in (("rgb", rgb), ("audio", audio))}
    put(tmp_path / "f", "train.tfrecord", serialise({"video_id": [b"old-format-"], "labels": [7]}, frames))
    (corpus,) = import_youtube8m(tmp_path / "f" / "train.tfrecord", tmp_path / "C")
    (row,) = signals(corpus).values()
    scalar, bias = (2.0 - -2.0) / 255.0, (2.0 - -2.0) / 512.0 + -2.0
    assert row["clip_id"] == "old-format-" and row["labels"] == ["7"] and row["dim"] == 66
    whole = np.concatenate([rgb, audio], axis=1)
    in_tensorflow = whole.astype(np.float32) * np.float32(scalar) + np.float32(bias)  # which computes in float32
    assert (vectors(row) == in_tensorflow.astype("<f2")).all() and np.abs(
        vectors(row) - (whole * scalar + bias)
    ).max() < 1e-3
    assert (quantised(vectors(row)) == whole).all(), "float16 keeps every byte"
    assert corpus.source["level"] == "frame" and "vocabulary" not in corpus.source


def test_a_clip_is_the_same_whatever_the_files(tmp_path: Path):
    records = [example(f"i{number:03d}", [number % 5], RGB * number) for number in range(90)]
    put(tmp_path / "a", "train0.tfrecord", *records)
    for number in range(9):
        put(tmp_path / "b", f"train{number}.tfrecord", *records[number::9])
    one, many = (import_youtube8m(tmp_path / name, tmp_path / name.upper())[0] for name in "ab")
    assert one.digest == many.digest and one.num_parts == 3 and len(signals(one)) == 90
    put(tmp_path / "a", "train0.tfrecord", *records[1:])
    with pytest.raises(M2raapError, match="use --force to replace it"):
        import_youtube8m(tmp_path / "a", tmp_path / "A")
    with replacing(True):
        assert import_youtube8m(tmp_path / "a", tmp_path / "A")[0].counts["clips"] == 89


FRAMES = {"rgb": [[b"12"], [b"34"]]}
BAD: list[tuple[list[bytes], str]] = [
    ([example("a", []), example("a", [])], r"record 2 at byte \d+: the id 'a' is in .*train0.tfrecord already"),
    ([example("a", []), example("b", [], RGB[1:])], "record 2 .*: its vectors have 7 values, and those before it 8"),
    (
        [example("a", []), serialise({"id": [b"b"]}, FRAMES)],
        "record 2 .*: is frame-level, and those before it are video",
    ),
    ([example("a", [], [1, np.nan])], "record 1 at byte 0: has features that are NaN, infinite"),
    ([example("a", [], [1, -np.inf])], "has features that are NaN, infinite"),
    ([example("a", [], [1, 1e6])], r"too large for float16"),
    ([example("a", [4])], "record 1 .*: the label 4 is not in vocabulary.csv, which has 4"),
    ([example("a", [-1])], "has the label -1"),
    ([serialise({"id": [b"a"], "mean_inc": np.ones(2)})], "has no features: .*, and has id, mean_inc"),
    ([serialise({"id": [b"a"], "mean_rgb": [1, 2]})], "'mean_rgb' holds no floats"),
    ([serialise({"mean_rgb": RGB})], "has no values of 'id'"),
    ([serialise({"id": [b"a", b"b"], "mean_rgb": RGB})], "has 2 values of 'id'"),
    ([serialise({"id": [b"\xff"], "mean_rgb": RGB})], "is not UTF-8"),
    ([example("a\nb", [])], "without control characters"),
    ([example("", [])], "expected 1 to 500 characters"),
    ([serialise({"id": [b"a"]}, {"rgb": []})], "'rgb' is no list of frames"),
    ([serialise({"id": [b"a"]}, {"rgb": [[b"12"], [b"3"]]})], "'rgb' is no list of frames .* all of one length"),
    ([serialise({"id": [b"a"]}, {"rgb": [[b"12", b"34"]]})], "'rgb' is no list of frames"),
    ([serialise({"id": [b"a"]}, FRAMES | {"audio": [[b"1"]]})], "has 2 frames of 'rgb' and 1 of 'audio'"),
    ([b"\x0a\x7f"], "record 1 at byte 0: "),
    ([], "hold no record"),
]


@pytest.mark.parametrize(("records", "message"), BAD)
def test_odd_records_are_named(records: list[bytes], message: str, tmp_path: Path):
    put(tmp_path / "f", "train0.tfrecord", *records)
    (tmp_path / "f" / "vocabulary.csv").write_text(VOCABULARY)
    with pytest.raises(M2raapError, match=message):
        import_youtube8m(tmp_path / "f", tmp_path / "C")
    assert not (tmp_path / "C" / "manifest.json").exists()


def test_odd_folders_and_vocabularies_are_named(tmp_path: Path):
    def fails(source: Path, message: str) -> None:
        with pytest.raises(M2raapError, match=message):
            import_youtube8m(source, tmp_path / "C")

    fails(tmp_path / "none", "no such file or folder")
    fails(tmp_path, "holds no .tfrecord file")
    folder = put(tmp_path / "f", "eval.tfrecord", example("a", []))
    fails(folder, "eval.tfrecord: its name has to begin with train, validate or test")
    (folder / "eval.tfrecord").rename(folder / "train.tfrecord")
    for text, message in (
        ("Index,Name\n0,a\n0,b\n", "row 3, column 'Index': 0 is there twice"),
        ("Index,Name\n-1,a\n", "row 2, column 'Index': expected a number from 0, found '-1'"),
        ("Number,Name\n1,a\n", "no column 'Index'"),
        ("Index,Name\n", "holds no label"),
    ):
        (folder / "vocabulary.csv").write_text(text)
        fails(folder, message)


def test_a_file_that_changes_between_the_passes_is_noticed(tmp_path: Path, monkeypatch):
    import data_tools.youtube8m as importer

    folder = put(tmp_path / "f", "train.tfrecord", example("aaaa", []))
    real = importer.write_corpus

    def changed(*args: Any, **more: Any) -> Corpus:
        put(folder, "train.tfrecord", example("bbbb", []))
        return real(*args, **more)

    monkeypatch.setattr(importer, "write_corpus", changed)
    with pytest.raises(M2raapError, match="has changed while it was imported"):
        import_youtube8m(folder, tmp_path / "C")


def test_the_command_tells_what_the_corpus_is(tmp_path: Path):
    folder = put(tmp_path / "f", "train.tfrecord", *(example(f"i{number}", [1]) for number in range(3)))
    done = m2raap("data", "import", "youtube8m", folder, "--out", tmp_path / "C")
    assert "training corpus, 3 clips, 0 missing_file, 0 texts" in done.stdout
    assert "holds: vectors and labels, no videos" in done.stdout
    assert "missing below" not in done.stderr
    told = m2raap("data", "import", "youtube8m", folder, "--out", tmp_path / "D", "--holdout", 1, check=2).stderr
    assert "does not use --holdout; it has no options of its own" in told
    told = m2raap("keyframes", tmp_path / "C", "--out", tmp_path / "K", check=3).stderr
    assert "the corpus holds vectors and labels, no videos; use stages that read no videos" in told


def test_labels_without_a_vocabulary_are_numbered(tmp_path: Path):
    assert numbered(["10", "2"]) == {2: "2", 10: "10"}
    assert numbered(["b", "a", "b", "07"]) == {0: "07", 1: "a", 2: "b"}
    names = {0: "=1+1", 3: "'=x", 7: 'Car, "fast"'}
    write_vocabulary(tmp_path / "vocabulary.csv", names)
    assert read_vocabulary(tmp_path / "vocabulary.csv") == names
    assert "\n0,'=1+1\n" in (tmp_path / "vocabulary.csv").read_text().replace("\r", "")


def test_one_record_is_read_as_it_stands():
    video = read_video(example("a", [5, 5, 1], segment_labels=[1]))
    assert (video.labels, video.unread, video.level) == ((5, 1), {"segment_labels"}, "video")
    assert sys.byteorder == "little" and video.features.dtype == np.dtype("<f2")
