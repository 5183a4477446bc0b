"""caption: auxiliary captions of key-frames, made from the frames alone: no text of the corpus is read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from m2raap.core.config import digest
from m2raap.core.extension import is_extension
from m2raap.core.spread import spread
from m2raap.core.stage import Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.captioners import (
    CAPTION_PROMPTS,
    Captioner,
    CaptionerConfig,
    ClipFrames,
    EndpointCaptioner,
    Tools,
    build_captioner,
    candidates,
    extension_dependencies,
)
from m2raap.curate.encode import encoder
from m2raap.curate.llm.prompts import digests
from m2raap.curate.llm.schema import Request
from m2raap.models.config import BackboneConfig
from m2raap.stages.llm import AskingStage, cache_of
from m2raap.stages.shared import Shared


class CaptionConfig(CaptionerConfig):
    """Which captioner, and how many of a clip's key-frames it describes."""

    frames: int | None = Field(
        default=None, ge=1, description="Number of a clip's key-frames, spread evenly, that are described; null: all."
    )

    @property
    def compares_features(self) -> bool:
        """Whether the captioner compares, or may compare, the backbone's features of frames and words."""
        return self.name == "retrieval" or is_extension(self.name)


class CaptionStage(AskingStage[CaptionConfig]):
    """Describe key-frames: auxiliary captions."""

    name = "caption"
    config = CaptionConfig
    version = 3
    sends = "frames"
    needs = ("keyframes",)
    on_benchmarks = True
    reads = ("jpegs",)
    adds = ("texts",)

    def __init__(self, cfg: CaptionConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared or Shared())

    def dependencies(self) -> dict[str, Any]:
        names: dict[str, Any] = {"langs": list(self.shared.langs)}
        if self.cfg.compares_features:
            names |= {"backbone": self.shared.backbone.model_dump(mode="json"), "words": digest(candidates())}
        if is_extension(self.cfg.name) and (more := extension_dependencies(self.cfg)) is not None:
            names["captioner"] = more
        if self.cfg.endpoint:
            names["prompts"] = digests(CAPTION_PROMPTS, self.cfg.prompts)
        return names

    def backbones(self) -> list[BackboneConfig]:
        return [self.shared.backbone] if self.cfg.compares_features else []

    def signal_columns(self) -> dict[str, str]:
        answers = {"caption_score": "float", "caption_outcome": "str", "caption_note": "str", "caption_sent_to": "str"}
        return answers | {"num_captions": "int"}

    def score(self, part: Part, view: View) -> Tables:
        captioner, clips, chosen = self._prepare(part)
        texts: list[Row] = []
        signals: list[Row] = []
        captioned = captioner.caption_many(clips, list(self.shared.langs))
        for clip, frames, captions in zip(clips, chosen, captioned, strict=True):
            sent_frames: set[int] = set()
            for row in captions:
                frame = frames[row["frame_index"]]
                ids = {"clip_id": clip.clip_id, "text_id": f"{clip.clip_id}.aux.{row['lang']}{frame}"}
                score = None if row["score"] is None else round(row["score"], 6)
                signal = ids | {"caption_score": score, "caption_outcome": row["outcome"]}
                if row["note"]:
                    signal["caption_note"] = row["note"]
                if row["sent_to"] and frame not in sent_frames:  # a picture is sent once, for all languages
                    signal["caption_sent_to"] = row["sent_to"]
                    sent_frames.add(frame)
                signals.append(signal)
                if row["outcome"] == "ok":
                    texts.append(
                        ids
                        | {"lang": row["lang"], "text": row["text"], "origin": "aux", "frame_index": frame}
                        | {"producer": captioner.producer, "active": True}
                    )
            signals.append({"clip_id": clip.clip_id, "num_captions": sum(row["outcome"] == "ok" for row in captions)})
        return {"texts": texts, "signals": signals}

    def num_open(self, signals: Iterable[Row]) -> int:
        return super().num_open(signals) // len(self.shared.langs)  # a question is about all languages

    def requests(self, part: Part, view: View) -> list[Request]:
        """What `score` would ask an endpoint about one part, for a Batch file."""
        captioner, clips, _ = self._prepare(part)
        assert isinstance(captioner, EndpointCaptioner), "only an endpoint has requests"
        return captioner.requests(clips, list(self.shared.langs))

    def _prepare(self, part: Part) -> tuple[Captioner, list[ClipFrames], list[list[int]]]:
        """The captioner, the frames of every clip that it describes, and their indices."""
        clips, chosen = [], []
        for clip in part.clips:
            frames = part.frames.get(clip["clip_id"])
            jpegs, times_s = (frames["jpegs"], frames["times_s"]) if frames else ([], [])
            chosen.append(spread(len(jpegs), self.cfg.frames))
            clips.append(ClipFrames(clip["clip_id"], [jpegs[i] for i in chosen[-1]], [times_s[i] for i in chosen[-1]]))
        assert self.folder is not None, "the folder of a stage is set while it runs"
        captioner = _captioner(self.shared.backbone, self.cfg, self.folder)  # pyright: ignore[reportArgumentType]  # they hash
        return captioner, clips, chosen


@lru_cache(maxsize=1)
def _captioner(backbone: BackboneConfig, cfg: CaptionConfig, folder: Path) -> Captioner:
    """The captioner, one for each process and stage. The backbone is loaded when features are first compared."""
    tools = Tools(
        encode_images=lambda jpegs: encoder(backbone).images(jpegs),
        encode_texts=lambda texts: encoder(backbone).texts(texts),
        cache=cache_of(folder),
        encode_clips=lambda clips: encoder(backbone).images_of(clips),
    )
    return build_captioner(cfg, tools)
