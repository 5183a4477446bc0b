"""The two halves of a model as ONNX graphs: text.onnx and video.onnx, any batch, checked in onnxruntime when written.

text.onnx   tokens (B, L) int64                                  -> text (B, E), unit
video.onnx  frames (B, T, 3, S, S) float32, mask (B, T) bool     -> video (B, E), unit; T is fixed, mask is False for padding
L is the context length, T the number of frames, S the image size, E the size of the common space. ACG runs without captions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.core.files import write_error
from m2raap.models.video_clip import VideoCLIP

PARITY = 1e-4
CHECKED_BATCHES = (1, 3)


class _Text(nn.Module):
    def __init__(self, model: VideoCLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


class _Video(nn.Module):
    def __init__(self, model: VideoCLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode_video(frames, mask)


def export_onnx(model: VideoCLIP, folder: Path, num_frames: int) -> dict[str, float]:
    """Writes both graphs, with weights in *.onnx.data. Returns the largest difference from PyTorch of each half.

    Raises M2raapError where the packages are missing, the model cannot be exported, or a difference is over 1e-4.
    """
    _check_packages()
    backbone = model.backbone
    draw = torch.Generator().manual_seed(0)
    side = backbone.preprocess.image_size
    tokens = {size: _tokens(backbone.tokenize(["a"]), size, draw) for size in (2, *CHECKED_BATCHES)}
    videos = {size: _frames(size, num_frames, side, draw) for size in (2, *CHECKED_BATCHES)}
    model.eval()
    differences = {}
    for name, module, inputs in (
        ("text", _Text(model), {size: (ids,) for size, ids in tokens.items()}),
        ("video", _Video(model), videos),
    ):
        names = ["tokens"] if name == "text" else ["frames", "mask"]
        path = folder / f"{name}.onnx"
        _write(module.eval(), inputs[2], names, name, path)
        differences[name] = max(largest_difference(path, module, names, inputs[size]) for size in CHECKED_BATCHES)
        if not differences[name] <= PARITY:
            raise M2raapError(
                f"{path.name}: onnxruntime and PyTorch differ by {differences[name]:.1e}, and {PARITY:.0e} is allowed; serve the "
                "model folder itself"
            )
    return differences


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise M2raapError(f"the export to ONNX needs {error.name}: pip install 'm2raap[onnx]'") from None


def _tokens(row_1L: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """Token ids (size, L) of rows that differ: each has the tokens behind its first one in another order."""
    rows_BL = row_1L.expand(size, -1).clone()
    for row in rows_BL:
        row[1:4] = row[1:4][torch.randperm(3, generator=draw)]
    return rows_BL


def _frames(size: int, num_frames: int, side: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    mask_BT = torch.rand(size, num_frames, generator=draw) > 0.3
    mask_BT[:, 0] = True
    return torch.randn(size, num_frames, 3, side, side, generator=draw), mask_BT


def _write(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], output: str, path: Path) -> None:
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                inputs,
                str(path),
                input_names=names,
                output_names=[output],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                external_data=True,
                verbose=False,
            )
    except OSError as error:  # such as a full disk
        raise write_error(path, error) from None
    except Exception as error:  # torch.export and onnxscript raise a dozen unrelated types
        error_lines = [line.strip() for line in str(error).splitlines() if "Error" in line or "class" in line]
        raise M2raapError(
            f"the {output} half cannot be exported to ONNX ({(error_lines or [type(error).__name__])[-1][:200]}); "
            "export to open_clip instead, or serve the model folder itself"
        ) from error


def largest_difference(path: Path, module: nn.Module, names: list[str], inputs: tuple[Tensor, ...]) -> float:
    """The largest difference between the outputs of a graph in onnxruntime and of its module in PyTorch, for the same inputs.

    `names` are the graph's inputs in the module's order. Raises M2raapError where onnxruntime does not run the graph.
    """
    import numpy as np
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        torch_output = module(*inputs).numpy()
    feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    try:
        onnx_output = session.run(None, feeds)[0]
    except Exception as error:  # onnxruntime's own types have no common base
        raise M2raapError(
            f"{path.name}: onnxruntime does not run it at batch {len(inputs[0])} ({' '.join(str(error).split())[:120]}): the "
            "graph of this tower is tied to one batch size; serve the model folder itself"
        ) from error
    return float(np.abs(np.asarray(onnx_output) - torch_output).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and logs its progress on stdout, where results go."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(before)
