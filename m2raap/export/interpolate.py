"""Mixtures of a backbone and its adapted model: one mixture as a model folder, or a curve (R@1 of each mixture)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.core.config import build
from m2raap.core.errors import M2raapError, ThresholdNotMet
from m2raap.core.exports import new_folder
from m2raap.core.files import read_json, write_json
from m2raap.core.view import View
from m2raap.export.measure import Measured, measure
from m2raap.export.stills import Stills, measure_stills
from m2raap.models.config import BackboneConfig
from m2raap.pipeline.run_folder import INTERPOLATION, RunFolder
from m2raap.retrieval.significance import bounds_text, change_text

if TYPE_CHECKING:
    from m2raap.models.backbone import Backbone
    from m2raap.models.video_clip import VideoCLIP


def _load_pair(model: Path) -> tuple[VideoCLIP, Backbone, dict[str, Any]]:
    """The adapted model, the backbone that it was made from, and model.json's `made_from`.

    Raises M2raapError where model.json names no backbone, or weights cannot be loaded.
    """
    from m2raap.models.families import load_backbone
    from m2raap.models.hub import from_cache_alone
    from m2raap.models.video_clip import VideoCLIP

    adapted = VideoCLIP.load(model)
    made_from = read_json(model / "model.json").get("made_from")
    adapt = made_from.get("adapt") or made_from if isinstance(made_from, dict) else {}
    described = adapt.get("backbone") if isinstance(adapt, dict) else None
    if not isinstance(described, dict):
        raise M2raapError(f"{model / 'model.json'}: made_from names no backbone; give a model that m2raap adapted")
    backbone = build(BackboneConfig, described, f"{model / 'model.json'}: made_from")
    with from_cache_alone(f"{model / 'model.json'} names this backbone, so it is not downloaded."):
        return adapted, load_backbone(backbone), made_from


def write_mixture(model: Path, alpha: float, out: Path) -> str:
    """Writes the mixture as a model folder and returns its digest. `alpha`: 0 is the backbone, 1 the adapted model."""
    from m2raap.models.interpolate import interpolated

    adapted, original, made_from = _load_pair(model)
    mixed = interpolated(adapted, original, alpha)
    with new_folder(out) as draft:
        mixed.save(draft, made_from | {"interpolated": {"alpha": alpha, "adapted": adapted.digest}})
    return mixed.digest


def curve(
    model: Path,
    alphas: Sequence[float],
    benches: dict[str, View],
    stills: Stills | None,
    gallery: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """R@1 of every mixture on stored frames of benchmarks and on stills: a row for each set, language, direction and alpha.

    `diff`, `diff_lo`, `diff_hi` (points) and `p` compare with the backbone (alpha 0), paired over the queries. Raises
    M2raapError without a set to measure on.
    """
    from m2raap.models.interpolate import check_alpha, interpolated

    for alpha in alphas:
        check_alpha(alpha)
    adapted, original, _ = _load_pair(model)
    measurements: dict[str, Callable[[VideoCLIP], Measured]] = {
        name: lambda clip, view=view: measure(view, clip, seed) for name, view in benches.items()
    }
    if stills is not None:
        measurements["stills"] = lambda clip: measure_stills(stills, clip, gallery, seed)
    if not measurements:
        raise M2raapError("a curve needs a set to measure on: give --bench NAME=KEYFRAMES or --stills TABLE")
    rows: list[dict[str, Any]] = []
    of_backbone: dict[str, Measured] = {}
    for alpha in sorted({0.0, *alphas}):
        mixed = interpolated(adapted, original, alpha)
        for name, measure_set in measurements.items():
            measured = measure_set(mixed)
            of_backbone.setdefault(name, measured)
            changes = {(row["lang"], row["direction"]): row for row in measured.minus(of_backbone[name], seed)}
            for row in measured.r1():
                change = changes[row["lang"], row["direction"]]
                compared = {key: change[key] for key in ("diff", "p")} | {
                    "diff_lo": change["lo"],
                    "diff_hi": change["hi"],
                }
                rows.append({"set": name, "what": measured.benchmark, "alpha": alpha, **row, **compared})
    return rows


def check_floor(rows: list[dict[str, Any]], floor: float) -> None:
    """Raises ThresholdNotMet where the lower bound of a change at alpha 1 (the adapted model) is under `floor` points."""
    for row in rows:
        if row["alpha"] == 1 and not row["diff_lo"] >= floor:  # written so that NaN fails too
            raise ThresholdNotMet(f"{curve_line(row)}: the lower bound of the change is under --floor {floor:+g}")


def keep_curve(run: Path, rows: list[dict[str, Any]]) -> None:
    """Stores a curve in a run, for its report. Raises M2raapError where there is no run."""
    RunFolder.open(run)
    write_json(run / INTERPOLATION, {"rows": rows})


def curve_lines(rows: list[dict[str, Any]]) -> list[str]:
    return [curve_line(row) for row in sorted(rows, key=lambda r: (r["set"], r["lang"], r["direction"], r["alpha"]))]


def curve_line(row: dict[str, Any]) -> str:
    change = (
        f", to the backbone {row['diff']:+.1f} ({change_text(row['diff_lo'], row['diff_hi'])})" if row["alpha"] else ""
    )
    return (
        f"{row['set']} {row['lang']} {row['direction']} alpha {row['alpha']:<4g}: R@1 {row['r1']:.1f} "
        f"({bounds_text((row['lo'], row['hi']))}){change}, {row['queries']:,} queries"
    )
