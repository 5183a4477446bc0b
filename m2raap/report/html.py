"""Writes the report: one HTML file without scripts, network or outside files, and the same as JSON.

Captions are not trusted: the template escapes everything, the content security policy admits the one style sheet
(by its hash) and images inside the page, and control characters that could reorder or hide text are made visible.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.report.data import ReportData, Strip, to_json
from m2raap.report.views import view
from m2raap.retrieval.significance import bounds_text
from m2raap.stages import reasons

_TEMPLATES = Path(__file__).parent / "templates"
_THUMB_SIDE_PX = 112
_THUMB_QUALITY = 75
# C0 and C1 controls except tab and newline, marks and overrides of writing direction, halves of surrogate pairs.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def write_report(data: ReportData, html_path: Path, json_path: Path) -> None:
    """Writes report.html and report.json. Raises M2raapError naming the clip whose key-frame is not a JPEG."""
    page = render(data)
    values = json.dumps(_plain(to_json(data)), ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(html_path, page.encode())
    write_atomic(json_path, (values + "\n").encode())


def render(data: ReportData) -> str:
    """The page. The same data gives the same bytes."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["bounds"] = _bounds
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    environment.filters["seconds"] = _seconds
    environment.filters["p_value"] = lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}"
    environment.globals["thumbnails"] = thumbnails
    sentences = reasons()
    environment.globals["reason_text"] = lambda reason: sentences.get(reason, "")
    csp = f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'"
    page = environment.get_template("report.html.j2").render(style=Markup(style), csp=csp, **view(data))
    return _HIDDEN.sub("\ufffd", page)


def thumbnails(strip: Strip) -> list[str]:
    """Data URIs of the strip's frames, encoded again as JPEG with a short side of at most 112 px."""
    from PIL import Image, UnidentifiedImageError

    uris = []
    for jpeg in strip.jpegs:
        try:
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as opened:
                image = opened.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise M2raapError(
                f"clip {strip.clip_id}: a key-frame is not a JPEG image ({error}); run keyframes again"
            ) from None
        scale = min(1.0, _THUMB_SIDE_PX / min(image.size))
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        small = io.BytesIO()
        image.save(small, "JPEG", quality=_THUMB_QUALITY, optimize=True)
        uris.append("data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode())
    return uris


def _plain(value: Any) -> Any:
    """Text with its hidden characters made visible, inside lists and mappings too; other values as they are."""
    if isinstance(value, str):
        return _HIDDEN.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    # Adding zero makes a rounded -0.0 a plain 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")


def _bounds(ends: Sequence[float], digits: int = 1, between: str = "–") -> str:
    return bounds_text(ends, digits, between=between).replace("-", "\u2212")


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
