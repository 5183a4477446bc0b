"""Claim: damaged or foreign JSON among the files of a run ends every command in one sentence, never in a traceback.

Generator (seeded): a JSON file of a finished run, corpus or index gets another content: another type of the whole (null, [],
{}, a number, text), a key or item less, a value of another type, a huge number, NaN, a lone surrogate, nesting of 900 levels,
half of its bytes, none at all. A command is then run in this process on a copy. A trial fails where the command reports a bug.

    m2raap data import world --out W --set train_clips=48 --set val_clips=10 --set test_clips=12
    m2raap run tests/small.yaml --data W/train --bench motion=W/test --out R --allow-refused 20%
    m2raap search index R/m2raap/rewrite --model R/m2raap/adapt --out I
    python bench/fuzz_state.py W R I [--trials 2000] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HUGE = 10**400
OTHERS = (
    None,
    [],
    {},
    0,
    -1,
    HUGE,
    1e308,
    float("nan"),
    "",
    "text",
    "../..",
    "\ud800",
    True,
    [None],
    {"a": None},
    [[]],
)
DEEP = 900


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a tree, its own included; of a long list only the first and the last item."""
    yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))
    elif isinstance(tree, list):
        for index in sorted({0, len(tree) - 1} if tree else ()):
            yield from places(tree[index], (*path, index))


def replaced(tree: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of the tree in which `change(parent, key)` was called for the value at `path`."""
    box = [json.loads(json.dumps(tree))]
    parent, keys = box, (0, *path)
    for key in keys[:-1]:
        parent = parent[key]
    change(parent, keys[-1])
    return box[0]


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done to the JSON of a file, in words, and its bytes after that."""
    kind = rng.choice(("whole", "less", "value", "value", "value", "key", "cut", "empty", "deep"))
    if kind == "cut":
        return kind, data[: rng.randrange(len(data))]
    if kind == "empty":
        return kind, b""
    if kind == "deep":
        return kind, b"[" * DEEP + b"]" * DEEP if rng.random() < 0.5 else b'{"a":' * DEEP + b"0" + b"}" * DEEP
    other = rng.choice(OTHERS)
    tree = json.loads(data.split(b"\n")[0]) if _is_lines(data) else json.loads(data)
    paths = [path for path in places(tree) if path]
    if kind == "whole" or not paths:
        return f"whole {other!r:.20}", json.dumps(other).encode()
    path = rng.choice(paths)
    shown = ".".join(map(str, path))
    if kind == "less":
        tree = replaced(tree, path, lambda parent, key: parent.__delitem__(key))
    elif kind == "key":
        tree = replaced(tree, path, lambda parent, key: _renamed(parent, key))
    else:
        tree = replaced(tree, path, lambda parent, key: parent.__setitem__(key, other))
    return f"{kind} {shown:.60} {other!r:.20}", json.dumps(tree).encode()


def _renamed(parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent["\u00b2/../x"] = parent.pop(key)
    else:
        parent.append(parent[key])


def _is_lines(data: bytes) -> bool:
    return data.count(b"\n") > 1 and data.startswith(b"{") and not data.startswith(b"{\n")


def command_line(*words: object) -> tuple[int, str]:
    """Exit code and output of a command in this process."""
    from m2raap.cli import main

    text = io.StringIO()
    old = sys.argv
    sys.argv = ["m2raap", *map(str, words)]
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            code = main.run_command_line()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = old
    return code, text.getvalue()


def commands(world: Path, run: Path, index: Path, scratch: Path) -> list[tuple[object, ...]]:
    """Commands that read the state of a run, its corpora and an index."""
    rewrite, adapt = run / "m2raap" / "rewrite", run / "m2raap" / "adapt"
    evaluated = run / "m2raap" / "bench-motion" / "evaluate"
    return [
        ("status", run),
        ("status", run, "--verify"),
        ("status", world, "--verify"),
        ("status", index, "--verify"),
        ("explain", "t000007", "--in", run),
        ("explain", "t000007", "--in", rewrite),
        ("data", "export", "csv", run, "--out", scratch / "csv"),
        ("data", "audit", run, "--card"),
        ("report", "lint", world / "train"),
        ("data", "forget", world / "train", "--ids", scratch / "ids.txt", "--run", run),
        ("report", "write", run),
        ("report", "compare", evaluated, run / "zero_shot" / "bench-motion" / "evaluate"),
        ("report", "compare", run, "--published"),
        ("filter", world / "train", "--out", run / "m2raap" / "filter", "--workers", 1),
        ("rewrite", run / "m2raap" / "caption", "--out", rewrite, "--workers", 1),
        ("evaluate", run / "m2raap" / "bench-motion" / "embed", "--out", scratch / "evaluate"),
        ("search", "index", rewrite, "--model", adapt, "--out", index),
        ("search", "query", index, "a red ball", "--model", adapt),
        ("model", "export", adapt, "--to", "hub", "--out", scratch / "hub"),
        ("run", run.parent / "recipe.yaml", "--data", world / "train", "--bench", f"motion={world / 'test'}", "--out", run,
         "--allow-refused", "100%", "--workers", 1, "--until", "align"),
    ]  # fmt: skip


def copy(home: Path, sources: tuple[Path, Path, Path]) -> tuple[Path, Path, Path]:
    """Copies by hard links, as m2raap replaces files and writes none in place; the damaged file is written anew."""
    names = ("W", "R", "I")
    for name, source in zip(names, sources, strict=True):
        shutil.copytree(source, home / name, copy_function=os.link)
    (home / "scratch").mkdir()
    (home / "scratch" / "ids.txt").write_text("t000001\n")
    return home / "W", home / "R", home / "I"


def trials(
    sources: tuple[Path, Path, Path], recipe: Path, num: int, seed: int, is_wanted: Callable[[tuple[object, ...]], bool]
) -> Iterator[tuple[str, str, str]]:
    """(file and damage, command, output) of every trial that ended in a traceback. `is_wanted`: which commands are run."""
    rng = random.Random(seed)
    codes: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(dir=sources[0].parent) as base:
        master = copy(Path(base) / "master", sources)  # the run finds its corpus by a relative path
        shutil.copy(recipe, master[0].parent / "recipe.yaml")
        kinds: dict[
            str, list[Path]
        ] = {}  # manifests, plans ... are damaged equally often, however many of them there are
        for path in sorted(p for s in master for p in s.rglob("*.json*")):
            kinds.setdefault(path.name.split("-")[0], []).append(path)
        for number in range(num):
            home = Path(base) / f"{number}"
            world, run, index = copy(home, master)
            shutil.copy(recipe, home / "recipe.yaml")
            file = home / rng.choice(kinds[rng.choice(sorted(kinds))]).relative_to(master[0].parent)
            what, data = damaged(file.read_bytes(), rng)
            file.unlink()
            file.write_bytes(data)
            words = rng.choice(list(filter(is_wanted, commands(world, run, index, home / "scratch"))))
            code, output = command_line(*words)
            codes[code] += 1
            shutil.rmtree(home)
            if "Traceback" in output:
                name = str(file.relative_to(home))
                yield f"{name}: {what}", " ".join(map(str, words)).replace(f"{home}/", ""), output
    print(f"{num} trials: exit codes {dict(sorted(codes.items()))}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=3, type=Path)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parent.parent / "tests" / "small.yaml")
    args = parser.parse_args()
    os.environ["M2RAAP_DEBUG"] = "1"
    os.environ["M2RAAP_VIDEO_ROOTS"] = str(args.folders[0].resolve().parent)
    world, run, index = (path.resolve() for path in args.folders)
    lines: Counter[str] = Counter()
    num = 0
    for what, command, output in trials((world, run, index), args.recipe, args.trials, args.seed, bool):
        num += 1
        trace = output[output.index("Traceback") :].strip().splitlines()
        places = [line.strip() for line in trace if "m2raap" in line and line.strip().startswith("File")]
        lines[f"{places[-1] if places else ''}: {trace[-1][:100]}"] += 1
        print(f"{what}\n    {command}\n    {trace[-1][:160]}", flush=True)
    for line, count in lines.most_common():
        print(f"{count:4d} {line}")
    print(f"{num} of {args.trials} trials ended in a traceback")


if __name__ == "__main__":
    main()
