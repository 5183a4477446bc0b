from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.adapted import save_adapted


@pytest.fixture
def one_thread(monkeypatch):
    """Tiny products: threads only wait for each other."""
    monkeypatch.setattr("m2raap.stages.embed.torch_threads", lambda: 1)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """An adapted model folder. Read only."""
    return save_adapted(tmp_path_factory.mktemp("model") / "model")
