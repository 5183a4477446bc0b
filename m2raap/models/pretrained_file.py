"""Weights given as a file: what it holds, before open_clip reads it into a model. Nothing of it is run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.core.talk import log

# Numbers that OpenAI's own models keep beside their weights (openai/CLIP, clip/model.py, build_model).
OPENAI_KEYS = frozenset({"input_resolution", "context_length", "vocab_size"})
WRAPPERS = ("module.", "_orig_mod.")


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


@dataclass
class ReadWeights:
    """What a file held before open_clip fitted it to a model: path, and shape and type of each tensor."""

    path: str = ""
    tensors: dict[str, tuple[torch.Size, torch.dtype]] = field(default_factory=dict)


@contextmanager
def weights_as_read() -> Iterator[ReadWeights]:
    """Inside, open_clip reads the tensors of a state dict alone, and what it read is recorded.

    Left out are the three numbers of OpenAI's, and prefixes that torch's wrappers (DataParallel, compile) put before every
    name. Raises M2raapError for a file that holds anything else.
    """
    from open_clip import factory

    read: Any = factory.load_state_dict
    record = ReadWeights()

    def read_tensors(path: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        weights = {key: value for key, value in read(path, *args, **kwargs).items() if key not in OPENAI_KEYS}
        if other := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
            raise M2raapError(
                f"{path}: holds {', '.join(str(key) or 'module' for key in other[:5])}, which are no tensors: save the one state "
                "dict that is meant, with the tensors' names, in a file of its own"
            )
        while weights and (prefix := next(iter(weights)).partition(".")[0] + ".") in WRAPPERS:
            if not all(key.startswith(prefix) for key in weights):
                break
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        record.path = str(path)
        record.tensors = {key: (value.shape, value.dtype) for key, value in weights.items()}
        return weights

    factory.load_state_dict = read_tensors
    try:
        yield record
    finally:
        factory.load_state_dict = read


def check_fitted(record: ReadWeights, clip: nn.Module) -> None:
    """Notes positions of patches that open_clip interpolated without a word; what cannot be meant raises M2raapError.

    These are positions of words for another number of tokens, which are scaled although a text keeps its tokens, and whole
    numbers in place of weights.
    """
    for name, value in clip.state_dict().items():
        shape, dtype = record.tensors.get(name, (value.shape, value.dtype))
        if value.is_floating_point() and not dtype.is_floating_point:
            raise M2raapError(
                f"{record.path}: {name} holds {str(dtype).removeprefix('torch.')} in place of floats, as quantised models do; "
                "take the weights before they were quantised"
            )
        if shape == value.shape:
            continue
        if name == "visual.positional_embedding":
            log(
                f"note: {record.path} holds positions of {_num_patches(shape)} patches, and the model has "
                f"{_num_patches(value.shape)}: they are interpolated, as open_clip does. If the weights are of another image "
                "size, set backbone.model to the name with that size"
            )
        elif name.endswith("positional_embedding"):
            raise M2raapError(
                f"{record.path}: {name} has {shape[0]} positions, and the text tower of this model has {value.shape[0]}; "
                "open_clip would scale them, and every text feature would be another. Set backbone.model to a model of that "
                "length, or write its open_clip_config.json with text_cfg.context_length and take it as local-dir:/folder"
            )


def _num_patches(shape: torch.Size) -> int:
    """Number of patches of positions with a class token (1 + P, D)."""
    return shape[0] - 1
