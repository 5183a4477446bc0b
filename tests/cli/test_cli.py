"""The command line as a user meets it."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m2raap.cli import main
from tests.conftest import m2raap

HEAVY = ("torch", "transformers", "open_clip", "cv2", "pandas", "pyarrow", "av", "scenedetect", "faiss", "numpy")


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("data", "import", "--help"), ("recipe", "--help")])
def test_help_loads_nothing_heavy(words: tuple[str, ...]):
    code = (
        "import sys; sys.argv = ['m2raap', *sys.argv[1:]]\n"
        "from m2raap.cli import main\n"
        "try: main.main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: m2raap" in done.stdout
    assert done.stderr.strip() == "[]"


def one_line(text: str) -> bool:
    return "Traceback" not in text and len(text.strip().splitlines()) <= 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("run", "demo", "--bad"), 2, "--bad"),
        (("frobnicate",), 2, "frobnicate"),
        (("run", "demo", "--out", "X"), 2, "--data"),
        (("run", "--out", "X", "--requests", "q.jsonl"), 2, "--stage"),
        (("run", "demo", "--out", "X", "--answers", "a.jsonl"), 2, "RECIPE"),
        (("run", "--out", "X", "--answers", "a.jsonl", "--stage", "rewrite", "--force"), 2, "--force, --stage"),
        (
            ("run", "--out", "X", "--requests", "q", "--stage", "caption", "--set", "seed=1", "--seeds", "2"),
            2,
            "--set, --seeds",
        ),
        (("run", "--out", "X", "--requests", "q", "--answers", "a"), 2, "--answers"),
        (("run", "demo", "--data", "C", "--out", "X", "--stage", "rewrite"), 2, "--stage"),
        (("run", "--out", "X", "--answers", "a.jsonl"), 1, "X: "),
        (("evaluate", "E", "--out", "X", "--pairs", "p.csv"), 2, "--pairs"),
        (("evaluate", "E"), 2, "--out"),
        (("evaluate", "sim.npy", "--out", "X"), 2, "sim.npy"),
        (("evaluate", "E", "--out", "X", "--without", "C"), 2, "--bank"),
        (("report", "compare", "R", "--within", "1"), 2, "--published"),
        (("report", "compare", "R", "Q", "--published"), 2, "--published"),
        (("report", "compare", "nowhere", "--published"), 1, "nowhere: "),
        (("recipe", "show", "demo", "--schema"), 2, "--schema"),
        (("search", "serve", "nowhere"), 1, "nowhere: "),
        (("recipe", "show", "--cost"), 2, "--cost"),
        (("data", "audit", "R", "--card", "--labelled", "s.csv"), 2, "--labelled"),
        (("run", "demo", "--data", "nowhere", "--out", "X"), 1, "nowhere: "),
        (("run", "nothing", "--data", "C", "--out", "X"), 2, "nothing"),
        (("run", "demo", "--data", "C", "--out", "X", "--set", "adapt.stepz=3"), 2, "'steps'"),
        (("run", "demo", "--data", "C", "--out", "X", "--parts", "3/2"), 2, "--parts 3/2"),
        (("run", "demo", "--data", "C", "--out", "X", "--bench", "C"), 2, "--bench C"),
        (("run", "demo", "--data", "C", "--out", "X", "--until", "lunch"), 2, "--until lunch"),
        (("run", "demo", "--data", "C", "--out", "X", "--from", "keyframe"), 2, "'keyframes'"),
        (("run", "demo", "--data", "C", "--out", "X", "--set", "adapt.lr=abc"), 2, "--set adapt.lr=abc: adapt.lr: "),
        (("filter", "C", "--out", "X", "--set", "langs=fr"), 2, "--set langs=fr: "),
        (
            ("run", "demo", "--data", "C", "--out", "X", "--engine", "steam"),
            2,
            "--engine steam",
        ),
        (("run", "demo", "--data", "C", "--out", "X", "--allow-refused", "lots"), 2, "--allow-refused lots"),
        (("data", "import", "csv", "x", "--out", "X"), 2, "table, videofolder, webdataset"),
        (("data", "import", "table", "--out", "X"), 2, "data import table"),
        (("data", "import", "table", "none.csv", "--out", "X"), 1, "none.csv"),
        (("data", "import", "world", "--out", "X", "--set", "train_clipz=3"), 2, "--set train_clipz=3: "),
        (("filter", "nowhere", "--out", "X"), 1, "nowhere: no such folder"),
        (("status", "nowhere"), 1, "nowhere: no such folder"),
        (("status", "--verify", "nowhere"), 1, "holds no corpus and no stage folder"),
        (("explain", "x", "--in", "nowhere"), 1, "nowhere: no such folder"),
        (("evaluate", "nowhere", "--out", "X"), 1, "holds no embeddings"),
        (("recipe", "show", "demo", "--arm", "x"), 2, "--arm x: "),
        (("lint", "C"), 2, "'m2raap report lint'"),
        (("report", "status", "R"), 2, "'m2raap status'"),
        (("adapt", "C", "--out", "X", "--set", "steps=5"), 2, "'adapt.steps'"),
        (("evaluate", "none.npy"), 1, "none.npy"),
    ],
)
def test_wrong_usage_and_missing_things_are_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words, code: int, message: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["m2raap", *words])
    assert main.run_command_line() == code
    talk = capsys.readouterr().err
    assert message in " ".join(talk.split())
    assert one_line(talk), talk
    assert not (tmp_path / "X").exists()


def test_score_ranks_a_matrix(tmp_path: Path):
    np.save(tmp_path / "sim.npy", np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [0.1, 0.2, 0.7]]))
    found = json.loads(m2raap("evaluate", tmp_path / "sim.npy", "--json").stdout)
    assert found["t2v"]["R@1"] == pytest.approx(200 / 3)
    assert set(found["t2v"]) >= {"R@1", "R@5", "R@10", "MdR", "MnR"}
    assert found["v2t"]["R@1"] == 100
    (tmp_path / "sim.csv").write_text("0.9,0.1\n")
    refused = m2raap("evaluate", tmp_path / "sim.csv", "--compat", check=2)
    assert "sim.csv" in refused.stderr and ".npy" in refused.stderr
    (tmp_path / "pairs.csv").write_text("text,video\n0,0\n1,1\n")
    assert "1 of 3 texts" in m2raap("evaluate", tmp_path / "sim.npy", "--pairs", tmp_path / "pairs.csv").stderr


def test_recipe_show_and_schema_are_complete():
    shown = json.loads(m2raap("recipe", "show", "demo", "--arm", "m2raap", "--set", "adapt.lr=1e-5", "--json").stdout)
    assert shown["adapt"]["lr"] == 1e-5 and shown["keyframes"]["k"] == 8
    schema = json.loads(m2raap("recipe", "show", "--schema").stdout)
    assert set(schema["properties"]) >= {"filter", "keyframes", "adapt", "arms"}


def test_an_empty_corpus_is_refused(tmp_path: Path):
    (tmp_path / "list.csv").write_text("video,caption\n")
    done = m2raap("data", "import", "table", tmp_path / "list.csv", "--out", tmp_path / "C", check=1)
    assert "the table has no rows" in done.stderr and not (tmp_path / "C").exists()


def test_a_full_disk_is_one_sentence_and_the_run_resumes(tmp_path: Path, small_world: Path):
    """A file size limit stands for the disk: the same failure of the same write."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    out = tmp_path / "filter"
    done = m2raap("filter", small_world / "train", "--out", out, "--workers", 1, check=1, preexec_fn=limit)
    assert "the disk is full; free some space and run the same command again: it resumes" in done.stderr
    assert one_line(done.stderr)
    m2raap("filter", small_world / "train", "--out", out, "--workers", 1)
    assert "ok" in m2raap("status", "--verify", out).stdout


def test_doctor_finds_nothing_wrong_here():
    findings = json.loads(m2raap("doctor", "--json").stdout)
    assert {finding["state"] for finding in findings} <= {"ok", "warn"}
    assert {"one scenedetect", "torch", "ffmpeg", "the tiny model"} <= {finding["what"] for finding in findings}


def test_a_place_that_cannot_be_written_is_no_bug(tmp_path: Path, monkeypatch, capsys):
    from m2raap.cli import main

    (tmp_path / "file").touch()
    monkeypatch.setattr(main, "parser", lambda: lambda **_: (tmp_path / "file" / "x").mkdir())
    assert main.run_command_line() == 1
    assert capsys.readouterr().err.startswith(f"m2raap: {tmp_path}/file/x: Not a directory; ")
    monkeypatch.setattr(main, "parser", lambda: lambda **_: (tmp_path / "file").mkdir())
    assert main.run_command_line() == 1
    assert capsys.readouterr().err.startswith(f"m2raap: {tmp_path}/file: File exists; ")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (UnicodeEncodeError("utf-8", "R\udcff/x", 1, 2, "surrogates not allowed"), "R\ufffd/x: "),
    ],
)
def test_what_the_machine_does_not_give_and_a_path_that_is_not_utf_8_are_no_bugs(
    monkeypatch, capsys, error: Exception, sentence: str
):
    from m2raap.cli import main

    def fail(**_) -> None:
        raise error

    monkeypatch.setattr(main, "parser", lambda: fail)
    monkeypatch.setattr(sys, "argv", ["m2raap", "status", "R\udcff"])
    assert main.run_command_line() == 1
    told = capsys.readouterr().err
    assert sentence in told and one_line(told)


def test_a_command_that_is_started_with_closed_streams_works(tmp_path: Path):
    code = "import os, m2raap.core.talk as t; t.open_closed_streams(); print('x'); f = open('f', 'w'); "
    code += "raise SystemExit(f.fileno())"
    shell = 'exec "$0" -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", shell, sys.executable, code], cwd=tmp_path, timeout=60)
    assert done.returncode > 2, "a file that is opened takes no stream's number"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_ends_a_command_as_ctrl_c_does(number: int):
    code = (
        f"import os, m2raap.cli.main as m; m.parser = lambda: lambda **_: os.kill(os.getpid(), {int(number)}); m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "run", "demo"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and done.stderr.splitlines()[-1].split() == ["m2raap", "run", "demo"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("probe", "x"), "'m2raap data probe'"),
        (("evalute",), "'m2raap evaluate'"),
        (("score", "s.npy"), "'m2raap evaluate SCORES.npy'"),
        (("data", "exprot"), "m2raap data export"),
    ],
)
def test_a_command_of_another_place_or_spelling_is_named(words: tuple[str, ...], meant: str):
    assert meant in m2raap(*words, check=2).stderr
    assert "Did you mean" not in m2raap("xqzw", check=2).stderr


@pytest.mark.parametrize("words", [("-q", "recipe", "show", "demo"), ("recipe", "show", "demo", "-q")])
def test_quiet_may_stand_before_and_after_the_command(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    told: list[bool] = []
    monkeypatch.setattr(main.talk, "be_quiet", told.append)
    m2raap(*words)
    assert told[-1] is True


def test_a_stage_takes_the_settings_of_an_arm(small_world: Path, tmp_path: Path):
    words = ("filter", small_world / "train", "--limit", 4, "--workers", 1, "--recipe")
    (tmp_path / "r.yaml").write_text(
        "name: r\nlangs: [en]\narms:\n  strict: {filter: {text: {rules: {text_too_short: {en: 50}}}}}\n  plain: {}\n"
    )
    done = m2raap(*words, tmp_path / "r.yaml", "--out", tmp_path / "base")
    assert "without its arms; strict sets this stage otherwise (--arm NAME" in done.stderr
    assert json.loads((tmp_path / "base" / "manifest.json").read_text())["counts"]["clips_out"] > 0
    done = m2raap(*words, tmp_path / "r.yaml", "--arm", "strict", "--out", tmp_path / "strict", check=3)
    assert "no clip of 4 is left" in done.stderr and "without its arms" not in done.stderr
    done = m2raap(*words, tmp_path / "r.yaml", "--arm", "x", "--out", tmp_path / "x", check=2)
    assert "--arm x: recipe r has no such arm" in done.stderr


def test_of_the_processes_of_torchrun_the_first_names_its_command(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(main.interrupt, "ignore_all", lambda: None)
    monkeypatch.setattr(sys, "argv", ["main.py", "adapt", "R", "--out", "a b"])
    for name, value in (("RANK", "0"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert main._interrupted() == 130
    command = capsys.readouterr().err.splitlines()[-1].strip()
    assert command == "torchrun --nproc_per_node 4 -m m2raap.cli.main adapt R --out 'a b'"
    monkeypatch.setenv("RANK", "3")
    assert main._interrupted() == 130 and capsys.readouterr().err == ""


def test_the_list_of_recipes_says_what_each_is_for():
    lines = m2raap("recipe", "show").stdout.splitlines()
    assert len(lines) > 10 and all(len(line.split()) > 4 and len(line) < 140 for line in lines)
    assert "demo" in json.loads(m2raap("recipe", "show", "--json").stdout)
