from __future__ import annotations

import numpy as np

from m2raap.video.shots import ShotDetector, plane_size


def push_all(kind: str, times_s: list[float]) -> list[float]:
    """Three different noise pictures, changing at 1 s and 3 s, with a little motion within."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (60, 100, 3), dtype=np.uint8) for _ in range(3)]
    shots = ShotDetector(kind, 0.6, 25.0)  # type: ignore[arg-type]
    for i, t in enumerate(times_s):
        picture = pictures[(t >= 1.0) + (t >= 3.0)].copy()
        picture[: i % 5] = 0
        shots.push(t, picture)
    return shots.finish()


def test_cuts_by_time_stamp() -> None:
    even = [i / 25 for i in range(125)]
    uneven = [t for i, t in enumerate(even) if t >= 3.0 or i % 3 != 2]
    for times_s in (even, uneven):
        for kind in ("adaptive", "content"):
            assert np.allclose(push_all(kind, times_s), [1.0, 3.0], atol=0.05), kind
    assert push_all("none", even) == []


def test_plane_size() -> None:
    assert plane_size(640, 360) == (256, 144)
    assert plane_size(360, 640) == (144, 256)
    assert plane_size(100, 50) == (100, 50)
    assert plane_size(4000, 2) == (256, 2)
