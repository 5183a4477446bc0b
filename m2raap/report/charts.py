"""Small inline SVG charts. The page forbids inline styles: colours come from classes, positions from attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from m2raap.report.data import Curve

NUM_COLOURS = 6
_WHISKER_WIDTH, _WHISKER_HEIGHT = 84.0, 18.0
_CHART_WIDTH, _CHART_HEIGHT = 520.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 12.0, 30.0
_BAR, _GROUP_HEAD, _GROUP_GAP = 13.0, 20.0, 9.0
Bar = tuple[int, float, float, float]  # colour, value, lower and upper bound


def whisker(value: float, lo: float, hi: float, axis_lo: float, axis_hi: float, mark_zero: bool = False) -> Markup:
    """A dot with its interval on an axis that all rows of a table share."""
    span = max(axis_hi - axis_lo, 1e-9)

    def x(number: float) -> float:
        return 4 + (_WHISKER_WIDTH - 8) * (min(max(number, axis_lo), axis_hi) - axis_lo) / span

    middle = _WHISKER_HEIGHT / 2
    parts = [
        Markup('<line class="axis" x1="0" x2="{:.0f}" y1="{:.0f}" y2="{:.0f}"/>').format(_WHISKER_WIDTH, middle, middle)
    ]
    if mark_zero:
        parts.append(
            Markup('<line class="zero" x1="{0:.1f}" x2="{0:.1f}" y1="1" y2="{1:.0f}"/>').format(
                x(0), _WHISKER_HEIGHT - 1
            )
        )
    parts.append(
        Markup('<line class="span" x1="{:.1f}" x2="{:.1f}" y1="{:.0f}" y2="{:.0f}"/>').format(
            x(lo), max(x(hi), x(lo) + 0.5), middle, middle
        )
    )
    parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="{:.0f}" r="3.5"/>').format(x(value), middle))
    return Markup(
        '<svg class="whisker" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" aria-hidden="true">'
        "{2}</svg>"
    ).format(_WHISKER_WIDTH, _WHISKER_HEIGHT, Markup("").join(parts))


def bar(kept: float, lost: float) -> Markup:
    """A bar of `kept` and, beside it, `lost`, both as shares (0..1) of the full width."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/><rect class="kept" width="{:.2f}" height="6"/>'
        '<rect class="lost" x="{:.2f}" width="{:.2f}" height="6"/></svg>'
    ).format(100 * kept, 100 * kept, 100 * lost)


def line_chart(curves: Sequence[Curve], over: str = "training steps") -> Markup:
    """Lines on shared axes. The y axis begins at zero where the smallest value is under half of the largest.

    The bounds of a curve are a band behind it. `over` names the x axis.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return Markup("")
    xs = [p[0] for p in points]
    ys = [p[1] for p in points] + [bound for curve in curves for pair in curve.bounds for bound in pair]
    y_low = 0.0 if min(ys) >= 0 and min(ys) < 0.5 * max(ys) else min(ys)
    x_ticks, y_ticks = round_ticks(min(xs), max(xs), 5), round_ticks(y_low, max(ys), 5)
    x_lo, x_hi = min(xs), max(max(xs), min(xs) + 1e-9)
    y_lo, y_hi = min(y_ticks[0], y_low), max(y_ticks[-1], max(ys), y_low + 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (_CHART_WIDTH - _LEFT - _RIGHT) * (x - x_lo) / (x_hi - x_lo),
            _CHART_HEIGHT - _BOTTOM - (_CHART_HEIGHT - _TOP - _BOTTOM) * (y - y_lo) / (y_hi - y_lo),
        )

    parts: list[Markup] = []
    for tick in y_ticks:
        _, y = at(x_lo, tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{0:.0f}" x2="{1:.0f}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text class="tick" x="{3:.0f}" y="{4:.1f}" text-anchor="end">{5}</text>'
            ).format(_LEFT, _CHART_WIDTH - _RIGHT, y, _LEFT - 6, y + 4, f"{tick:g}")
        )
    for tick in x_ticks:
        if tick < x_lo or tick > x_hi:
            continue
        x, _ = at(tick, y_lo)
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{:.0f}" text-anchor="middle">{}</text>').format(
                x, _CHART_HEIGHT - _BOTTOM + 18, f"{tick:g}"
            )
        )
    for number, curve in enumerate(curves):
        if curve.bounds:
            upper = [at(x, hi) for (x, _), (_, hi) in zip(curve.points, curve.bounds, strict=True)]
            lower = [at(x, lo) for (x, _), (lo, _) in zip(curve.points, curve.bounds, strict=True)]
            edge = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
            parts.append(Markup('<polygon class="band c{}" points="{}"/>').format(number % NUM_COLOURS, edge))
    for number, curve in enumerate(curves):
        line = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in curve.points)
        colour = number % NUM_COLOURS
        parts.append(Markup('<polyline class="line c{}" points="{}"/>').format(colour, line))
        if len(curve.points) <= 30:
            parts += [
                Markup('<circle class="point c{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(colour, *at(x, y))
                for x, y in curve.points
            ]
    return Markup('<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        _CHART_WIDTH, _CHART_HEIGHT, f"{curves[0].chart} over {over}", Markup("").join(parts)
    )


def bar_chart(groups: Sequence[tuple[str, Sequence[Bar]]], title: str) -> Markup:
    """Horizontal bars from zero, each with its interval; the name of a group is above its bars."""
    highest = max((bar[3] for _, bars in groups for bar in bars), default=0.0)
    if highest <= 0:
        return Markup("")
    ticks = round_ticks(0.0, highest, 5)

    def x(value: float) -> float:
        return _RIGHT + (_CHART_WIDTH - 2 * _RIGHT) * min(max(value, 0.0), ticks[-1]) / ticks[-1]

    height = sum(_GROUP_HEAD + _BAR * len(bars) + _GROUP_GAP for _, bars in groups)
    parts = [
        Markup(
            '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1:.0f}"/>'
            '<text class="tick" x="{0:.1f}" y="{2:.0f}" text-anchor="middle">{3}</text>'
        ).format(x(tick), height, height + 16, f"{tick:g}")
        for tick in ticks
    ]
    top = 0.0
    for name, bars in groups:
        parts.append(Markup('<text class="name" x="{:.0f}" y="{:.0f}">{}</text>').format(_RIGHT, top + 15, name))
        top += _GROUP_HEAD
        for colour, value, lo, hi in bars:
            parts.append(
                Markup(
                    '<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
                    '<line class="error" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
                ).format(
                    colour % NUM_COLOURS, x(0), top + 1, x(value) - x(0), _BAR - 2,
                    x(lo), x(hi), top + _BAR / 2, top + _BAR / 2,
                )
            )  # fmt: skip
            top += _BAR
        top += _GROUP_GAP
    return Markup('<svg class="chart bars" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        _CHART_WIDTH, height + 22, title, Markup("").join(parts)
    )


def round_ticks(low: float, high: float, num: int) -> list[float]:
    """About `num` round numbers that cover low..high."""
    if high <= low:
        return [low]
    raw = (high - low) / num
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next((m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999), 10 * unit)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
