"""What a terminal would obey and strangers wrote reaches no terminal: the real command line, in a pty."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.core import talk
from m2raap.core.corpus import write_corpus
from m2raap.core.talk import one_line, plain
from m2raap.report.console import print_funnel
from m2raap.report.data import FunnelStage

# The clipboard, a window's title, a bell, an empty screen, a colour by C1, and text that runs backwards.
ORDERS = "\x1b]52;c;aGk=\x07\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\u2066"
CLIP_ID = f"一只猫 👩‍🚒{ORDERS}"
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


# Runs one command line after the other, and says how each ended.
ONE_AFTER_THE_OTHER = """
import json, sys
from m2raap.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["m2raap", *words]
    try:
        main.main()
    except SystemExit as end:
        print(f"=== {end.code or 0}", flush=True)
"""


def on_terminal(*words: object, stdout: int | None = None, **more_env: str) -> tuple[int, str]:
    """(exit code, all that came to the terminal). `stdout`: a file to which the results go instead."""
    return in_pty([sys.executable, "-m", "m2raap.cli.main", *map(str, words)], stdout, more_env)


def in_pty(command: list[str], stdout: int | None = None, more_env: dict[str, str] | None = None) -> tuple[int, str]:
    ours, its = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "400"} | (more_env or {})
    with subprocess.Popen(command, stdin=its, stdout=its if stdout is None else stdout, stderr=its, env=env) as process:
        os.close(its)
        said = b""
        while chunk := _read(ours):
            said += chunk
    os.close(ours)
    return process.returncode, said.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the last writer has left
        return b""


def obeyed(text: str) -> set[str]:
    """What of a text a terminal would obey, line breaks and tabs set aside."""
    return {c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in BIDI}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hostile")
    more = {"source": f"source{ORDERS}", "licence": f"licence{ORDERS}", "url": f"https://x.test/{ORDERS}"}
    clip = {"clip_id": CLIP_ID, "video": f"{ORDERS}.mp4", "split": "train"} | more
    said = {"text_id": f"{CLIP_ID}.en0", "clip_id": CLIP_ID, "lang": "en", "text": f"a [red]cat[/red]{ORDERS}"}
    texts = [said | {"origin": "raw", "producer": ORDERS, "active": True}]
    write_corpus(home / "C", [clip], texts, video_root=home, source={"list": ORDERS})
    return home / "C"


def test_no_command_hands_on_what_a_terminal_would_obey(corpus: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{CLIP_ID.replace('/', '')}.mp4").write_bytes(b"no video")
    commands = [
        (("explain", CLIP_ID, "--in", corpus), 0, "a [red]cat[/red]\ufffd]52;c;aGk=\ufffd"),
        (("explain", f"x{ORDERS}", "--in", corpus), 1, "x\ufffd]52"),
        (("status", "--verify", corpus), 0, "ok "),
        (("status", "--verify", f"nowhere{ORDERS}"), 1, "nowhere\ufffd]52"),
        (("report", "lint", corpus), 0, "1 clips"),
        (("data", "export", "csv", corpus, "--out", f"{tmp_path}/out{ORDERS}"), 0, "csv, 1 clips"),
        (("data", "export", f"avi{ORDERS}", corpus, "--out", "X"), 2, "data export avi\ufffd"),
        (("status", "--verify", corpus, f"--bad{ORDERS}"), 2, "No such option"),
        (("data", "probe", folder), 0, "一只猫"),
    ]
    words = json.dumps([["--quiet", *map(str, command)] for command, _, _ in commands])
    code, said = in_pty([sys.executable, "-c", ONE_AFTER_THE_OTHER, words])
    *answers, _ = said.split("=== ")
    ends = [answer.partition("\n")[0] for answer in said.split("=== ")[1:]]
    assert code == 0 and obeyed(said) == set(), said
    assert ends == [str(expected) for _, expected, _ in commands]
    for answer, (_, _, shown) in zip(answers, commands, strict=True):
        assert shown in answer


def test_json_on_a_terminal_can_be_read_back_whole(corpus: Path):
    _, said = on_terminal("--quiet", "explain", CLIP_ID, "--in", corpus, "--json")
    assert obeyed(said) == set() and "一只猫" in said
    assert json.loads(said)["clip"]["source"] == f"source{ORDERS}"


def test_a_terminal_that_knows_ascii_only(corpus: Path):
    code, said = on_terminal("--quiet", "explain", CLIP_ID, "--in", corpus, PYTHONIOENCODING="ascii")
    assert code == 0 and said.isascii() and not obeyed(said) and r"clip \u4e00\u53ea\u732b" in said


def test_our_own_colours_stay(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    found = Terminal()
    stream = talk.on_terminal(found)
    print_funnel([FunnelStage(f"[bold]x{ORDERS}", "clips", 1, 0, {}, 1)], stream)
    stream.writelines(["\x1b[2J"])
    said = found.getvalue()
    assert "\x1b[1m" in said and "[bold]x\ufffd" in said
    assert not obeyed(said) & set("\x07\x9b\u202e") and "\x1b]" not in said and "\x1b[2J" not in said


def test_bars_show_names_as_they_are(corpus: Path, tmp_path: Path):
    """A bar has orders of its own, which move the cursor and colour; what names bring is not among them."""
    run = tmp_path / f"[red]:smile:{ORDERS}"
    code, said = on_terminal("filter", corpus, "--out", run / "filter", "--workers", 1)
    assert code in (0, 3) and "[red]:smile:\ufffd]52" in said
    assert not obeyed(said) & set("\x07\x9b\u202e\u2066") and "\x1b]" not in said and "\x1b[2J" not in said


def test_results_beside_a_bar(tmp_path: Path):
    (tmp_path / "V").mkdir()
    (tmp_path / "V" / "a\x9b31m\u202e.mp4").write_bytes(b"no video")
    _, said = on_terminal("data", "probe", tmp_path / "V")
    assert "a\ufffd31m\ufffd.mp4" in said and not obeyed(said) & {"\x9b", "\u202e"}
    with open(tmp_path / "rows.txt", "wb") as rows:
        _, said = on_terminal("data", "probe", tmp_path / "V", stdout=rows.fileno())
    assert "not_media" in (tmp_path / "rows.txt").read_text() and "a\ufffd31m" not in said


@given(st.text() | st.text(alphabet=st.sampled_from([*BIDI, *"\x1b\x9b\x07\r\n\t a猫"])))
def test_plain(text: str):
    once = plain(text)
    assert not obeyed(once) and len(once) == len(text)
    assert plain(once) == once
    assert all(new == old for old, new in zip(text, once, strict=True) if old.isprintable() or old in "\n\t")
    assert one_line(text) == once.replace("\n", "\ufffd").replace("\t", "\ufffd")
    once.encode()  # no half of a character, which no stream takes


@pytest.mark.parametrize("text", ["一只猫\u3000跑了。\n", "👩‍🚒 ❤️ naïve\u00a0café", "می‌خواهم", "क्ष\tน้ำ"])
def test_what_people_write_stays(text: str):
    assert plain(text) == text


def test_a_part_that_takes_long_is_told_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """While nothing advances, lines tell that the command is at work; after the end there are none."""
    told = threading.Event()
    monkeypatch.setattr(talk, "_SECONDS_BETWEEN_LINES", 0.01)
    monkeypatch.setattr(talk, "log", lambda line: told.set() if "0/3, 0 s so far" in line else print(line))
    with talk.progress("a stage", 3) as advance:
        assert told.wait(20), "no line came"
        advance(3)
    assert "a stage: 3/3 in" in capsys.readouterr().out
