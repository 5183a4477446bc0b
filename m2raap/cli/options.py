"""Options that several commands share, and the functions that read their values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap.core.errors import UsageError

if TYPE_CHECKING:
    from m2raap.core.engine import Engine

OutOption = Annotated[Path, typer.Option("--out", help="folder to write")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a key of the recipe; repeatable")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="processes of the data stages and of embed (default: cores; for networks on GPUs two for each)",
    ),
]
DevicesOption = Annotated[
    str | None,
    typer.Option("--devices", help="GPUs that run networks: 0-7 or 0,2; cpu: none (default: all of the machine)"),
]
EngineOption = Annotated[
    str, typer.Option("--engine", help="what runs the data stages and embed: local (processes), or ray (machines)")
]
PartsOption = Annotated[
    str | None, typer.Option("--parts", metavar="I/N", help="do only share I of N of the data stages and of embed")
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="replace folders that were made from other inputs or settings; what still fits is reused"
    ),
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--force", help="replace a corpus in OUT that has other content; runs made from it are then stale"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="override the recipe's seed")]
DataOption = Annotated[Path | None, typer.Option("--data", help="the training corpus")]
BenchOption = Annotated[
    list[str] | None, typer.Option("--bench", metavar="NAME=CORPUS", help="a benchmark to evaluate on; repeatable")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="print the plan and its cost, and write nothing")]
AllowRefusedOption = Annotated[
    str,
    typer.Option(
        "--allow-refused",
        help="exit with 3 if a larger share of the clips cannot be read (for a stage alone: has no video file)",
    ),
]
AllowRemoteOption = Annotated[
    bool, typer.Option("--allow-remote", help="download videos whose path is a web address (keyframes.remote)")
]
TruthOption = Annotated[
    Path | None, typer.Option("--truth", help="truth.parquet of a world: the report grades the filters by its faults")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="use only so many clips of the training corpus")
]

ScoresOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--scores",
        help="parquet with a column clip_id, text_id or video, and columns of scores for filter.scores; repeatable",
    ),
]


def refuse_ignored(context: typer.Context, mode: str, used: Collection[str]) -> None:
    """Raises UsageError naming the options and arguments of the command line that `mode` would ignore.

    `used` has the names of the parameters that the mode reads.
    """
    ignored = [
        parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
        for parameter in context.command.params
        if parameter.expose_value and parameter.name not in used and _is_given(context, parameter.name or "")
    ]
    if ignored:
        raise UsageError(f"{mode} does not use {', '.join(ignored)}: leave {'it' if len(ignored) == 1 else 'them'} out")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_share(text: str | None) -> tuple[int, int]:
    """'2/8' -> (2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text) if text else None
    if text and (not match or not 1 <= int(match[1]) <= int(match[2])):
        raise UsageError(f"--parts {text}: expected I/N with 1 <= I <= N, for example 2/8")
    return (int(match[1]), int(match[2])) if match else (1, 1)


def parse_percent(text: str) -> float:
    """'5%' or '0.05' -> 0.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--allow-refused {text}: expected a share such as 5% or 0.05")
    return value


_MOST_GPUS = 1024


def parse_devices(text: str | None) -> list[str]:
    """'0-2,5' -> ['cuda:0', 'cuda:1', 'cuda:2', 'cuda:5']; 'cpu' -> ['cpu']."""
    if text and text.strip() == "cpu":
        return ["cpu"]
    devices: list[str] = []
    for item in text.split(",") if text else []:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(f"--devices {text}: expected numbers of GPUs such as 0-7 or 0,2, or cpu")
        if int(match[2] or match[1]) >= _MOST_GPUS:
            raise UsageError(f"--devices {text}: no machine has so many GPUs; name some such as 0-7 or 0,2, or cpu")
        devices += [f"cuda:{i}" for i in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return devices


def _present(devices: list[str], text: str | None) -> list[str]:
    """The devices. Raises UsageError where this machine does not have one of them, before any work is done."""
    if devices and devices != ["cpu"]:
        from m2raap.core.engine import machine_gpus

        number = machine_gpus()
        if any(int(device.removeprefix("cuda:")) >= number for device in devices):
            gpus = (
                f"the GPUs 0 to {number - 1}" if number > 1 else "the GPU 0" if number else "no GPU that torch can use"
            )
            raise UsageError(f"--devices {text}: this machine has {gpus}; name others, or leave --devices out")
    return devices


def parse_benches(items: list[str] | None) -> dict[str, Path]:
    """['held=C-holdout'] -> {'held': Path('C-holdout')}."""
    benches: dict[str, Path] = {}
    for item in items or []:
        name, sep, path = item.partition("=")
        if not sep or not path or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise UsageError(f"--bench {item}: expected NAME=CORPUS, for example held=corpus-holdout")
        if name in benches:
            raise UsageError(f"--bench {item}: the name '{name}' is given twice")
        benches[name] = Path(path)
    return benches


@contextmanager
def open_engine(kind: str, workers: int | None, devices: str | None) -> Iterator[Engine]:
    """The engine that the options name, closed at the end. Raises UsageError for an unknown kind or device."""
    from m2raap.core.config import suggestion
    from m2raap.core.engine import LocalEngine

    if kind not in ("local", "ray"):
        raise UsageError(f"--engine {kind}: {suggestion(kind, ('local', 'ray'))}")
    if kind == "ray":
        from m2raap.core.ray_engine import RayEngine

        engine: Engine = RayEngine(workers, parse_devices(devices))
    else:
        engine = LocalEngine(workers, _present(parse_devices(devices), devices))
    try:
        yield engine
    finally:
        engine.close()
