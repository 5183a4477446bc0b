"""Makes small BGR planes from decoded frames, for the shot detectors and the measures.

The three planes of a frame are made small first, by bilinear interpolation of two samples as in PySceneDetect's
SceneManager; only the small picture is converted to BGR.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from m2raap.video import colour

LONG_SIDE_PX = 160
# Planar, 8 bits, limited range: what OpenCV's I420 expects once the planes have their size.
_PLANAR = ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p")
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG


def plane_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of a frame's plane in pixels, both even; the longer side is about LONG_SIDE_PX, or the frame's."""
    factor = max(1.0, max(width, height) / LONG_SIDE_PX)
    return max(2, int(width / factor / 2 + 0.5) * 2), max(2, int(height / factor / 2 + 0.5) * 2)


class PlaneMaker:
    """Makes planes that all have the size of the first frame's plane, whatever the size of later frames."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._i420 = np.empty((0, 0), np.uint8)  # the latest plane before its conversion to BGR: Y, below it U and V
        self._rows: dict[int, np.ndarray] = {}  # the latest rows of Y, and of U and V, that `_shrink` has copied

    def plane(self, frame: Any) -> np.ndarray:
        """uint8 BGR [H, W, 3] of an av.VideoFrame; of an HDR frame with the brightness that a screen shows.

        Raises FFmpegError or ValueError for a pixel format unknown to FFmpeg, Refused for Dolby Vision alone.
        """
        if colour.is_hdr(frame):
            import cv2

            return cv2.LUT(self._as_stored(frame), colour.screen_table(colour.transfer(frame)))
        return self._as_stored(frame)

    def _as_stored(self, frame: Any) -> np.ndarray:
        if self._size is None:
            colour.refuse_dolby_vision_alone(frame)
            width, height = self._size = plane_size(frame.width, frame.height)
            self._i420 = np.empty((height * 3 // 2, width), np.uint8)
        if frame.format.name in _PLANAR and frame.color_range != _FULL_RANGE:
            return self._from_planes(frame)
        small = self._scaler.reformat(frame, *self._size, "bgr24", interpolation="FAST_BILINEAR", threads=1)
        return small.to_ndarray()

    def _from_planes(self, frame: Any) -> np.ndarray:
        import cv2

        height = self._i420.shape[0] * 2 // 3
        y, u, v = frame.planes
        self._shrink((y,), self._i420[:height])
        self._shrink((u, v), self._i420[height:].reshape(height, -1))
        return cv2.cvtColor(self._i420, cv2.COLOR_YUV2BGR_I420)

    def _shrink(self, planes: tuple[Any, ...], target_HW: np.ndarray) -> None:
        """Writes planes of one size, made small, below each other into `target_HW`."""
        import cv2

        count = len(planes)
        rows, columns = target_HW.shape[0] // count, target_HW.shape[1]
        height, width = planes[0].height, planes[0].width
        step = height // rows
        if step % 2 == 0 and step * rows == height:
            # The interpolation reads the two middle rows of every `step` rows. They are copied first, because OpenCV waits for
            # the memory of each row, and a copy reads many at once.
            copy = self._rows.get(count)
            if copy is None or copy.shape != (count, rows, 2, width):
                copy = self._rows[count] = np.empty((count, rows, 2, width), np.uint8)
            for plane, pairs in zip(planes, copy, strict=True):
                whole = np.frombuffer(plane, np.uint8).reshape(rows, step, plane.line_size)
                np.copyto(pairs, whole[:, step // 2 - 1 : step // 2 + 1, :width])
            size = columns, count * rows
            cv2.resize(copy.reshape(-1, width), size, target_HW, 0, 0, cv2.INTER_LINEAR)
            return
        for plane, part_HW in zip(planes, target_HW.reshape(count, rows, columns), strict=True):
            whole_HW = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, :width]
            cv2.resize(whole_HW, (columns, rows), part_HW, 0, 0, cv2.INTER_LINEAR)
