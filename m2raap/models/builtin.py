"""Models that come with the package, by name. Light: paths only."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).parent.parent / "assets" / "tiny_bilingual_clip"
BUILTIN = {"builtin:tiny": TINY}
