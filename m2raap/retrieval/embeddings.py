"""What `embed` writes into a folder: the vectors of a benchmark's videos and texts, and what each row of them belongs to.

video.npy (and video-VARIANT.npy where the frames were also embedded in another way), text.npy, ids.json.
Shape suffixes: V videos, T texts, E embedding.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from m2raap.core.errors import M2raapError
from m2raap.core.extension import code_in_use
from m2raap.core.files import read_object, write_atomic, write_json
from m2raap.core.records import as_record
from m2raap.core.signed import NPY_ERRORS, named_files, refuse_changed_file

IDS = "ids.json"
_TEXT_COLUMNS = ("text_ids", "text_video_ids", "text_langs", "texts")
_VIDEO_COLUMNS = ("video_ids", "video_frames")


@dataclass(frozen=True)
class MadeWith:
    """What the vectors depend on besides the videos and texts, in words or as a digest."""

    frames: str = ""
    preprocess: str = ""
    model: str = ""


class _MadeWithJson(TypedDict):
    frames: str
    preprocess: str
    model: str


class _IdsJson(TypedDict):
    """ids.json, as Embeddings.save writes it."""

    video_ids: list[str]
    text_ids: list[str]
    text_video_ids: list[str]
    text_langs: list[str]
    texts: list[str]
    video_frames: list[str]
    missing: list[str]
    categories: dict[str, str]
    twins: NotRequired[dict[str, str]]  # absent in folders of older versions
    made_with: _MadeWithJson


@dataclass(frozen=True)
class Embeddings:
    """Row i of `video_VE` is `video_ids[i]`, row i of `text_TE` is `text_ids[i]`, which describes `text_video_ids[i]`.

    `missing`: videos of the benchmark that have no embedding. `video_frames`: a digest of each video's pictures. `categories`:
    video id -> slice, of the videos that have one. `twins`: video id -> its twin, which shows the same things in another order,
    of the videos that have one (two_way.py). `variants_VE`: the videos embedded in another way (frames shuffled ...),
    by name. To evaluate vectors of another source, leave out `texts`, `video_frames` and `made_with`.

    Raises M2raapError where lengths disagree, an id occurs twice, or a text belongs to a video that is neither embedded nor
    missing.
    """

    video_VE: NDArray[Any]
    text_TE: NDArray[Any]
    video_ids: Sequence[str]
    text_ids: Sequence[str]
    text_video_ids: Sequence[str]
    text_langs: Sequence[str]
    texts: Sequence[str] = ()
    video_frames: Sequence[str] = ()
    missing: Sequence[str] = ()
    categories: Mapping[str, str] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)
    made_with: MadeWith = MadeWith()
    variants_VE: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_videos, num_texts = len(self.video_ids), len(self.text_ids)
        for name in (*_VIDEO_COLUMNS, *_TEXT_COLUMNS):
            size, expected = len(getattr(self, name)), num_videos if name in _VIDEO_COLUMNS else num_texts
            if size != expected and not (size == 0 and name in ("texts", "video_frames")):
                raise M2raapError(f"{name} has {size} entries for {expected} ids")
        arrays = {
            "video": self.video_VE,
            "text": self.text_TE,
            **{f"video-{k}": v for k, v in self.variants_VE.items()},
        }
        for name, array in arrays.items():
            expected = num_texts if name == "text" else num_videos
            if array.ndim != 2 or len(array) != expected or array.dtype.kind != "f":
                raise M2raapError(
                    f"the {name} vectors are {array.dtype} of shape {array.shape}; expected floats of shape ({expected}, E)"
                    f"{code_in_use()}"
                )
        for kind, ids in (("video", self.video_ids), ("text", self.text_ids)):
            if repeated := sorted(name for name, count in Counter(ids).items() if count > 1):
                raise M2raapError(f"{kind} {repeated[0]} has two embeddings")
        embedded, missing = set(self.video_ids), set(self.missing)
        if both := embedded & missing:
            raise M2raapError(f"video {min(both)} is listed as missing, but has an embedding")
        for text, video in sorted(zip(self.text_ids, self.text_video_ids, strict=True)):
            if video not in embedded and video not in missing:
                raise M2raapError(
                    f"text {text} belongs to video {video}, which is neither embedded nor listed as missing"
                )

    @classmethod
    def load(cls, folder: Path) -> Embeddings:
        """The embeddings in a folder; the vectors are mapped from disk. Raises M2raapError naming a bad file."""
        path = folder / IDS
        tree: dict[str, Any] = {"twins": {}} | read_object(refuse_changed_file(folder, IDS))
        columns = {f.name for f in fields(cls) if not f.name.endswith(("_VE", "_TE"))}
        if lacking := sorted(columns - set(tree)):
            raise M2raapError(f"{path}: the key '{lacking[0]}' is missing; embed again")
        stated_values = tree["made_with"] if isinstance(tree["made_with"], dict) else {}
        if lacking := [f.name for f in fields(MadeWith) if f.name not in stated_values]:
            raise M2raapError(f"{path}: the key 'made_with.{lacking[0]}' is missing; embed again")
        as_record(_IdsJson, tree, path)
        made_with = MadeWith(**{f.name: stated_values[f.name] for f in fields(MadeWith)})
        names = named_files(folder, "video-*.npy")
        arrays = {name: read_npy(refuse_changed_file(folder, name)) for name in ("video.npy", "text.npy", *names)}
        variants = {name.removeprefix("video-").removesuffix(".npy"): arrays[name] for name in names}
        try:
            return cls(
                video_VE=arrays["video.npy"],
                text_TE=arrays["text.npy"],
                variants_VE=variants,
                made_with=made_with,
                **{name: tree[name] for name in columns - {"made_with"}},
            )
        except M2raapError as error:
            raise (
                error if str(error).startswith(str(folder)) else M2raapError(f"{path}: {error}; embed again")
            ) from None

    def save(self, folder: Path) -> list[str]:
        """Writes the folder's files and returns their names. Vectors become float32.

        Raises M2raapError for vectors that no search can use: of two sizes, with NaN or infinity, or all zero.
        """
        for name, array, ids in (
            ("text", self.text_TE, self.text_ids),
            *((f"video-{name}", array, self.video_ids) for name, array in self.variants_VE.items()),
            ("video", self.video_VE, self.video_ids),
        ):
            _check_vectors(name, array, ids, self.video_VE.shape[1])
        arrays = {"video.npy": self.video_VE} | {f"video-{name}.npy": array for name, array in self.variants_VE.items()}
        arrays["text.npy"] = self.text_TE
        for name, array in arrays.items():
            write_npy(folder / name, array)
        columns = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith(("_VE", "_TE"))}
        write_json(folder / IDS, columns | {"made_with": asdict(self.made_with)})
        return [*arrays, IDS]

    def select(self, videos: Collection[str], text_rows: Sequence[int]) -> Embeddings:
        """Some of the embedded videos and some of the texts, with the plain vectors only; no video counts as missing."""
        rows = [row for row, video in enumerate(self.video_ids) if video in videos]
        columns = {
            name: [getattr(self, name)[i] for i in (rows if name in _VIDEO_COLUMNS else text_rows)]
            for name in (*_VIDEO_COLUMNS, *_TEXT_COLUMNS)
        }
        vectors = {"video_VE": self.video_VE[rows], "text_TE": self.text_TE[list(text_rows)], "variants_VE": {}}
        return replace(self, missing=(), **columns, **vectors)

    def variant(self, name: str) -> Embeddings:
        """The same videos embedded in another way, with the vectors of `variants_VE[name]`; "" gives the plain ones."""
        return replace(self, video_VE=self.variants_VE[name]) if name else self


def _check_vectors(name: str, vectors_NE: NDArray[Any], ids: Sequence[str], size: int) -> None:
    if vectors_NE.shape[1] != size:
        raise M2raapError(
            f"the {name} vectors have {vectors_NE.shape[1]} numbers, and the video vectors {size}{code_in_use()}"
        )
    norms_N = np.linalg.norm(vectors_NE.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(norms_N) | (norms_N == 0))
    if len(bad):
        raise M2raapError(
            f"the {name} vector of {ids[bad[0]]} holds NaN or infinity, or is all zero ({len(bad):,} such): the model gives no "
            f"features of it{code_in_use()}"
        )


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """The array as float32 in a .npy file that needs no pickle."""
    sink = io.BytesIO()
    np.save(sink, array.astype(np.float32), allow_pickle=False)
    write_atomic(path, sink.getvalue())


def read_npy(path: Path) -> NDArray[Any]:
    """The array in a .npy file, mapped from disk. Raises M2raapError for a file that holds none."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except NPY_ERRORS as error:
        raise M2raapError(f"{path}: cannot be read as a numpy array ({str(error)[:200]}); make it again") from None
