"""`doctor`: checks of the installation for known faults of the packages that m2raap builds on."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from importlib import metadata
from typing import Any

# Variants of one package: where two of them are installed, the later one has overwritten files of the earlier one.
_SCENEDETECT = ("scenedetect", "scenedetect-headless", "scenedetect-core")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def examine() -> list[dict[str, Any]]:
    """One row for every check, with the keys what, state (ok, warn or bad) and detail."""
    findings = []
    for check in (
        one_scenedetect,
        _one_opencv,
        _torch,
        _device,
        _open_clip,
        _pyav,
        _ffmpeg,
        _language_id,
        _tiny_model,
        _decord,
    ):
        state, what, detail = check()
        findings.append({"what": what, "state": state, "detail": detail})
    return findings


Finding = tuple[str, str, str]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _one_of(what: str, names: tuple[str, ...], needed: bool) -> Finding:
    installed = [f"{name} {version}" for name in names if (version := _version(name))]
    if len(installed) > 1:
        return (
            "bad",
            what,
            f"{' and '.join(installed)} overwrite each other's files: pip uninstall all of them, then install m2raap again",
        )
    if not installed and needed:
        return "bad", what, f"none is installed: pip install {names[1]}"
    return "ok", what, installed[0] if installed else "not installed"


def one_scenedetect() -> Finding:
    """Bad where several variants of PySceneDetect are installed, or none."""
    return _one_of("one scenedetect", _SCENEDETECT, needed=True)


def _one_opencv() -> Finding:
    return _one_of("one OpenCV", _OPENCV, needed=True)


def attempt(what: str, work: Callable[[], str]) -> Finding:
    """State ok with the text that `work` returns, or bad with the message of the exception that it raises."""
    try:
        return "ok", what, work()
    except Exception as error:  # a broken installation can raise anything
        text = " ".join(str(error).split())[:200]
        if "torchvision::nms" in text:
            text += "; torch and torchvision are different builds: install both from one index, for the same CPU or CUDA version"
        return "bad", what, f"{type(error).__name__}: {text}"


def _torch() -> Finding:
    def work() -> str:
        torch = importlib.import_module("torch")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"{torch.__version__}, {gpus} GPU{'' if gpus == 1 else 's'}"

    return attempt("torch", work)


def _device() -> Finding:
    return attempt("networks run on", lambda: importlib.import_module("m2raap.core.engine").describe_device())


def _open_clip() -> Finding:
    return attempt("open_clip", lambda: importlib.import_module("open_clip").__version__)


def _pyav() -> Finding:
    def work() -> str:
        av = importlib.import_module("av")
        return f"PyAV {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}"

    return attempt("decoder", work)


def _ffmpeg() -> Finding:
    def work() -> str:
        exe = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        out = subprocess.run(
            [exe, "-nostdin", "-encoders"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        if "libx264" not in out:
            raise RuntimeError(f"{exe} has no libx264, with which the synthetic world is encoded")
        return exe

    return attempt("ffmpeg", work)


def _language_id() -> Finding:
    def work() -> str:
        language = importlib.import_module("m2raap.curate.language")
        share = language.lang_share("a man is playing the guitar on a stage", "en")
        if share < 0.5:
            raise RuntimeError(
                f"an English sentence scored {share:.2f} as English: the language model is missing or damaged"
            )
        return "the model in the package works"

    return attempt("language identification", work)


def _tiny_model() -> Finding:
    def work() -> str:
        families = importlib.import_module("m2raap.models.families")
        config = importlib.import_module("m2raap.models.config")
        return f"builtin:tiny, digest {families.load_backbone(config.BackboneConfig()).digest}"

    return attempt("the tiny model", work)


def _decord() -> Finding:
    if version := _version("decord"):
        return (
            "warn",
            "decord",
            f"{version} is installed; it is no longer maintained, and can hang or crash; m2raap does not use it",
        )
    return "ok", "decord", "not installed"
