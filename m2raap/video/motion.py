"""How a clip moves, as a small tensor: optical flow between sampled planes, by time and place. Runs in the child process.

S segments of time, G rows and columns of a grid over the upright picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NUM_SEGMENTS, GRID = 8, 4
MOTION_SHAPE = (NUM_SEGMENTS, GRID, GRID, 3)
MOTION_BYTES = int(np.prod(MOTION_SHAPE)) * 2  # float16
_FLOWS = 16  # of a clip are enough: two a segment
_MOST_GAP_S = 0.5  # between two samples: farther apart, or across a cut, flow says nothing


class MotionField:
    """Collects flow between planes that are a fraction of a second apart.

    The measures of a cell are the mean flow to the right and down and the mean length of the flow, in long sides of the picture
    a second. By DIS optical flow (Kroeger et al. 2016, in OpenCV).
    """

    def __init__(self, turns: int = 0, num_samples: float = 0.0) -> None:
        """`turns`: quarter turns from the stored plane to the upright picture, as of np.rot90. `num_samples`: about how many
        samples will come; of many, flow is measured after every n-th alone."""
        import cv2

        library: Any = cv2  # whose stubs lack this name
        self._turns = turns
        self._every, self._count = max(1, int(num_samples / _FLOWS)), 0
        self._flow: Any = library.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: tuple[float, np.ndarray] | None = None
        self._times_s: list[float] = []
        self._cells: list[np.ndarray] = []

    def add(self, time_s: float, luma_HW: np.ndarray) -> None:
        """Adds the next sample, uint8 (H, W) of the stored plane."""
        import cv2

        last, self._last = self._last, (time_s, luma_HW)
        self._count += 1
        if self._count % self._every:
            return
        if last is None or not 0 < time_s - last[0] <= _MOST_GAP_S:
            return
        before_HW, luma_HW = (np.ascontiguousarray(np.rot90(plane, self._turns)) for plane in (last[1], luma_HW))
        flow_HW2 = self._flow.calc(before_HW, luma_HW, None)
        length_HW = cv2.magnitude(flow_HW2[..., 0], flow_HW2[..., 1])
        cells = cv2.resize(cv2.merge([flow_HW2, length_HW]), (GRID, GRID), interpolation=cv2.INTER_AREA)
        self._times_s.append((time_s + last[0]) / 2)
        self._cells.append(cells / ((time_s - last[0]) * max(luma_HW.shape)))

    def tensor(self, length_s: float, cuts_s: list[float]) -> np.ndarray:
        """float16 (S, G, G, 3): the mean over each segment of the clip's length; 0 where nothing was measured.

        Flow across one of `cuts_s` is left out.
        """
        times_s = np.array(self._times_s)
        segments = np.clip(times_s / max(length_s, 1e-6) * NUM_SEGMENTS, 0, NUM_SEGMENTS - 1).astype(np.int64)
        total, count = np.zeros(MOTION_SHAPE), np.zeros(NUM_SEGMENTS)
        is_cut = np.zeros(len(times_s), bool)
        for cut_s in cuts_s:
            is_cut |= np.abs(times_s - cut_s) <= _MOST_GAP_S / 2
        for segment, cells, across in zip(segments, self._cells, is_cut, strict=True):
            if not across:
                total[segment] += cells
                count[segment] += 1
        return (total / np.maximum(count, 1)[:, None, None, None]).clip(-100, 100).astype(np.float16)
