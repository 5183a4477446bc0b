"""What differs between two plans of a stage folder (`plan.json`), for a reader."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from m2raap.core.config import flat

_DIGEST = re.compile("[0-9a-f]{32,}")
_MAX_NAMED = 4  # keys in a message


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys that differ, with both values: 'adapt.lr 0.001 -> 0.0005'."""
    if old.get("format") != new["format"]:
        return f"format {old.get('format', 2)} -> {new['format']}"
    return _listed([f"{key} {before} -> {after}" for key, before, after in _changed(old, new)])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str]:
    """The keys that differ with the values of `old`, and with those of `new`: ('adapt.lr 0.001', 'adapt.lr 0.0005')."""
    changed = _changed(old, new)
    return _listed([f"{key} {value}" for key, value, _ in changed]), _listed(
        [f"{key} {value}" for key, _, value in changed]
    )


def _listed(phrases: list[str]) -> str:
    return ", ".join(phrases[:_MAX_NAMED]) + (", ..." if len(phrases) > _MAX_NAMED else "")


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key as the recipe names it, old value, new value) of the keys that differ."""
    before, after = flat(_with_open_inputs(old)), flat(_with_open_inputs(new))
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    # A changed setting tells a reader more than the digests that changed with it.
    names = [n for n in names if n == "stage"] or [n for n in names if n.startswith("settings.")] or names
    return [(_key(name, new["stage"]), _value(name, before), _value(name, after)) for name in names]


def _with_open_inputs(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with settings in place of their JSON: a model that has no digest yet is an input as the text of its settings."""
    inputs = {}
    for name, value in (plan.get("inputs") or {}).items():
        try:
            settings = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
        except ValueError:  # of another version, or damaged
            settings = value
        inputs[name] = settings
    return {**plan, "inputs": inputs}


def _key(name: str, stage: str) -> str:
    key = name.removeprefix("settings.").removeprefix("score.").removeprefix("apply.").removeprefix("rows.")
    return f"{stage}.{key}" if name.startswith("settings.") else name


def _value(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(name, "none")
    is_digest = isinstance(value, str) and _DIGEST.fullmatch(value)
    return (
        value[:12] if is_digest else str(value) if name.startswith("inputs.") else json.dumps(value, ensure_ascii=False)
    )
