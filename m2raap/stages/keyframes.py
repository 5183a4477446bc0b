"""keyframes: chooses exactly k representative frames of each clip, in the decode that also measures motion, light, sharpness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from m2raap.core.config import APPLY
from m2raap.core.stage import DataStage, Judged, Signals, Tables
from m2raap.core.tables import Clip, Row
from m2raap.core.videos import VideoDigests
from m2raap.core.view import Part, View
from m2raap.stages.shared import Shared
from m2raap.stages.transnet import network_cuts
from m2raap.stages.videos import file_digest, opened, video_worker
from m2raap.video.clip import ClipKeyframes, KeyframeConfig
from m2raap.video.fetch import RemoteConfig, is_url, url_digest
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.worker import VideoWorker

# Measured while decoding (m2raap.video.extract). Where `reading` is sparse, not all frames were decoded: signals that need all
# (num_shots, motion, luma_mean, black_share, frozen_share) are null, and no rule is applied to them; where it is referenced,
# expected_frames and variable_frame_rate.
SIGNALS = {
    "duration_s": "float", "source_width": "int", "source_height": "int", "decoded_frames": "int",
    "expected_frames": "int", "corrupt_share": "float", "fps": "float", "variable_frame_rate": "bool",
    "num_shots": "int", "motion": "float", "luma_mean": "float", "blur": "float", "black_share": "float",
    "frozen_share": "float", "pick_sharpness": "float", "pick_copies": "int", "shortfall": "int",
    "reading": "str", "transfer": "str", "primaries": "str", "hdr": "bool", "wide_gamut": "bool", "size_changes": "int",
}  # fmt: skip


class KeyframesConfig(KeyframeConfig):
    """How frames are chosen and stored, and the number that a clip needs."""

    min_frames: int = Field(
        default=2,
        ge=1,
        description="Number of good frames that a clip needs; with fewer it is dropped as too_few_frames.",
        json_schema_extra=APPLY,
    )
    decode: VideoConfig = Field(default_factory=VideoConfig, description="Limits on the process that decodes.")
    remote: RemoteConfig = Field(
        default_factory=RemoteConfig, description="How videos whose path is an address are fetched, if at all."
    )


class KeyframesStage(DataStage[KeyframesConfig]):
    """Choose exactly k representative frames a clip."""

    name = "keyframes"
    config = KeyframesConfig
    version = 4
    reads = ()
    reads_video = True
    on_benchmarks = True
    adds = ("frames",)
    reasons: ClassVar[Mapping[str, str]] = {
        "too_few_frames": "the clip has fewer good frames than keyframes.min_frames"
    }

    def __init__(self, cfg: KeyframesConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared)
        if cfg.senses:
            self.adds = ("frames", "senses")

    @property
    def runs_network(self) -> bool:
        return self.cfg.detector == "transnetv2"

    def video_digest(self, clip: Clip, view: View, videos: VideoDigests) -> str:
        if is_url(clip["video"]):
            return videos.of_url(clip["video"], lambda: url_digest(clip["video"], self.cfg.remote))
        return file_digest(clip, view, videos, self.cfg.decode)

    def signal_columns(self) -> dict[str, str]:
        return {"decode": "str", "decode_detail": "str", "num_frames": "int"} | SIGNALS

    def score(self, part: Part, view: View) -> Tables:
        worker = video_worker(self.cfg.decode)
        cfg = KeyframeConfig(**self.cfg.model_dump(include=set(KeyframeConfig.model_fields)))
        frames: list[Row] = []
        senses: list[Row] = []
        signals: list[Row] = []
        for clip in part.clips:
            row = {"clip_id": clip["clip_id"]}
            try:
                with opened(view.corpus.video_root, clip["video"], self.cfg.remote) as path:
                    start_s, end_s = clip["start_s"] or 0.0, clip["end_s"]
                    cuts_s = network_cuts(worker, path, start_s, end_s, cfg)
                    clip_frames = worker.extract(path, start_s, end_s, cfg, cuts_s)
                    if cfg.senses:
                        sound = _sound(worker, path, start_s, clip_frames) if "sound" in cfg.senses else {}
                        senses.append(row | {"motion": clip_frames.motion} | sound)
            except Refused as refused:
                signals.append(row | {"decode": refused.reason, "decode_detail": refused.detail, "num_frames": 0})
                continue
            signals.append(row | {"decode": "ok", "num_frames": len(clip_frames.jpegs)} | clip_frames.signals)
            names = ("times_s", "shots", "scores", "why", "hashes", "jpegs", "width", "height")
            frames.append(row | {name: getattr(clip_frames, name) for name in names})
        return {"frames": frames, "signals": signals} | ({"senses": senses} if cfg.senses else {})

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        drops: list[Row] = []
        for clip in part.clips:
            measured = signals[clip["clip_id"]]
            row = {"clip_id": clip["clip_id"]}
            if measured["decode"] != "ok":
                drops.append(row | {"reason": measured["decode"], "detail": measured["decode_detail"]})
            elif measured["num_frames"] < self.cfg.min_frames:
                limits = {"score": float(measured["num_frames"]), "threshold": float(self.cfg.min_frames)}
                drops.append(row | {"reason": "too_few_frames", "detail": "num_frames"} | limits)
        return {"dropped": drops}

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        if "text_id" in row or signals.get("decode") != "ok":
            return []
        num_frames, least = float(signals["num_frames"]), float(self.cfg.min_frames)
        return [Judged("too_few_frames", 1, "num_frames", num_frames, least, "below")]


def _sound(worker: VideoWorker, path: Path, start_s: float, clip_frames: ClipKeyframes) -> Row:
    """The sound of a clip, or why there is none: what is wrong with the sound costs no picture."""
    try:
        sound = worker.sound(path, start_s, clip_frames.signals["duration_s"])
    except Refused as refused:
        return {"sound_state": refused.reason, "sound": None}
    return {"sound_state": "none" if sound is None else "ok", "sound": sound}
