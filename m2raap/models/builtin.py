"""Models that come with the package, by name. Paths only, so that the import is fast."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).parent.parent / "assets" / "tiny_bilingual_clip"
BUILTIN = {"builtin:tiny": TINY}
