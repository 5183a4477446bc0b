"""Recipes and stage settings: strict YAML -> typed, frozen models.

One merge rule: defaults < file < `--set a.b=c`. An unknown key is an error that gives its whole path and the most similar known
key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from m2raap.core.errors import UsageError, excerpt
from m2raap.core.extension import OrExtension
from m2raap.core.strict_yaml import parse_yaml


class Config(BaseModel):
    """Base of every typed setting: unknown keys are refused, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, tree: Any) -> Any:
        """`k: yes` is no number, although pydantic would take it as 1: as text it is refused by the name of its key."""
        if not isinstance(tree, dict):
            return tree
        truths = {name: value for name, value in tree.items() if isinstance(value, bool) and name in cls.model_fields}
        numbers = [name for name in truths if _is_number(cls.model_fields[name].annotation)]
        return tree | {name: str(truths[name]).lower() for name in numbers} if numbers else tree

    def __hash__(self) -> int:
        """Hashes the plain values, so that a config that holds mappings can be the key of a cache, too."""
        return hash(canonical(self))


def _is_number(annotation: Any) -> bool:
    """Whether a field holds a number, or None, and nothing else."""
    kinds = set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}
    return bool(kinds & {int, float}) and kinds <= {int, float, type(None)}


T = TypeVar("T", bound=Config)

# Marks of a field, given as `Field(json_schema_extra=APPLY)`. A field without a mark belongs to `score`, or to the phase of
# the field that holds its config.
# A threshold: a new value repeats the decisions on the stored scores and scores nothing again.
APPLY: dict[str, Any] = {"phase": "apply"}
# How the work is done, such as a time-out. The result does not depend on the value, and no digest includes it.
HOW: dict[str, Any] = {"phase": "how"}
PHASES = ("score", "apply", "how")
MAX_NAMES = 40  # that a message lists
# YAML 1.1 as PyYAML reads it takes 1e-5 for text, because its floats need a dot.
_FLOAT_AS_TEXT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        tree = parse_yaml(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path}: expected 'key: value' lines at the top level, but the file holds a {type(tree).__name__}"
        )
    return tree


def parse_assignment(item: str, option: str = "--set") -> tuple[list[str], Any]:
    """'a.b=c' -> (['a', 'b'], value); the value is read as YAML, and 1e-5 as the number it looks like.

    `option` is how messages name the flag; "" where the assignment comes from Python. Raises UsageError.
    """
    key, sep, raw = item.partition("=")
    if not sep or not key.strip():
        raise UsageError(f"{option} {item}: expected KEY=VALUE, for example adapt.steps=100".lstrip())
    if _FLOAT_AS_TEXT.match(raw.strip()):
        return key.strip().split("."), float(raw)
    try:
        return key.strip().split("."), parse_yaml(raw)
    except UsageError as error:
        raise UsageError(f"{option} {item[:200]}: the value: {error}".lstrip()) from None


def parse_assignments(
    items: Iterable[str], option: str = "--set"
) -> tuple[list[tuple[list[str], Any]], dict[str, str]]:
    """The assignments for `set_keys`, and for `build` the text by which messages name each of them. Raises UsageError."""
    items = list(items)
    settings = [parse_assignment(item, option) for item in items]
    assigned = {".".join(keys): f"{option} {item}".lstrip() for (keys, _), item in zip(settings, items, strict=True)}
    return settings, assigned


def set_keys(tree: dict[str, Any], assignments: list[tuple[list[str], Any]], option: str = "--set") -> dict[str, Any]:
    """A copy of `tree` with the assignments laid over it, in order. `option`: how messages name the flag."""
    result = json.loads(json.dumps(tree))
    for keys, value in assignments:
        node = result
        for key in keys[:-1]:
            child = node.get(key)
            if child is None:
                child = node[key] = {}
            if not isinstance(child, dict):
                message = f"{option} {'.'.join(keys)}: '{key}' is a value and has no keys below it"
                raise UsageError(message.lstrip())
            node = child
        node[keys[-1]] = value
    return result


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, mapping by mapping; a list or value of `over` replaces that of `base`.

    A mapping that gives another `name` (another temporal module, captioner ...) replaces the old mapping, too, because the
    keys of the old one do not apply to it.
    """
    if "name" in over and over["name"] != base.get("name", over["name"]):
        return dict(over)
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _field_names(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys that exist at `path` (of the unknown key's parent) below `model`."""
    members: list[type[BaseModel]] = []  # of the union that the path has reached
    for part in path:
        if field := model.model_fields.get(str(part)):
            inner = (field.annotation, *getattr(field.annotation, "__args__", ()))
            members = [cls for cls in inner if isinstance(cls, type) and issubclass(cls, BaseModel)]
            outside = [mark.config for mark in field.metadata if isinstance(mark, OrExtension) and mark.config]
            model = next(iter([*outside, *members]), model)
        else:  # pydantic names the member of a union by its `name`, and the item of a list by its place
            model = next((cls for cls in members if _name_of(cls) == part), model)
    return list(model.model_fields)


def _name_of(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("name")
    return field.default if field else None


def suggestion(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest of `names`, or a list of them where none is near."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1) or [known for known in names if name and known.startswith(name)]
    more = ", ..." if len(names) > MAX_NAMES else ""
    return f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(names[:MAX_NAMES])}{more}"


def build(model: type[T], tree: dict[str, Any], source: str, assigned: Mapping[str, str] | None = None) -> T:
    """`tree` as a `model`. Raises UsageError naming source, whole key path, the value, the nearest good name.

    `assigned` has the dotted keys that were laid over the tree, with the text by which messages name each of them, such as
    '--set a.b=c'. A fault at or above such a key is reported with this text.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults: dict[str, list[str]] = {}  # what the faulty values come from -> sentences
        for item in error.errors():
            keys = _keys_of(item["loc"], tree, missing=item["type"] == "missing")
            named = ", ".join(text for key, text in (assigned or {}).items() if _overlap(key, keys))
            origin = " with ".join(part for part in (source, named) if part)
            faults.setdefault(origin, []).append(_fault(item, model))
        raise UsageError("; ".join(f"{origin}: {'; '.join(lines)}" for origin, lines in faults.items())) from None


def _fault(item: Any, model: type[BaseModel]) -> str:
    """One error of pydantic as a sentence."""
    path, value = item["loc"], item.get("input")
    dotted = ".".join(str(part) for part in path)
    if item["type"] == "extra_forbidden":
        return f"unknown key '{dotted}': {_nearest_key(model, path)}"
    if isinstance(value, str) and _FLOAT_AS_TEXT.match(value) and math.isfinite(float(value)):
        return f"{dotted}: YAML reads {value} as text; write {float(value):.1e}".replace("e-0", "e-")
    if item["type"] == "missing":
        return f"{dotted}: this key is needed"
    message = item["msg"].removeprefix("Value error, ")
    if not (item["type"] == "value_error" and isinstance(value, dict)):  # else the message is about keys of the mapping
        message += f" (found {excerpt(value)})"
    return f"{dotted}: {message}" if dotted else message


def _nearest_key(model: type[BaseModel], path: tuple[Any, ...]) -> str:
    """The suggestion for an unknown key: the same key one level below (adapt.steps for steps), or the nearest beside it."""
    *above, key = path
    names = _field_names(model, tuple(above))
    deeper = [name for name in names if key in _field_names(model, (*above, name))]
    if deeper:
        return f"did you mean '{'.'.join(map(str, (*above, deeper[0], key)))}'?"
    return suggestion(str(key), names)


def _keys_of(path: tuple[Any, ...], tree: Any, missing: bool) -> tuple[str, ...]:
    """The keys of `tree` on an error's path, without the names that pydantic puts between them for the members of a union."""
    keys: list[str] = []
    for part in path:
        if isinstance(tree, dict) and part in tree:
            keys.append(str(part))
            tree = tree[part]
    return (*keys, str(path[-1])) if missing else tuple(keys)


def _overlap(dotted: str, keys: tuple[str, ...]) -> bool:
    """Whether one of the two paths of keys is the beginning of the other."""
    return all(first == second for first, second in zip(dotted.split("."), keys, strict=False))


def canonical(value: Any) -> str:
    """The value as JSON in a unique form: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no canonical form of {type(value).__name__}")


def digest(value: Any) -> str:
    """32 hex digits of SHA-256 over the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def by_phase(cfg: Config, phase: str = "score") -> dict[str, dict[str, Any]]:
    """The plain values of a config as three trees, `score`, `apply` and `how`, by the marks of its fields.

    A field without a mark has the phase of the field above it; fields below a HOW field are HOW, whatever their own marks.
    """
    trees: dict[str, dict[str, Any]] = {name: {} for name in PHASES}
    plain = cfg.model_dump(mode="json")
    for name, field in type(cfg).model_fields.items():
        mark = phase_of(field, phase)
        value = getattr(cfg, name)
        if isinstance(value, Config) and mark != HOW["phase"]:
            for below, tree in by_phase(value, mark).items():
                if tree:
                    trees[below][name] = tree
        else:
            trees[mark][name] = plain[name]
    return trees


def phase_of(field: FieldInfo, above: str = "score") -> str:
    """The phase that a field is marked with, else that of the field above it."""
    extra = field.json_schema_extra
    return str(extra.get("phase", above)) if isinstance(extra, dict) else above


def result_settings(cfg: Config) -> dict[str, Any]:
    """The plain values of a config on which the result depends: all but those that are marked HOW."""
    trees = by_phase(cfg)
    return merge(trees["score"], trees["apply"])


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, of all values in nested mappings: {'a': {'b': 1}} -> {'a.b': 1}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}
