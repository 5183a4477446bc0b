"""Recipes and stage settings: strict YAML -> typed, frozen models.

One merge rule: defaults < file < `--set a.b=c`. An unknown key is an error that gives its whole path and the most similar known
key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from m2raap.core.errors import UsageError


class Config(BaseModel):
    """Base of every typed setting: unknown keys are refused, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=())

    def __hash__(self) -> int:
        """Hashes the plain values, so that a config that holds mappings can be the key of a cache, too."""
        return hash(canonical(self))


T = TypeVar("T", bound=Config)

# Marks of a field, given as `Field(json_schema_extra=APPLY)`. A field without a mark belongs to `score`, or to the phase of
# the field that holds its config.
# A threshold: a new value repeats the decisions on the stored scores and scores nothing again.
APPLY: dict[str, Any] = {"phase": "apply"}
# How the work is done, such as a time-out. The result does not depend on the value, and no digest includes it.
HOW: dict[str, Any] = {"phase": "how"}
PHASES = ("score", "apply", "how")
# PyYAML follows YAML 1.1, in which 1e-5 is text, because a float needs a dot.
_FLOAT_AS_TEXT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")


class _StrictLoader(yaml.SafeLoader):
    pass


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]  # PyYAML has no types
        if key in seen:
            raise UsageError(
                f"line {key_node.start_mark.line + 1}: the key '{key}' is given twice; remove one of the two"
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        tree = yaml.load(text, _StrictLoader)  # a SafeLoader
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}:{where} is not YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path}: expected 'key: value' lines at the top level, but the file holds a {type(tree).__name__}"
        )
    return tree


def parse_assignment(item: str) -> tuple[list[str], Any]:
    """'a.b=c' -> (['a', 'b'], value); the value is read as YAML, but 1e-5 as a number. Raises UsageError."""
    key, sep, raw = item.partition("=")
    if not sep or not key.strip():
        raise UsageError(f"--set {item}: expected KEY=VALUE, for example --set adapt.steps=100")
    if _FLOAT_AS_TEXT.match(raw.strip()):
        return key.strip().split("."), float(raw)
    try:
        return key.strip().split("."), yaml.load(raw, _StrictLoader)  # a SafeLoader
    except yaml.YAMLError:
        raise UsageError(f"--set {item}: the value is not YAML") from None


def set_keys(tree: dict[str, Any], assignments: list[tuple[list[str], Any]]) -> dict[str, Any]:
    """A copy of `tree` in which the assignments are made, in order. Raises UsageError for a key below a value."""
    result = json.loads(json.dumps(tree))
    for keys, value in assignments:
        node = result
        for key in keys[:-1]:
            child = node.get(key)
            if child is None:
                child = node[key] = {}
            if not isinstance(child, dict):
                raise UsageError(f"--set {'.'.join(keys)}: '{key}' is a value and can have no keys below it")
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
    """The known keys at `path`, the path of an unknown key's parent below `model`."""
    for part in path:
        field = model.model_fields.get(str(part)) if isinstance(model, type) else None
        if field is None:
            continue
        inner = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
        model = next((a for a in inner if issubclass(a, BaseModel)), model)
    return list(model.model_fields)


def build(model: type[T], tree: dict[str, Any], source: str) -> T:
    """`tree` as a `model`. Raises UsageError naming the source and every wrong key: its whole path and value, or the most similar
    known key."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            path, value = item["loc"], item.get("input")
            dotted = ".".join(str(p) for p in path)
            if item["type"] == "extra_forbidden":
                names = _field_names(model, path[:-1])
                near = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(names)}"
                lines.append(f"unknown key '{dotted}': {hint}")
            elif isinstance(value, str) and _FLOAT_AS_TEXT.match(value):
                lines.append(f"{dotted}: YAML reads {value} as text; write {float(value):.1e}".replace("e-0", "e-"))
            elif item["type"] == "missing":
                lines.append(f"{dotted}: this key is needed")
            else:
                lines.append(f"{dotted}: {item['msg'].removeprefix('Value error, ')} (found {value!r})")
        raise UsageError(f"{source}: " + "; ".join(lines)) from None


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
