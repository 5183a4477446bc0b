"""Reads a clip from its I-frames and a few seeks, by a plan of m2raap.video.planner; shots and motion stay unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from m2raap.video.choose import Candidate, Pick
from m2raap.video.clip import ClipKeyframes, KeyframeConfig, choose, clip_keyframes, measured
from m2raap.video.container import OpenVideo
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.planes import PlaneMaker
from m2raap.video.planner import DECODER_DELAY_FRAMES, SeekRead, SparsePlan, stamps_of
from m2raap.video.render import Renderer
from m2raap.video.shape import PixelAspects, SizeChanges
from m2raap.video.tally import Tally, varies
from m2raap.video.trust import Losses, spread_damage

if TYPE_CHECKING:
    from av import Packet, VideoFrame

UNKNOWN_SHOT = -1
# Signals that need every frame.
UNKNOWN = ("num_shots", "motion", "luma_mean", "black_share", "frozen_share")
_SAME_S = 1e-4  # times closer than this belong to the same frame


def read_sparsely(
    opened: OpenVideo, plan: SparsePlan, end_s: float | None, cfg: KeyframeConfig, limits: VideoConfig
) -> ClipKeyframes | None:
    """Key-frames and signals of a clip; unmeasured signals are None, shots are -1, and `why` says that they are unknown.

    Returns None where `cfg.reading` is not sparse and a frame of the plan is damaged or missing; the clip is then to be decoded
    in full. Where it is sparse, such frames are left out. Raises Refused: truncated, corrupt, unsupported_codec.
    """
    tally = Tally(opened, plan.start_s, end_s)
    tally.decoded, tally.covered_s = len(plan.packets.presentation), plan.packets.end_s
    tally.damaged = tally.stepped_back = plan.packets.stepped_back
    tally.judge(limits)  # missing packets show a cut-off file without a decode
    reader = _Reader(opened, plan, cfg)
    for seek in plan.seeks:
        reader.read(seek)
        if reader.lost and cfg.reading != "sparse":
            return None
    if not reader.candidates or reader.corrupt_share > limits.max_corrupt_share:
        raise Refused("corrupt", f"{reader.lost} of the frames that the sparse reading needs are damaged or missing")
    return reader.result()


class _Reader:
    """Carries out the seeks of a plan and keeps the frames of their targets, ascending in time."""

    def __init__(self, opened: OpenVideo, plan: SparsePlan, cfg: KeyframeConfig) -> None:
        self._opened, self._plan, self._cfg = opened, plan, cfg
        self._planes, self._sizes = PlaneMaker(), SizeChanges()
        self._renderer: Renderer | None = None
        self._order = {packet: place for place, (_, packet) in enumerate(plan.packets.presentation)}
        self.candidates: list[Candidate] = []
        self._pictures: list[Any] = []
        self.lost = self._decoded = 0

    @property
    def corrupt_share(self) -> float:
        """Share of the targets that were damaged or missing, 0..1."""
        return self.lost / max(1, self.lost + len(self.candidates))

    def read(self, seek: SeekRead) -> None:
        packets = self._plan.packets
        missing = {packets.times_s[packet]: packet for packet in seek.targets}
        key_s = packets.times_s[seek.key]
        # Frames stored after the I-frame but displayed before it need frames from before it, which are not decoded.
        frames = (
            (frame, tainted)
            for frame, tainted in self._frames(seek)
            if frame is None or self._time_s(frame) > key_s - _SAME_S
        )
        for frame, corrupt in spread_damage(frames):
            if frame is None:
                continue
            time_s = self._time_s(frame)
            match = next((at_s for at_s in missing if abs(at_s - time_s) < _SAME_S), None)
            if match is not None and not corrupt:
                self._keep(frame, missing.pop(match))
            if not missing:
                return
        self.lost += len(missing)

    def _keep(self, frame: VideoFrame, packet: int) -> None:
        import av.error

        presentation, place = self._plan.packets.presentation, self._order[packet]
        time_s = presentation[place][0]
        until_s = presentation[place + 1][0] if place + 1 < len(presentation) else self._plan.length_s
        try:
            self._renderer = self._renderer or Renderer(self._opened.stream, frame, self._cfg.short_side_px)
            self._sizes.add(frame)
            plane_HWC = self._planes.plane(frame)
            # Made small at once, because there may be many candidates.
            self._pictures.append(self._renderer.picture(frame))
        except (av.error.FFmpegError, ValueError) as error:
            raise Refused("unsupported_codec", f"pixel format {frame.format.name}: {error}") from None
        is_key = packet in self._plan.packets.stamps
        lasts_s = max(0.0, until_s - time_s)
        self.candidates.append(measured(max(0.0, time_s), lasts_s, plane_HWC, is_key, self._renderer.turns))

    def _time_s(self, frame: VideoFrame) -> float:
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:
            return float("inf")
        return self._opened.seconds(stamp) - self._plan.start_s

    def _frames(self, seek: SeekRead) -> Iterator[tuple[VideoFrame | None, bool]]:
        """Frames from the seek's I-frame on, in presentation order; None for a packet that cannot be decoded.

        With each frame: whether it may be predicted from lost data.
        """
        import av.error

        context: Any = self._opened.stream.codec_context
        losses = Losses(context, self._opened.format_name)
        aspects = PixelAspects(context, *self._opened.pixel_aspect)
        for num_packets, packet in enumerate(self._packets(seek)):
            losses.note_before_next(losses.new_error())
            losses.add(packet)
            try:
                frames = packet.decode()
                if seek.frames == 1:  # flushes the decoder: no further packet is needed
                    frames += context.decode(None)
            except MemoryError as error:
                raise MemoryError(str(error)) from None
            except av.error.FFmpegError:
                yield None, True
                return
            losses.note_errors()
            aspects.note(losses.number)
            for frame in frames:
                self._decoded += 1
                origin = losses.origin_of(frame)
                aspects.mark(origin)
                yield frame, losses.taint(frame, origin.number)
            if seek.frames == 1 or num_packets > seek.frames + 4 * DECODER_DELAY_FRAMES:
                return

    def _packets(self, seek: SeekRead) -> Iterator[Packet]:
        """Packets from the seek's I-frame on; the file is read from its start where the container cannot seek to the I-frame."""
        import av.error

        pts, dts = self._plan.packets.stamps[seek.key]
        reached = False
        for target in (dts, dts - int(1 / self._opened.time_base), min(0, self._opened.first_stamp), None):
            try:
                self._opened.rewind() if target is None else self._opened.seek(target)
                for packet in self._opened.packets():
                    stamps = stamps_of(packet)
                    reached = reached or (stamps == (pts, dts) and packet.is_keyframe)
                    if reached:
                        yield packet
                    elif stamps is not None and stamps[1] > dts:
                        break  # the seek ended behind the I-frame
            except MemoryError as error:
                raise MemoryError(str(error)) from None
            except av.error.FFmpegError:
                if reached:
                    return
            if reached:
                return

    def result(self) -> ClipKeyframes:
        assert self._renderer is not None
        plan, cfg = self._plan, self._cfg
        picks = [self._with_reading(pick) for pick in choose(cfg, self.candidates, [], plan.length_s)]
        times_s = [time_s for time_s, _ in plan.packets.presentation]
        signals = {
            "reading": "sparse",
            "duration_s": plan.length_s,
            "decoded_frames": self._decoded,
            "expected_frames": len(times_s),
            "corrupt_share": self.corrupt_share,
            "fps": self._opened.fps or len(times_s) / plan.length_s,
            "variable_frame_rate": varies(times_s),
            "size_changes": self._sizes.count,
            "blur": median(candidate.sharpness for candidate in self.candidates),
        } | dict.fromkeys(UNKNOWN)
        return clip_keyframes(cfg, self.candidates, self._pictures, picks, self._renderer, signals)

    def _with_reading(self, pick: Pick) -> Pick:
        how = "I-frame" if self.candidates[pick.index].is_key else "by seek"
        why = pick.why if pick.why == how else f"{pick.why}, {how}"
        return replace(pick, shot=UNKNOWN_SHOT, why=f"{why}, shots unknown")
