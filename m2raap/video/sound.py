"""The sound of a clip as a small picture: mean power by time and mel band, in dB. Runs in the child process.

S segments of time, F mel bands, C channels or windows, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from m2raap.video.container import OpenContainer, open_container
from m2raap.video.decode import MAX_ERRORS_IN_A_ROW, WITHOUT_INDEX
from m2raap.video.limits import SOUND_CODECS, Refused, VideoConfig

NUM_SEGMENTS, NUM_BANDS = 96, 64
SOUND_SHAPE = (NUM_SEGMENTS, NUM_BANDS)
SOUND_BYTES = NUM_SEGMENTS * NUM_BANDS * 2  # float16
FLOOR_DB, CEILING_DB = -100.0, 60.0  # of silence, and more than the loudest sound has
_WINDOW_S = 0.025
_STEPS_S = (0.005, 0.02)  # least and most time between two windows; two a segment within that
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
_UNIT_HZ = 16_000  # power is that of a band of white noise which is sampled at this rate
_RATES_HZ = (1_000, 768_000)
_MOST_JUMP_S = 0.1  # by which a frame's time may differ from the end of the frame before it
_FRAMES_AT_ONCE = 64  # decoded frames that are joined before windows are taken


@dataclass(frozen=True)
class Sound:
    """`db_SF` in float16 (S, F), None where the file has no sound within the clip (state `none`)."""

    state: Literal["ok", "none"]
    db_SF: np.ndarray | None = None


class _Run(NamedTuple):
    """Samples (N,) in float32, -1 to 1, without gaps, and the time of the first since the container's start."""

    time_s: float
    samples_N: np.ndarray
    rate_hz: int


def read_sound(path: Path, start_s: float, length_s: float, limits: VideoConfig) -> Sound:
    """The sound of the span that begins `start_s` after the container's start, in S equal segments of it, as the mean of its
    channels. Segments without sound have FLOOR_DB. Packets that cannot be decoded are left out.

    Raises Refused: what `open_container` raises, and unsupported_codec for a codec, rate or format of samples that cannot
    be read.
    """
    with open_container(path, limits) as within:
        stream = within.container.streams.best("audio")
        if stream is None:
            return Sound("none")
        _prepare(within, stream)
        power = _Power(start_s, length_s)
        for run in _runs(within, stream, start_s, start_s + length_s):
            power.add(run)
        return power.result()


def _prepare(within: OpenContainer, stream: Any) -> None:
    from av.stream import Discard

    context = stream.codec_context
    if context is None or context.name not in SOUND_CODECS.split(","):
        raise Refused("unsupported_codec", f"the codec of the sound is {getattr(context, 'name', 'unknown')}")
    context.thread_count = 1
    for other in within.container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def _runs(within: OpenContainer, stream: Any, start_s: float, end_s: float) -> Iterator[_Run]:
    """The sound of the span, and at most a frame more at its ends."""
    first_s = (within.container.start_time or 0) / 1e6
    clock_s = -math.inf  # the end of the frame before
    held: list[Any] = []  # frames of one kind, without gaps
    held_s, kind = 0.0, None
    for frame in _frames(within, stream, first_s, start_s):
        begins_s = math.nan if frame.time is None else frame.time - first_s
        if not math.isfinite(begins_s):
            begins_s = clock_s if math.isfinite(clock_s) else start_s
        if begins_s >= end_s:
            break
        rate_hz = frame.sample_rate
        if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
            raise Refused("unsupported_codec", f"the sound has {rate_hz} samples a second")
        new_kind = (frame.format.name, frame.layout.name, rate_hz)
        follows = abs(begins_s - clock_s) <= _MOST_JUMP_S and new_kind == kind
        begins_s, kind = clock_s if follows else begins_s, new_kind
        clock_s = begins_s + frame.samples / rate_hz
        if held and (not follows or len(held) >= _FRAMES_AT_ONCE):
            yield _Run(held_s, _mono(held), held[0].sample_rate)
            held = []
        if clock_s > start_s:
            held_s = held_s if held else begins_s
            held.append(frame)
    if held:
        yield _Run(held_s, _mono(held), held[0].sample_rate)


def _mono(frames: list[Any]) -> np.ndarray:
    """(N,) float32: the mean of the channels of frames of one kind. Raises Refused for samples of an unknown kind."""
    import av
    import av.error

    fifo = av.AudioFifo()
    try:
        for frame in frames:
            frame.pts = None
            fifo.write(frame)
        joined: Any = fifo.read()
        samples, count = joined.to_ndarray(), len(joined.layout.channels)
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise Refused("unsupported_codec", f"the samples of the sound cannot be read ({error})") from None
    samples_CN = samples if joined.format.is_planar else samples.reshape(-1, max(1, count)).T
    mean_N = samples_CN.mean(0, dtype=np.float32)
    if samples.dtype == np.uint8:
        mean_N = (mean_N - 128) / 128
    elif samples.dtype.kind == "i":
        mean_N /= float(2 ** (8 * samples.dtype.itemsize - 1))
    return np.nan_to_num(mean_N, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)


def _frames(within: OpenContainer, stream: Any, first_s: float, start_s: float) -> Iterator[Any]:
    """Frames of sound from `start_s` or before it on; what cannot be decoded is left out."""
    import av.error

    container = within.container
    if start_s > 0 and container.format.name.split(",")[0] not in WITHOUT_INDEX:
        try:
            container.seek(int((first_s + max(0.0, start_s - 0.5)) * 1e6))
        except av.error.FFmpegError:
            container.seek(0)
    failures = 0
    packets = container.demux(stream)
    while failures <= MAX_ERRORS_IN_A_ROW:
        try:
            packet = next(packets)
            frames = packet.decode()
        except (StopIteration, IndexError, av.error.EOFError):  # IndexError: a stream that appeared after opening
            return
        except MemoryError as error:
            raise MemoryError(str(error)) from None
        except av.error.FFmpegError:
            failures += 1
            packets = container.demux(stream)  # the exception has closed the generator; a new one continues
            continue
        if frames:
            failures = 0
        yield from frames


class _Power:
    """Sums the power of mel bands in the segments of a span, at the rate of the sound itself."""

    def __init__(self, start_s: float, length_s: float) -> None:
        self._start_s, self._length_s = start_s, length_s
        self._step_s = min(max(length_s / (2 * NUM_SEGMENTS), _STEPS_S[0]), _STEPS_S[1])
        self._sum_SF = np.zeros((NUM_SEGMENTS, NUM_BANDS))
        self._count_S = np.zeros(NUM_SEGMENTS, np.int64)
        self._rest_N = np.zeros(0, np.float32)
        self._rest_s, self._rest_hz = -math.inf, 0  # when the rest ends, and its rate

    def add(self, run: _Run) -> None:
        """Adds a run of samples; one that follows the last run continues its windows."""
        time_s, samples_N, rate_hz = run
        if rate_hz == self._rest_hz and abs(time_s - self._rest_s) <= _MOST_JUMP_S:
            time_s -= len(self._rest_N) / rate_hz
            samples_N = np.concatenate([self._rest_N, samples_N])
        window, step = max(8, round(_WINDOW_S * rate_hz)), max(1, round(self._step_s * rate_hz))
        count = max(0, 1 + (len(samples_N) - window) // step)
        if count:
            hann_N, bands_KF = _analysis(window, rate_hz)
            windows_CN = np.lib.stride_tricks.sliding_window_view(samples_N, window)[: count * step : step]
            spectrum = np.fft.rfft(windows_CN * hann_N, 2 * (len(bands_KF) - 1))
            power_CF = (spectrum.real**2 + spectrum.imag**2) @ bands_KF
            centres_s = time_s + (np.arange(count) * step + window / 2) / rate_hz - self._start_s
            segments = np.floor(centres_s / self._length_s * NUM_SEGMENTS).astype(np.int64)
            within = (segments >= 0) & (segments < NUM_SEGMENTS)
            np.add.at(self._sum_SF, segments[within], power_CF[within])
            np.add.at(self._count_S, segments[within], 1)
        self._rest_N, self._rest_hz = samples_N[count * step :], rate_hz
        self._rest_s = time_s + len(samples_N) / rate_hz

    def result(self) -> Sound:
        known = np.flatnonzero(self._count_S)
        if not len(known):
            return Sound("none")
        mean_SF = self._sum_SF / np.maximum(self._count_S, 1)[:, None]
        if self._length_s / NUM_SEGMENTS < _STEPS_S[0]:
            # So short a clip has fewer windows than segments: those between two have the one before them.
            before = known[np.maximum(np.searchsorted(known, np.arange(known[-1] + 1), "right") - 1, 0)]
            mean_SF[: known[-1] + 1] = mean_SF[before]
        db_SF = 10 * np.log10(mean_SF + 10 ** (FLOOR_DB / 10))
        return Sound("ok", np.clip(db_SF, FLOOR_DB, CEILING_DB).astype(np.float16))


@cache
def _analysis(window: int, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """The window (N,), and (bins, F) triangles of equal width on the mel scale, 2595 log10(1 + f / 700), with the unit of power.

    A band beyond half of the rate is 0.
    """
    hann_N = np.hanning(window).astype(np.float32)
    size = 1 << (window - 1).bit_length()
    low_mel, high_mel = (2595 * math.log10(1 + f / 700) for f in (_LOWEST_HZ, _HIGHEST_HZ))
    edges_hz = 700 * (10 ** (np.linspace(low_mel, high_mel, NUM_BANDS + 2) / 2595) - 1)
    bins_hz = np.arange(size // 2 + 1)[:, None] * rate_hz / size
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    nearest = np.abs(bins_hz - edges_hz[1:-1]).argmin(0)  # a narrow band may lie between two bins
    weights[nearest, np.arange(NUM_BANDS)] += weights.sum(0) == 0
    weights /= weights.sum(0)
    weights[:, edges_hz[1:-1] >= rate_hz / 2] = 0
    return hann_N, weights * (_UNIT_HZ / rate_hz / float((hann_N**2).sum()) * 160)  # 160: of a window of 400 at 16 kHz
