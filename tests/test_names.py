"""A value is named after what it is, not after how we came by it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BANNED = frozenset(
    [
        "found",
        "said",
        "told",
        "made",
        "here",
        "there",
        "own",
        "gone",
        "wanted",
        "brought",
        "asked",
        "taken",
        "took",
        "got",
        "came",
        "heard",
        "shown",
        "given",
        "one",
    ]
)


def assigned(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every variable, parameter, loop variable and attribute that is given a value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_no_value_is_named_after_how_we_came_by_it() -> None:
    files = [path for room in ("m2raap", "data_tools") for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 200
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in assigned(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_") in BANNED
    ]
    assert offenders == []
