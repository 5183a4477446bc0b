"""keyframes: exactly k representative frames a clip, in the one decode that also measures motion, light and sharpness."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.videos import VideoDigests
from m2raap.core.view import Part, View
from m2raap.stages.transnet import network_cuts
from m2raap.stages.videos import file_digest, opened, video_worker
from m2raap.video.extract import KeyframeConfig
from m2raap.video.fetch import RemoteConfig, is_url, url_digest
from m2raap.video.limits import Refused, VideoConfig

# Measured in the one decode (m2raap.video.extract). Where `reading` is sparse not all frames were seen: what only they can
# tell (num_shots, motion, luma_mean, black_share, frozen_share) is null, and no rule judges it.
SIGNALS = {
    "duration_s": "float", "source_width": "int", "source_height": "int", "decoded_frames": "int",
    "expected_frames": "int", "corrupt_share": "float", "fps": "float", "variable_frame_rate": "bool",
    "num_shots": "int", "motion": "float", "luma_mean": "float", "blur": "float", "black_share": "float",
    "frozen_share": "float", "pick_sharpness": "float", "pick_copies": "int", "shortfall": "int",
    "reading": "str",
}  # fmt: skip


class KeyframesConfig(KeyframeConfig):
    """How frames are chosen and stored, and with how few a clip is still of use."""

    min_frames: int = Field(default=2, ge=1, description="clips with fewer good frames are dropped as too_few_frames")
    decode: VideoConfig = Field(default_factory=VideoConfig)
    remote: RemoteConfig = Field(default_factory=RemoteConfig)

    def settings(self) -> Settings:
        score = self.model_dump(mode="json")
        return Settings(score, apply={"min_frames": score.pop("min_frames")})


class KeyframesStage(DataStage):
    name = "keyframes"
    reads = ()
    reads_video = True
    adds = ("frames",)

    def video_digest(self, clip: Row, view: View, videos: VideoDigests, settings: dict[str, Any]) -> str:
        if is_url(clip["video"]):
            remote = RemoteConfig(**settings["remote"])
            return videos.of_url(clip["video"], lambda: url_digest(clip["video"], remote))
        return file_digest(clip, view, videos)

    def signal_columns(self) -> dict[str, str]:
        return {"decode": "str", "decode_detail": "str", "num_frames": "int"} | SIGNALS

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        settings = dict(settings)
        worker = video_worker(VideoConfig(**settings.pop("decode")))
        remote = RemoteConfig(**settings.pop("remote"))
        cfg = KeyframeConfig(**settings)
        frames: list[Row] = []
        signals: list[Row] = []
        for clip in part.clips:
            row = {"clip_id": clip["clip_id"]}
            try:
                with opened(view.corpus.video_root, clip["video"], remote) as path:
                    start_s, end_s = clip["start_s"] or 0.0, clip["end_s"]
                    cuts_s = network_cuts(worker, path, start_s, end_s, cfg)
                    found = worker.extract(path, start_s, end_s, cfg, cuts_s)
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
