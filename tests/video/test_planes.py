from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from m2raap.video.planes import PlaneMaker, plane_size


def test_plane_size() -> None:
    assert plane_size(640, 360) == (160, 90)
    assert plane_size(360, 640) == (90, 160)
    assert plane_size(101, 51) == (102, 52)
    assert plane_size(4000, 2) == (160, 2)
    assert plane_size(1, 1) == (2, 2)
    assert plane_size(1919, 1081) == (160, 90)


def picture(width: int, height: int) -> np.ndarray:
    """A smooth picture in many colours: RGB uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(6 * x + 2 * y + k) + np.cos(5 * y - k * x) for k in range(3)]
    return (127 + 50 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("size", [(640, 360), (333, 251), (90, 1000), (48, 30)])
@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "rgb24", "yuva420p"]
)
def test_as_if_the_whole_frame_were_converted_and_shrunk(pixels: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(picture(*size), format="rgb24").reformat(format=pixels)
    maker = PlaneMaker()
    plane = maker.plane(frame)
    width, height = plane_size(*size)
    assert plane.shape == (height, width, 3) and plane.dtype == np.uint8
    whole = cv2.resize(frame.to_ndarray(format="bgr24"), (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(plane.astype(int) - whole).mean() < 4
    other = av.VideoFrame.from_ndarray(picture(64, 64), format="rgb24").reformat(format=pixels)
    assert maker.plane(other).shape == plane.shape  # a stream that changes its size half way


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("size", [(640, 360), (360, 640), (1280, 720), (320, 180), (640, 720), (854, 480), (160, 90)])
def test_copied_rows_give_the_plane_of_the_whole_frame(pixels: str, size: tuple[int, int]) -> None:
    frame, other = (av.VideoFrame(*of, pixels) for of in (size, (320, 240)))
    rng = np.random.default_rng(0)
    for part in (*frame.planes, *other.planes):
        part.update(rng.integers(0, 256, part.buffer_size, np.uint8).tobytes())
    width, height = plane_size(*size)
    shrunk = []
    for part, of in zip(frame.planes, [(width, height), *[(width // 2, height // 2)] * 2], strict=True):
        whole = np.frombuffer(part, np.uint8).reshape(part.height, part.line_size)[:, : part.width]
        shrunk.append(cv2.resize(whole, of, interpolation=cv2.INTER_LINEAR).ravel())
    i420 = np.concatenate(shrunk).reshape(height * 3 // 2, width)
    maker = PlaneMaker()
    first = maker.plane(frame)
    assert np.array_equal(first, cv2.cvtColor(i420, cv2.COLOR_YUV2BGR_I420))
    kept = first.copy()
    maker.plane(other)
    assert np.array_equal(first, kept)  # memory is used again, but never that of a plane
    assert np.array_equal(maker.plane(frame), kept)
