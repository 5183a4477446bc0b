"""Versions of the libraries on which the bytes of a folder may depend, recorded beside the digests and never in them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

NAMES = ("m2raap", "av", "faiss-cpu", "numpy", "open_clip_torch", "pyarrow", "torch", "transformers")


@lru_cache(maxsize=1)
def _installed() -> tuple[tuple[str, str], ...]:
    versions: list[tuple[str, str]] = []
    for name in NAMES:
        try:
            versions.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(versions)


def installed() -> dict[str, str]:
    """Package -> the version that is installed here."""
    return dict(_installed())


def joined(before: Mapping[str, str]) -> dict[str, str]:
    """Package -> the versions of `before` and the installed one, with ', ' between them where they differ."""
    versions = dict(before)
    for name, current in _installed():
        known = versions.get(name, "").split(", ") if versions.get(name) else []
        versions[name] = ", ".join(dict.fromkeys([*known, current]))
    return dict(sorted(versions.items()))


def other_versions(before: Mapping[str, str]) -> str:
    """'av 15.0.0 (installed: 16.0.1)' for each package of `before` whose version is another one here; '' for none."""
    current = installed()
    return ", ".join(
        f"{name} {old[:60]} (installed: {current.get(name, 'none')})"
        for name, old in sorted(before.items())
        if old != current.get(name)
    )
