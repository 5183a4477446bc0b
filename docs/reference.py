"""Writes docs/reference.md from the code: commands, recipes, keys, tables, rules, benchmarks, reason codes.

    python docs/reference.py

A test compares the page with what this gives.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from m2raap.adapt.config import AdaptConfig
from m2raap.cli.main import app
from m2raap.core.config import HOW, phase_of
from m2raap.core.errors import NO_TEXT_LEFT, UNREADABLE
from m2raap.core.tables import COLUMNS
from m2raap.curate.fidelity_rules import FIDELITY_RULES
from m2raap.curate.limits import LangLimit
from m2raap.curate.text_rules import RULES
from m2raap.curate.video_rules import VIDEO_RULES
from m2raap.pipeline.recipe import Recipe, recipes_folder
from m2raap.retrieval.benchmarks import BENCHMARKS
from m2raap.stages import data_stages, reasons
from m2raap.stages.shared import SHARED_KEYS

PAGE = Path(__file__).parent / "reference.md"
HEAD = """# Reference

Written by `python docs/reference.py` from the code; do not edit. Commands, recipes and their keys, tables and their columns,
rules, benchmarks, reason codes.
"""


def page() -> str:
    parts = [HEAD, *_commands(), *_recipes(), *_keys(), *_tables(), *_rules(), *_benchmarks(), *_reasons()]
    return "\n".join(parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


# -- commands -------------------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    yield (
        "## Commands\n\nEvery command takes `--help`, and `--allow-code` where settings name code of yours "
        "([extend](extend.md)). Results go to stdout, talk to stderr (`m2raap -q` for none).\n"
    )
    for names, command in sorted(_leaves(typer.main.get_command(app), []), key=lambda leaf: leaf[0]):
        yield f"### m2raap {' '.join(names)}\n\n{_one_line(command.help)}\n"
        rows = []
        for parameter in command.params:
            if parameter.name in ("help", "allow_code"):
                continue
            option = parameter.param_type_name == "option"
            flags = (
                [*parameter.opts, *parameter.secondary_opts]
                if option
                else [(parameter.metavar or parameter.name).upper()]
            )
            default = "" if parameter.default is None or callable(parameter.default) else parameter.default
            shown = (
                "needed"
                if parameter.required
                else ""
                if default in (False, (), [])
                else f"`{default}`"
                if default != ""
                else ""
            )
            rows.append([f"`{', '.join(flags)}`", shown, getattr(parameter, "help", None) or ""])
        yield _table(["argument or option", "default", "meaning"], rows)


def _leaves(command: Any, names: list[str]) -> Iterator[tuple[list[str], Any]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _leaves(below, [*names, name])
    else:
        yield names, command


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


# -- recipes --------------------------------------------------------------------------------------------------------


def _recipes() -> Iterator[str]:
    yield "## Recipes\n\n`m2raap recipe show NAME` prints one with every default filled in.\n"
    for path in sorted(recipes_folder().glob("*.yaml")):
        yield f"### {path.stem}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


# -- keys -----------------------------------------------------------------------------------------------------------


AFTER = {
    "how": "*How, not what: no digest holds it.*",
    "apply": "*A new value scores nothing again.*",
}


def _keys() -> Iterator[str]:
    yield "## Keys of a recipe\n\nDefaults < file < `--set a.b=c`. An unknown key is refused with the nearest good name.\n"
    first: dict[type, str] = {}
    yield _table(["key", "kind", "default", "meaning"], _fields(Recipe, "", first))


def _fields(model: type[BaseModel], prefix: str, first: dict[type, str], phase: str = "score") -> Iterator[list[str]]:
    for name, field in model.model_fields.items():
        if model is AdaptConfig and name in SHARED_KEYS:
            continue  # a recipe says them once, at its top
        path = f"{prefix}{name}"
        mark = phase_of(field, phase) if phase != HOW["phase"] else phase
        meaning = (field.description or "") + (f" {AFTER[mark]}" if mark in AFTER and mark != phase else "")
        below = [kind for kind in _kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not below:
            yield [f"`{path}`", _kind(field.annotation), _default(field), meaning]
            continue
        optional = type(None) in _kinds(field.annotation)
        for kind in below:
            several = typing.get_origin(field.annotation) in (dict, list, tuple)
            inner = f"{path}.{'NAME.' if several else ''}"
            variant = f"{path}: {{name: {kind.model_fields['name'].default}}}" if len(below) > 1 else path
            doc = (meaning or _one_line((inspect.getdoc(kind) or "").split("\n\n")[0])).rstrip(".")
            type_name = "keys by name" if several else "keys"
            shown = _default(field) if several else "null" if optional and field.default is None else ""
            if kind in first:
                yield [f"`{variant}`", type_name, shown, f"{doc}; keys as of `{first[kind]}`"]
                continue
            first[kind] = variant
            yield [f"`{variant}`", type_name, shown, doc]
            for row in _fields(kind, inner, first, mark):
                if len(below) == 1:
                    yield row
                elif row[0] != f"`{inner}name`":
                    yield [f"{row[0]} ({kind.model_fields['name'].default})", *row[1:]]


def _kinds(annotation: Any) -> list[Any]:
    """All classes in an annotation, in order."""
    inside = typing.get_args(annotation)
    if not inside or typing.get_origin(annotation) is typing.Literal:
        return [annotation]
    if typing.get_origin(annotation) is typing.Annotated:
        return _kinds(inside[0])
    return [kind for one in inside for kind in _kinds(one)]


def _kind(annotation: Any) -> str:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(map(str, inside))
    if origin is typing.Annotated:
        return _kind(inside[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _kind(one) for one in inside)
    if origin in (tuple, list, set, frozenset):
        return f"list of {' and '.join(_kind(one) for one in inside if one is not Ellipsis)}"
    if origin is dict:
        return "keys by name" if typing.get_origin(inside[1]) is dict else f"{_kind(inside[1])} by name"
    if annotation is Any:
        return "any value"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "null"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation)).lower()
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, dict):
        return "`{}`" if not value else "see Rules" if len(str(value)) > 200 else f"`{value}`"
    if isinstance(value, bool | None):
        return f"`{str(value).lower().replace('none', 'null')}`"
    return f"`{value}`" if value != "" else "empty"


# -- tables ---------------------------------------------------------------------------------------------------------


def _tables() -> Iterator[str]:
    yield "## Tables\n\nParquet, one file a part (`TABLE/part-00000.parquet`); every clip is in the same part of every table.\n"
    for name, columns in COLUMNS.items():
        yield f"### {name}\n"
        yield _table(
            ["column", "type", "meaning"],
            ([f"`{column.name}`", _type(column.type), column.description] for column in columns),
        )
    yield "`missing` has the columns of `dropped`: rows of a benchmark that stay, without frames, and count as misses.\n"
    yield "### signals\n\nOne row a clip or text (`clip_id`, `text_id`), one column a score; what a stage measures:\n"
    rows = [
        (f"`{name}`", ", ".join(f"`{column}`" for column in sorted(cls(cls.config()).signal_columns())))
        for name, cls in data_stages().items()
    ]
    yield _table(["stage", "columns"], rows)
    yield "A corpus has signals where its list does: `features`, `dim` and `labels` (`youtube8m`), `labels` (`sports1m`).\n"


def _type(kind: Any) -> str:
    return f"list of {kind.value_type}" if hasattr(kind, "value_type") else str(kind)


# -- rules, benchmarks, reasons -------------------------------------------------------------------------------------


def _rules() -> Iterator[str]:
    keys = "`filter.text.rules`, `{filter,align}.video.rules` and `rewrite.fidelity.rules`"
    yield f"## Rules\n\nLimits of {keys}, in the order of the verdict.\n"
    rows = []
    for rule in (*RULES.values(), *VIDEO_RULES.values(), *FIDELITY_RULES.values()):
        limits = rule.limit if isinstance(rule.limit, LangLimit) else [("", rule.limit)]
        text = ", ".join(f"{lang} {limit.threshold(rule.refuse):g}".strip() for lang, limit in limits if limit) or "off"
        rows.append([f"`{rule.reason}`", rule.version, f"`{rule.signal}`", rule.refuse, text])
    yield _table(["rule", "version", "signal", "refuses", "default"], rows)


def _benchmarks() -> Iterator[str]:
    yield "## Benchmarks\n\nEvaluation refuses other counts than these.\n"
    rows = []
    for one in BENCHMARKS.values():
        texts = ", ".join(f"{lang} {count:,}" for lang, count in (one.num_texts or {}).items()) or "free"
        rows.append(
            [f"`{one.name}`", one.split, f"{one.num_videos:,}" if one.num_videos else "free", texts, one.protocol]
        )
    yield _table(["name", "split", "videos", "texts", "protocol"], rows)


def _reasons() -> Iterator[str]:
    yield "## Reason codes\n\nWhat may stand in `dropped`. The first list counts against `--allow-refused`.\n"
    yield _table(["reason", "meaning"], ((f"`{reason}`", sentence) for reason, sentence in UNREADABLE.items()))
    rows = [
        (f"`{reason}`", f"`{name}`", sentence)
        for name, cls in data_stages().items()
        for reason, sentence in cls.reasons.items()
    ]
    yield _table(["reason", "stage", "meaning"], [*rows, (f"`{NO_TEXT_LEFT}`", "all", reasons()[NO_TEXT_LEFT])])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines()):,} lines")
