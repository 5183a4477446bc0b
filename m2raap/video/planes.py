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
        self._i420 = np.empty((0, 0), np.uint8)  # the latest plane before its conversion to BGR
        self._parts: tuple[np.ndarray, ...] = ()  # its Y, U and V
        self._rows = [np.empty((0, 0, 0), np.uint8)] * 3  # the latest `_middle_rows` of each

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
            self._parts = (self._i420[:height], *self._i420[height:].reshape(2, height // 2, width // 2))
        if frame.format.name in _PLANAR and frame.color_range != _FULL_RANGE:
            return self._from_planes(frame)
        small = self._scaler.reformat(frame, *self._size, "bgr24", interpolation="FAST_BILINEAR", threads=1)
        return small.to_ndarray()

    def _from_planes(self, frame: Any) -> np.ndarray:
        import cv2

        for index, (plane, part_HW) in enumerate(zip(frame.planes, self._parts, strict=True)):
            rows, columns = part_HW.shape
            height, width, line = plane.height, plane.width, plane.line_size
            step = height // rows
            if step % 2 == 0 and step * rows == height:
                # The interpolation reads the two middle rows of every `step` rows. They are copied first, because OpenCV waits
                # for the memory of each row, and a copy reads many at once.
                shape = rows, 2, width
                if self._rows[index].shape != shape:
                    self._rows[index] = np.empty(shape, np.uint8)
                groups = np.frombuffer(plane, np.uint8).reshape(rows, step, line)
                np.copyto(self._rows[index], groups[:, step // 2 - 1 : step // 2 + 1, :width])
                whole_HW = self._rows[index].reshape(2 * rows, width)
            else:
                whole_HW = np.frombuffer(plane, np.uint8).reshape(height, line)[:, :width]
            cv2.resize(whole_HW, (columns, rows), part_HW, 0, 0, cv2.INTER_LINEAR)
        return cv2.cvtColor(self._i420, cv2.COLOR_YUV2BGR_I420)
