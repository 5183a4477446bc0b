"""keyframes: exactly k representative frames a clip, in the one decode that also measures motion, light and sharpness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.stages.videos import path_or_none, video_worker
from m2raap.video.extract import KeyframeConfig
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video

# Measured in the one decode (m2raap.video.extract).
SIGNALS = {
    "duration_s": "float", "source_width": "int", "source_height": "int", "decoded_frames": "int",
    "expected_frames": "int", "corrupt_share": "float", "fps": "float", "variable_frame_rate": "bool",
    "num_shots": "int", "motion": "float", "luma_mean": "float", "blur": "float", "black_share": "float",
    "frozen_share": "float", "pick_sharpness": "float", "pick_copies": "int", "shortfall": "int",
}  # fmt: skip


class KeyframesConfig(KeyframeConfig):
    """How frames are chosen and stored, and with how few a clip is still of use."""

    min_frames: int = Field(default=2, ge=1, description="clips with fewer good frames are dropped as too_few_frames")
    decode: VideoConfig = Field(default_factory=VideoConfig)

    def settings(self) -> Settings:
        score = self.model_dump(mode="json")
        return Settings(score, apply={"min_frames": score.pop("min_frames")})


class KeyframesStage(DataStage):
    name = "keyframes"
    reads = ()
    reads_video = True
    adds = ("frames",)

    def video_path(self, root: Path, clip: Row) -> Path | None:
        return path_or_none(root, clip)

    def signal_columns(self) -> dict[str, str]:
        return {"decode": "str", "decode_detail": "str", "num_frames": "int"} | SIGNALS

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        settings = dict(settings)
        worker = video_worker(VideoConfig(**settings.pop("decode")))
        cfg = KeyframeConfig(**settings)
        frames: list[Row] = []
        signals: list[Row] = []
        for clip in part.clips:
            row = {"clip_id": clip["clip_id"]}
            try:
                path = resolve_video(view.corpus.video_root, clip["video"])
                found = worker.extract(path, clip["start_s"] or 0.0, clip["end_s"], cfg)
            except Refused as refused:
                signals.append(row | {"decode": refused.reason, "decode_detail": refused.detail, "num_frames": 0})
                continue
            signals.append(row | {"decode": "ok", "num_frames": len(found.jpegs)} | found.signals)
            names = ("times_s", "shots", "scores", "why", "hashes", "jpegs", "width", "height")
            frames.append(row | {name: getattr(found, name) for name in names})
        return {"frames": frames, "signals": signals}

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        drops: list[Row] = []
        for clip in part.clips:
            signals = own[clip["clip_id"]]
            row = {"clip_id": clip["clip_id"]}
            if signals["decode"] != "ok":
                drops.append(row | {"reason": signals["decode"], "detail": signals["decode_detail"]})
            elif signals["num_frames"] < settings["min_frames"]:
                limits = {"score": float(signals["num_frames"]), "threshold": float(settings["min_frames"])}
                drops.append(row | {"reason": "too_few_frames", "detail": "num_frames"} | limits)
        return {"dropped": drops}
