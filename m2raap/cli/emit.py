"""How every command prints its result: JSON for programs, lines for people, both on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import typer


def emit(tree: object, lines: Iterable[str] | Callable[[], None], as_json: bool) -> None:
    """Prints the result of a command on stdout.

    With `as_json` that is `tree` as one line of JSON with sorted keys. Otherwise it is `lines`, one after the other; a
    function in their place prints by itself, as tables with colours do.
    """
    if as_json:
        typer.echo(json.dumps(tree, ensure_ascii=False, sort_keys=True))
    elif callable(lines):
        lines()
    else:
        for line in lines:
            typer.echo(line)
