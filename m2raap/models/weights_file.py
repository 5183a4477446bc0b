"""Weights given as a file: what it holds, before open_clip reads it into a model. Nothing of it is run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from m2raap.core.errors import M2raapError

# Numbers that OpenAI's own models keep beside their weights (openai/CLIP, clip/model.py, build_model).
OPENAI_KEYS = frozenset({"input_resolution", "context_length", "vocab_size"})


def is_openai_dict(path: Path) -> bool:
    """Whether the file is a state dict of one of OpenAI's own models, which all have QuickGELU.

    Raises M2raapError for a TorchScript archive, the form of OpenAI's published files: reading it would run its code.
    A file that cannot be read at all is left to the library's own error.
    """
    if _is_torchscript(path):
        raise M2raapError(
            f"backbone.pretrained {path} is a TorchScript archive, as OpenAI publishes its models. It contains a program, and "
            "m2raap runs none from a file. If you trust its origin, convert it once and set backbone.pretrained to the new file: "
            f"python -c \"import torch; torch.save(torch.jit.load('{path}', map_location='cpu').state_dict(), "
            f"'{path.stem}-weights.pt')\". Where the model hub can be reached, backbone.pretrained: openai needs no file"
        )
    if path.suffix in (".safetensors", ".npz", ".npy"):
        return False  # OpenAI published none, and a number is no tensor of safetensors
    try:
        weights = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # pickle's, zipfile's and torch's errors
        return False
    return isinstance(weights, dict) and weights.keys() >= OPENAI_KEYS


def _is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip with a folder `code` in its only top folder; a saved dict has none."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


@contextmanager
def without_openai_keys() -> Iterator[None]:
    """Inside, open_clip reads a state dict without the three numbers of OpenAI's, which belong to no layer."""
    from open_clip import factory

    read: Any = factory.load_state_dict

    def read_without(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in read(*args, **kwargs).items() if key not in OPENAI_KEYS}

    factory.load_state_dict = read_without
    try:
        yield
    finally:
        factory.load_state_dict = read
