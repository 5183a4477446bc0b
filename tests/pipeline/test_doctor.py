from importlib import metadata

import pytest

from m2raap.pipeline import doctor


def test_two_variants_of_scenedetect_are_a_fault(monkeypatch: pytest.MonkeyPatch):
    versions = {"scenedetect": "0.7", "scenedetect-headless": "0.7.2"}

    def version(name: str) -> str:
        if name in versions:
            return versions[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    state, _, detail = doctor.one_scenedetect()
    assert state == "bad" and "scenedetect 0.7 " in detail and "scenedetect-headless 0.7.2 " in detail
    del versions["scenedetect"]
    assert doctor.one_scenedetect()[0] == "ok"
    versions.clear()
    assert doctor.one_scenedetect()[0] == "bad"


def test_a_torchvision_of_another_build_is_recognised():
    def broken() -> str:
        raise RuntimeError("operator torchvision::nms does not exist")

    state, _, detail = doctor.attempt("torch", broken)
    assert state == "bad" and "torchvision::nms" in detail and "install" in detail
