"""YAML of recipes and of --set, strictly: plain values only, every key once, and within limits of size.

The result consists of mappings with text as keys, lists, texts, finite numbers, true, false and null, so that it can be written
as JSON. Dates stay the text that they are. A few lines with aliases of aliases can stand for billions of values: they are
counted before anything is built.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from m2raap.core.errors import UsageError

MAX_CHARS = 1024**2
MAX_NUMBER = 2**63 - 1
MAX_NODES = 100_000  # values and keys, those behind aliases counted each time


class _Loader(yaml.SafeLoader):
    pass


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, None for an empty one. Raises UsageError naming the line."""
    if len(text) > MAX_CHARS:
        raise UsageError(f"longer than {MAX_CHARS:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _num_nodes(node, {})
        return loader.construct_document(node)  # type: ignore[no-untyped-call]  # PyYAML has no types
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} is not YAML" if mark else "is not YAML"
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)  # `reason`: of a character
        raise UsageError(f"{where}: {problem}") from None
    except RecursionError:
        raise UsageError("values are nested too deep") from None


def _num_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of nodes at and below `node`, those behind an alias counted each time. Raises UsageError for too many."""
    if id(node) in known:
        if not known[id(node)]:
            raise UsageError(f"{_line(node)}: holds itself by an alias")
        return known[id(node)]
    known[id(node)] = 0
    count = 1
    if isinstance(node, yaml.CollectionNode):
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        count += sum(_num_nodes(child, known) for child in children)
    if count > MAX_NODES:
        raise UsageError(
            f"{_line(node)}: holds more than {MAX_NODES:,} values; aliases are counted where they are used"
        )
    known[id(node)] = count
    return count


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _mapping(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):  # by an explicit !!map
        raise UsageError(f"{_line(node)}: expected a mapping")
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str):
            raise UsageError(f"{_line(key_node)}: a key has to be text; write it in quotes")
        if key in seen:
            raise UsageError(f"{_line(key_node)}: the key '{key}' is given twice; remove one of the two")
        seen.add(key)
    return {str(key): value for key, value in yaml.SafeLoader.construct_mapping(loader, node, deep=True).items()}


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{_line(node)}: holds half of a character ({ascii(text)[:60]}), which cannot be written"
        ) from None
    return text


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    try:
        number = loader.construct_yaml_int(node)  # type: ignore[no-untyped-call]
    except (ValueError, IndexError):  # IndexError: an empty text
        number = None
    if number is None or abs(number) > MAX_NUMBER:
        raise UsageError(f"{_line(node)}: expected a whole number of at most 64 bits, found {node.value[:60]}")
    return number


def _truth(loader: _Loader, node: yaml.ScalarNode) -> bool:
    try:
        return loader.construct_yaml_bool(node)  # type: ignore[no-untyped-call]
    except KeyError:
        raise UsageError(f"{_line(node)}: expected true or false, found {node.value[:60]}") from None


def _real_number(loader: _Loader, node: yaml.ScalarNode) -> float:
    try:
        number = loader.construct_yaml_float(node)  # type: ignore[no-untyped-call]
    except (ValueError, OverflowError, IndexError):  # IndexError: an empty text
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{_line(node)}: expected a finite number, found {node.value[:60]}")
    return number


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": _truth,
    f"{_TAG}int": _whole_number,
    f"{_TAG}float": _real_number,
    f"{_TAG}str": _text,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": _mapping,
    None: yaml.SafeLoader.construct_undefined,
}
# Without the resolver of dates, '2020-01-01' is the text that it is, and so is '1:30', which YAML 1.1 reads as 90. A number
# that begins with 0, such as 010, is text, too: YAML 1.1 would read 8. Where a setting needs a number, that text means 10.
_NO_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-9_.]+)+)")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first] = [
        (f"{_TAG}str", re.compile(f"(?:{_NO_NUMBER.pattern})$")),
        *_Loader.yaml_implicit_resolvers[_first],
    ]
