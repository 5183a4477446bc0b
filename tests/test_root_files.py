import subprocess
from pathlib import Path

import pytest

from tests.root_files import stray_names


def test_the_root_holds_only_known_files():
    names = stray_names()
    if names is None:
        pytest.skip("this is no git checkout")
    assert names == set()


def test_a_stray_file_is_noticed(tmp_path: Path):
    if stray_names() is None:
        pytest.skip("this is no git checkout")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "pipe:1").write_text("scene scores")
    (tmp_path / "LICENSE").write_text("terms")
    assert stray_names(tmp_path) == set(), "files that git does not track are nobody's business"
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    assert stray_names(tmp_path) == {"pipe:1"}
