"""What importers say about files below a corpus's video root, and about validation rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from m2raap.core.tables import Row
from m2raap.video.paths import Refused, resolve_video

VAL_SHARE, MAX_VAL = 0.1, 1000


def find_missing(root: Path, clips: Iterable[Row]) -> list[Row]:
    """A `dropped`-shaped row for every clip whose file is absent or may not be opened; the clips themselves stay."""
    rows: list[Row] = []
    for clip in clips:
        try:
            resolve_video(root, clip["video"])
        except Refused as refused:
            detail = clip.get("url") or refused.detail
            rows.append({"clip_id": clip["clip_id"], "stage": "import", "reason": refused.reason, "detail": detail})
    return rows


def val_ids(clip_ids: list[str], seed: int) -> set[str]:
    """A seeded tenth of the clips (1,000 at most) for choosing checkpoints, where the source names no split."""
    count = min(MAX_VAL, max(1, round(VAL_SHARE * len(clip_ids)))) if len(clip_ids) > 1 else 0
    by_hash = sorted(clip_ids, key=lambda i: hashlib.blake2b(f"val:{seed}:{i}".encode(), digest_size=16).digest())
    return set(by_hash[:count])
