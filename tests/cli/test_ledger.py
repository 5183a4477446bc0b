"""What the commands of the ledger say to wrong usage, and that they print what they did."""

import json
import sys
from pathlib import Path

import pytest

from m2raap.cli import main
from m2raap.core.corpus import write_corpus
from tests.core.test_tables import clip, text


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["m2raap", *map(str, words)])
    return main.run_command_line()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("data", "audit", "nowhere"), 2, "--labelled"),
        (("data", "audit", "nowhere", "--out", "s.csv"), 1, "nowhere: no such folder"),
        (("data", "audit", "nowhere", "--card"), 1, "nowhere: no such folder"),
        (
            (
                "data",
                "forget",
            ),
            2,
            "Missing argument",
        ),
        (("data", "forget", "nowhere"), 1, "nowhere: no such folder"),
        (("data", "forget", "C", "--ids", "none.txt"), 1, "none.txt: cannot be read as a list of clip ids"),
        (("data", "export", "avi", "C", "--out", "X"), 2, "data export avi: "),
        (("data", "export", "csv", "C", "--out", "X", "--langs", "fr"), 2, "--langs fr: "),
        (
            ("data", "export", "csv", "C", "--out", "X", "--frames"),
            1,
            "data export csv: carries none or videos, not frames",
        ),
    ],
)
def test_wrong_usage_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words, code: int, message: str
):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "C", [clip(1)], [text(1)], video_root=tmp_path, source={})
    assert run(monkeypatch, *words) == code
    talk = capsys.readouterr().err
    assert message in " ".join(talk.split()) and "Traceback" not in talk
    assert not (tmp_path / "X").exists()


def test_export_and_forget_tell_what_they_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "1.mp4").write_bytes(b"1")
    write_corpus(tmp_path / "C", [clip(1), clip(2)], [text(1), text(2)], video_root=tmp_path, source={})
    assert run(monkeypatch, "-q", "data", "export", "csv", tmp_path / "C", "--out", tmp_path / "X") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'X'}: csv, 2 clips, 2 texts_en\n"
    (tmp_path / "ids.txt").write_text("c001\nc009\n")
    command = ("-q", "data", "forget", tmp_path / "C", "--ids", tmp_path / "ids.txt", "--run", tmp_path / "X")
    assert run(monkeypatch, *command) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("forgotten: 1 clips\n") and "c009" in shown.splitlines()[1]
    assert f"       1 removed from {tmp_path / 'C'}\n" in shown
    assert f"export again into a new folder: {tmp_path / 'X'}\n" in shown
    assert f"the video file still exists: {tmp_path / '1.mp4'}\n" in shown
    assert run(monkeypatch, *command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["left_in"] == {"exports": [str(tmp_path / "X")]}
    assert run(monkeypatch, "status", tmp_path / "X", "--forgotten", tmp_path / "C", "--json") == 1
    assert {row["path"] for row in json.loads(capsys.readouterr().out)} == {str(tmp_path / "X" / "clips.csv")}
