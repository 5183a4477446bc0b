"""The JSON files that m2raap writes, as types, and their one reader.

Such a file may be cut, damaged, of another version or from somebody else. `read_record` reads it as a type and raises an error
that names file and key where it has another shape, so that no other code has to expect that.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar, cast

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, read_json_lines

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
NumParts = Annotated[int, Field(ge=0, lt=1 << 20)]
Digests = dict[str, str]
Libraries = dict[str, str]  # name of a package -> its version, or all its versions where several made a folder


class ViewPaths(TypedDict):
    """The corpus and the folders that a stage was made from, relative to its own folder."""

    corpus: str
    folders: list[str]
    langs: list[str]
    cutoff: str | None


class StageManifest(TypedDict):
    """manifest.json of a stage folder or an index."""

    kind: str
    stage: str
    version: int
    format: NotRequired[int]
    settings: dict[str, Any]
    inputs: Digests
    files: Digests
    counts: dict[str, Any]
    models: Digests
    digest: str
    view: NotRequired[ViewPaths]
    libraries: NotRequired[Libraries]


class CorpusManifest(TypedDict):
    """manifest.json of a corpus. `forgetting`: clips are being removed from its tables."""

    kind: str
    schema_version: int
    num_parts: Annotated[NumParts, Field(ge=1)]
    video_root: str
    benchmark: str | None
    counts: dict[str, Count]
    source: dict[str, Any]
    files: Digests
    digest: str
    forgetting: NotRequired[Count]


class Plan(TypedDict):
    """plan.json: the inputs and settings with which a stage folder was begun."""

    stage: str
    version: int
    format: NotRequired[int]
    settings: dict[str, Any]
    inputs: Digests
    num_parts: NumParts
    libraries: NotRequired[Libraries]


class DoneRecord(TypedDict):
    """done/score-*.json and done/apply-*.json: one part in one phase. `clips`: the digest of each clip's input (score);
    `prepared`: of what the stage made before its parts."""

    key: str
    settings: str
    clips: NotRequired[Digests]
    prepared: NotRequired[str]
    files: Digests
    counts: NotRequired[dict[str, Count]]


class ModelDigest(TypedDict):
    """The key of model.json that identifies a model: the digest of its settings and weights."""

    digest: str


class ModelJson(ModelDigest):
    """model.json of a model folder."""

    format: int
    temporal: dict[str, Any]
    acg: dict[str, Any] | None
    interaction: dict[str, Any] | None
    made_from: dict[str, Any]
    code: NotRequired[dict[str, str]]  # of modules from outside: their names -> digests of their source files
    files: NotRequired[dict[str, str]]  # of backbone/, such as the tokenizer: path -> SHA-256


class Timing(TypedDict):
    """A line of timings.jsonl."""

    phase: NotRequired[str]
    part: NotRequired[Count]
    seconds: FiniteFloat
    step: NotRequired[Count]
    data_wait_s: NotRequired[FiniteFloat]
    device: NotRequired[str]  # of the networks that the work ran


T = TypeVar("T")


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_record(kind: type[T], tree: Any, source: object) -> T:
    """`tree`, where it has the shape `kind`; keys that `kind` does not name stay. Raises M2raapError naming `source` and key."""
    try:
        _adapter(kind).validate_python(tree, strict=True)
    except ValidationError as error:
        raise _refused(source, error) from None
    return cast(T, tree)


def _refused(source: object, error: ValidationError) -> M2raapError:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:40] for part in fault["loc"][:6])
    return M2raapError(
        f"{source}: {f'the key {where!r}: ' if where else ''}{fault['msg']}; the file is damaged, or another program or "
        "version of m2raap wrote it. 'm2raap status FOLDER --verify' checks a whole folder, --force makes a stage again"
    )


def read_record(kind: type[T], path: Path) -> T:
    """The JSON of a file, of the shape `kind`. Raises M2raapError naming the file and the key with another type."""
    return as_record(kind, read_json(path), path)


def read_record_lines(kind: type[T], path: Path) -> list[T]:
    """As `read_record`, for a file with one JSON value a line."""
    return [as_record(kind, tree, f"{path}: row {number}") for number, tree in enumerate(read_json_lines(path), 1)]


class _Rows(TypedDict):
    rows: list[dict[str, Any]]


def read_rows(kind: type[T], path: Path) -> list[T]:
    """The objects under `rows` in a file, as instances of the dataclass `kind`. Raises M2raapError as `read_record`."""
    return as_object(list[kind], read_record(_Rows, path)["rows"], path)


def as_object(kind: type[T], tree: Any, source: object) -> T:
    """`tree` as an instance of a dataclass, or a list of such. Raises M2raapError as `as_record`."""
    try:
        return _adapter(kind).validate_python(tree)
    except ValidationError as error:
        raise _refused(source, error) from None
