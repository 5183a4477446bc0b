"""The outputs of the frozen vision layers for every frame, on disk, so that training starts after these layers.

`prefix` keeps the tokens that enter the last layers, `levels` all that the temporal module reads of them.
B clips, V levels (1 for prefix), T frames, S tokens a frame, D vision width. float16, one row a clip, memory-mapped.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NotRequired

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from m2raap.adapt.pixels import Decoding, JpegFrames, images_of
from m2raap.adapt.sources import PairSource
from m2raap.core import talk
from m2raap.core.ahead import ahead
from m2raap.core.config import digest
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, write_atomic, write_json
from m2raap.core.records import Count, read_record
from m2raap.core.signed import NPY_ERRORS, is_as_signed
from m2raap.models.video_clip import VideoCLIP

CHUNK_CLIPS = 8
SAVE_EVERY_CHUNKS = 64


@dataclass(frozen=True)
class PrefixLayout:
    """The tensors that a cache holds. `depth`: number of last vision layers that come after the prefix."""

    kind: Literal["prefix", "levels"]
    depth: int
    num_frames: int

    def tokens_of(self, model: VideoCLIP, images_BTCHW: Tensor) -> Tensor:
        """The tokens (B, V, T, S, D) that the cache holds of images (B, T, 3, side, side)."""
        prefix = model.backbone.prefix_tokens(images_BTCHW.flatten(0, 1), self.depth).unflatten(
            0, images_BTCHW.shape[:2]
        )
        if self.kind == "prefix":
            return prefix[:, None]
        mask_BT = torch.ones(prefix.shape[:2], dtype=torch.bool, device=prefix.device)  # no frame is padding
        return torch.stack(model.levels_of_prefix(prefix, mask_BT, self.depth), 1)

    def shape(self, model: VideoCLIP, num_clips: int) -> tuple[int, ...]:
        size = model.backbone.preprocess.image_size
        with torch.inference_mode():
            tokens_BVTSD = self.tokens_of(model, torch.zeros(1, 1, 3, size, size, device=model.backbone.device))
        return num_clips, tokens_BVTSD.shape[1], self.num_frames, *tokens_BVTSD.shape[3:]

    def num_bytes(self, model: VideoCLIP, num_clips: int) -> int:
        return 2 * math.prod(self.shape(model, num_clips))


@dataclass(frozen=True)
class PrefixCache:
    """The tokens of all clips, and the mask of the frames that are no padding."""

    layout: PrefixLayout
    tokens_BVTSD: np.ndarray
    mask_BT: np.ndarray
    time_dim: ClassVar[int] = 2
    reads_ahead: ClassVar[int] = 1

    def batch(self, clips: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """fp16 tokens (B, V, T, S, D) and mask (B, T); the same in every epoch."""
        return torch.from_numpy(self.tokens_BVTSD[clips]), torch.from_numpy(self.mask_BT[clips])

    def give_back(self, batch: Tensor) -> None:
        """Nothing is read into the same memory again."""

    def levels(self, model: VideoCLIP, tokens_BVTSD: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """What the model reads of the last vision layers (`VideoCLIP.levels_of_prefix`)."""
        tokens_BVTSD = tokens_BVTSD.float()
        if self.layout.kind == "prefix":
            return model.levels_of_prefix(tokens_BVTSD[:, 0], mask_BT, self.layout.depth)
        return list(tokens_BVTSD.unbind(1))


def open_prefix_cache(
    root: Path,
    frames: str,
    source: PairSource,
    model: VideoCLIP,
    layout: PrefixLayout,
    progress: Callable[[str, int, int], None],
    limit_bytes: float = math.inf,
    decoding: Decoding | None = None,
) -> PrefixCache:
    """The complete cache, in a folder of `root` named by the digest of its content; creates or continues it where needed.

    Runs of one backbone over the same `frames` (their digest) share it, whatever else they train; of runs at the same
    time one creates it and the others wait. The caches that were not used for longest are removed where all together
    would exceed `limit_bytes`. After an interruption the chunks, and so the rows, are the same. Raises M2raapError where
    the disk has too little space, or outputs exceed the range of float16.
    """
    shape = layout.shape(model, source.num_clips)
    code = [model.code] if model.code and layout.kind == "levels" else []
    key = digest([frames, model.backbone.digest, vars(layout), shape, *code])[:32]
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{key}.lock"):
        folder = root / key
        if not _is_usable(folder, shape):
            need_bytes = layout.num_bytes(model, source.num_clips)
            progress(f"cache of the {layout.kind}: {need_bytes / 1e6:.0f} MB in {folder}", 0, source.num_clips)
            _make_room(root, key, limit_bytes - need_bytes)
            frames_of = JpegFrames(source, model.backbone.preprocess, layout.num_frames, decoding or Decoding())
            _make(folder, shape, need_bytes, frames_of, model, layout, progress)
        os.utime(folder / "state.json")
        tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        return PrefixCache(layout, tokens, np.load(folder / "mask.npy", allow_pickle=False))


def drop_caches(root: Path) -> None:
    """Removes the caches of `root` that no run is writing at the moment."""
    _make_room(root, "", -1)
    with contextlib.suppress(OSError):  # another run uses the folder, or has removed it
        for lock in root.glob("*.lock"):
            lock.unlink()
        root.rmdir()


class _State(TypedDict):
    """state.json: how many clips are written; of a complete cache the SHA-256 of its arrays (not in those of older versions)."""

    done: Count
    files: NotRequired[dict[str, str]]


def _read_state(path: Path) -> _State:
    """The state of a cache; nothing is done where the file is absent or damaged: a cache can always be made again."""
    try:
        return read_record(_State, path) if path.exists() else {"done": 0}
    except M2raapError as error:
        talk.log(f"{error}: it is part of a cache, which is made again")
        return {"done": 0}


def _is_usable(folder: Path, shape: tuple[int, ...]) -> bool:
    """Whether the cache in a folder is complete and undamaged; a damaged one is removed."""
    names = ("tokens.npy", "mask.npy")
    if not (folder / "tokens.npy").is_file():
        return False
    files = _read_state(folder / "state.json").get("files", {})
    try:
        arrays = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in names]
        fits = arrays[0].shape == shape and arrays[0].dtype == np.float16
        fits = fits and arrays[1].shape == (shape[0], shape[2]) and arrays[1].dtype == bool
    except NPY_ERRORS:
        fits = False
    if (
        fits
        and (folder / "state.json").is_file()
        and all(name in files and is_as_signed(folder / name, files[name]) for name in names)
    ):
        return True
    talk.log(f"{folder}: this cache is damaged, and is made again")
    shutil.rmtree(folder)
    return False


def _make(
    folder: Path,
    shape: tuple[int, ...],
    need_bytes: int,
    jpeg_frames: JpegFrames,
    model: VideoCLIP,
    layout: PrefixLayout,
    progress: Callable[[str, int, int], None],
) -> None:
    folder.mkdir(exist_ok=True)
    num_clips = jpeg_frames.source.num_clips
    part, state_path, mask_path = folder / "tokens.part", folder / "state.json", folder / "mask.npy"
    if not part.is_file() and need_bytes > (free := shutil.disk_usage(folder).free):
        raise M2raapError(
            f"the prefix cache needs {need_bytes / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free: free space there, or "
            "set adapt.cache=off"
        )
    done, tokens, mask = _resumed(folder, shape, (num_clips, layout.num_frames))
    chunks = [np.arange(at, min(at + CHUNK_CLIPS, num_clips)) for at in range(done, num_clips, CHUNK_CLIPS)]
    with closing(ahead(jpeg_frames.batch, chunks, jpeg_frames.reads_ahead, jpeg_frames.reads_ahead)) as batches:
        for number, (clips, (pixels, mask_BT)) in enumerate(zip(chunks, batches, strict=True), 1):
            start, stop = int(clips[0]), int(clips[-1]) + 1
            with torch.inference_mode():
                device_mask_BT = mask_BT.to(model.backbone.device)
                images = images_of(pixels.to(model.backbone.device), device_mask_BT, jpeg_frames.preprocess)
                chunk_BVTSD = layout.tokens_of(model, images).half()
            if not bool(torch.isfinite(chunk_BVTSD).all()):
                raise M2raapError(
                    "outputs of the vision layers exceed the range of float16, in which they are kept: set adapt.cache=off"
                )
            tokens[start:stop] = chunk_BVTSD.cpu().numpy()
            mask[start:stop] = mask_BT.numpy()
            progress(f"cache of the {layout.kind}", stop, num_clips)
            if number % SAVE_EVERY_CHUNKS == 0 or stop == num_clips:
                tokens.flush()
                _save_mask(mask, mask_path)
                write_json(state_path, {"done": stop})
    del tokens
    files = {"tokens.npy": file_sha256(part), "mask.npy": file_sha256(mask_path)}
    os.replace(part, folder / "tokens.npy")
    write_json(state_path, {"done": num_clips, "files": files})


def _resumed(folder: Path, shape: tuple[int, ...], mask_shape: tuple[int, int]) -> tuple[int, np.memmap, np.ndarray]:
    """(clips that are written, tokens on disk, mask) of an unfinished cache; of a new one where that is absent or damaged."""
    part, mask_path = folder / "tokens.part", folder / "mask.npy"
    try:
        num_bytes = part.stat().st_size  # numpy fills up a file that was cut off
        tokens, mask = np.lib.format.open_memmap(part, mode="r+"), np.load(mask_path, allow_pickle=False)
        done = _read_state(folder / "state.json")["done"]
        fits = (tokens.shape, tokens.dtype, mask.shape) == (shape, np.float16, mask_shape)
        if fits and num_bytes == tokens.offset + tokens.nbytes and done <= len(mask):
            return done, tokens, mask
    except NPY_ERRORS:  # also where a file is absent, because the process was killed before it wrote one
        pass
    tokens = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    return 0, tokens, np.zeros(mask_shape, bool)


@contextlib.contextmanager
def _locked(lock: Path, wait: bool = True) -> Iterator[None]:
    """Locks the file against other processes; the system releases the lock when this process ends.

    Raises BlockingIOError, without `wait`, where another process holds it.
    """
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _make_room(root: Path, key: str, limit_bytes: float) -> None:
    """Removes the caches that were not used for longest until the others (all but `key`) take `limit_bytes` at most."""
    sizes: list[tuple[float, Path, int]] = []
    for folder in root.glob("*/"):
        if folder.name != key:
            files = [path.stat() for path in folder.iterdir()]
            sizes.append((max((f.st_mtime for f in files), default=0.0), folder, sum(f.st_size for f in files)))
    remaining_bytes = sum(size for _, _, size in sizes)
    for _, folder, size in sorted(sizes):
        if remaining_bytes <= limit_bytes:
            return
        with contextlib.suppress(BlockingIOError), _locked(root / f"{folder.name}.lock", wait=False):
            shutil.rmtree(folder)  # a process that has its files open can go on reading them
            remaining_bytes -= size


def _save_mask(mask: np.ndarray, path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, mask)
    write_atomic(path, buffer.getvalue())
