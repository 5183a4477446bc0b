"""One folder, one writer: the lock lasts as long as its process, also while that is paused."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2raap.core.errors import M2raapError
from m2raap.core.lock import FILE, Locked, locked
from tests.conftest import as_another_command

# Locks a folder, says so, and holds it until a line comes.
HOLDER = """
import sys
from pathlib import Path
from m2raap.core.lock import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("locked", flush=True)
    sys.stdin.readline()
"""
# Takes a share of a folder, many times; none is refused.
SHARES = """
import sys
from pathlib import Path
from m2raap.core.lock import locked
for _ in range(int(sys.argv[2])):
    with locked(Path(sys.argv[1]), shared=True):
        pass
"""
# Adds one to a number in the folder, many times, whenever it gets the lock.
COUNTER = """
import sys
from pathlib import Path
from m2raap.core.errors import M2raapError
from m2raap.core.lock import locked
folder, left = Path(sys.argv[1]), int(sys.argv[2])
while left:
    try:
        with locked(folder):
            number = folder / "number"
            number.write_text(str(int(number.read_text()) + 1))
            left -= 1
    except M2raapError:
        pass
"""


def holder(folder: Path, kind: str = "alone") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def let_go(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)
    assert process.returncode == 0


def lock(folder: Path, **options: bool) -> None:
    def take() -> None:
        with locked(folder, **options):
            assert (folder / FILE).exists()

    as_another_command(take)


def test_one_at_a_time_and_nothing_is_left(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    with locked(folder):
        with pytest.raises(Locked, match=rf"b: .*process {os.getpid()} on .* since "):
            lock(folder)
        with locked(folder):  # what the writer calls is the same writer
            pass
        with pytest.raises(Locked):
            lock(folder, shared=True)
    lock(folder)
    assert not folder.exists()


def test_shares_work_side_by_side_and_one_can_wait_for_the_others(tmp_path: Path):
    folder = tmp_path / "f"
    other = holder(folder, "shared")
    with locked(folder, shared=True) as mine:
        assert mine is not None
        with pytest.raises(Locked):
            lock(folder)
        assert not mine.try_exclusive()
        lock(folder, shared=True)  # it is shared still
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        mine.wait_exclusive()  # returns when the other has ended
        with pytest.raises(Locked):
            lock(folder, shared=True)
        mine.make_shared()
        lock(folder, shared=True)
        assert (folder / FILE).read_text() == "", "no process is named that has it no longer alone"
    assert other.wait(30) == 0


def test_a_paused_process_keeps_it_and_a_dead_one_does_not(tmp_path: Path):
    folder = tmp_path / "f"
    process = holder(folder)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    with pytest.raises(M2raapError, match=f"process {process.pid} "):
        lock(folder)
    os.kill(process.pid, signal.SIGCONT)
    let_go(process)
    lock(folder)
    process = holder(folder)
    process.kill()
    process.wait()
    assert (folder / FILE).exists(), "nobody was there to remove it"
    lock(folder)
    assert list(folder.iterdir()) == []


def test_no_two_ever_hold_it_though_its_file_comes_and_goes(tmp_path: Path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path), "150"]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait(100) == 0
    assert (tmp_path / "number").read_text() == "450"


def test_a_link_below_a_folder_that_is_written_is_refused(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    folder = tmp_path / "f"
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "part-00000.parquet").symlink_to(tmp_path / "mine" / "precious")
    with pytest.raises(M2raapError, match="texts/part-00000.parquet: "):
        lock(folder)
    with locked(folder, written=("clips",)):
        pass
    with pytest.raises(M2raapError, match="part-00000.parquet"), locked(folder, written=("texts",)):
        pass
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "stage").symlink_to(tmp_path / "mine")
    below = tmp_path / "named" / "stage" / "x"
    with (
        locked(tmp_path / "named", written=()),
        pytest.raises(M2raapError, match="named/stage: "),
        locked(below),
    ):
        pass
    with pytest.raises(M2raapError, match="named/stage: "), locked(below, below=tmp_path / "named"):
        pass
    (tmp_path / "other").symlink_to(tmp_path / "mine")
    with locked(tmp_path / "other"):  # the folder itself was linked by whoever named it
        assert (tmp_path / "mine" / FILE).exists()
    (folder / "texts" / "part-00000.parquet").unlink()
    (folder / FILE).symlink_to(tmp_path / "mine" / "precious")
    with pytest.raises(M2raapError, match=r"\.lock"):
        lock(folder)
    assert not (tmp_path / "mine" / "precious").exists()


def test_two_shares_that_both_want_it_alone_do_not_wait_for_each_other(tmp_path: Path, monkeypatch):
    """Also where a shared lock becomes exclusive in one step, as on NFS: each releases its shared lock first."""
    lock_kinds: list[int] = []
    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda handle, kind: (lock_kinds.append(kind), real(handle, kind))[1])
    with locked(tmp_path / "f", shared=True) as mine:
        assert mine is not None
        mine.wait_exclusive()
    assert lock_kinds.index(fcntl.LOCK_UN) < lock_kinds.index(fcntl.LOCK_EX)


def test_shares_come_and_go_without_hindering_each_other(tmp_path: Path):
    """A share that ends holds the lock exclusively for a moment, to remove its file."""
    command = [sys.executable, "-c", SHARES, str(tmp_path), "300"]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait(100) == 0
    lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")
def test_a_colleagues_lock_counts(tmp_path: Path):
    """In a folder of a group, the lock file of another user cannot be written, but it can be locked."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    with locked(folder):
        (folder / FILE).chmod(0o644)

        def as_somebody_else() -> None:
            with locked(folder):
                pass

        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                as_another_command(as_somebody_else)
            except Locked:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def test_a_file_system_without_locks_is_said_once(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("m2raap.core.lock.has_warned_of_no_locks", False)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "f") as first:
        with locked(tmp_path / "f" / "g") as second:
            assert first is not None and second is not None
        assert list((tmp_path / "f").iterdir()) == [], "no file is left that nobody can lock"
    assert capsys.readouterr().err.count(str(tmp_path)) == 1


def test_a_file_for_a_folder_is_said(tmp_path: Path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(M2raapError, match="f: is a file"):
        lock(tmp_path / "f")
