"""A test case, and the most common ways to make its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One bad (or odd) file. `make(sources)` returns its bytes, or a function that creates it at a path."""

    name: str
    reason: str  # the expected class
    make: Callable[[Sources], bytes | Callable[[Path], None]]
    limits: dict[str, Any] = field(default_factory=dict)  # VideoConfig, where the default does not show the class
    frames: int | None = None  # expected number of decoded frames of an undamaged file


class Sources:
    """Bytes of the source clips by name, and the canary's folder."""

    def __init__(self, folder: Path, canary: Path) -> None:
        self.folder, self.canary = folder, canary

    def __call__(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def taken(name: str) -> Callable[[Sources], bytes]:
    return lambda s: s(name)


def first(name: str, share: float) -> Callable[[Sources], bytes]:
    return lambda s: s(name)[: int(len(s(name)) * share)]


def written(text: str) -> Callable[[Sources], bytes]:
    return lambda s: text.replace("CANARY", str(s.canary)).encode()


def names(text: str) -> list[str]:
    return text.split()
