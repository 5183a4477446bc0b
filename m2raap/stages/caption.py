"""caption: auxiliary captions of key-frames, from the frames alone: no text of the corpus is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import Field

from m2raap.core.config import digest
from m2raap.core.spread import spread
from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.captioners import (
    CAPTION_PROMPTS,
    CAPTIONERS,
    Captioner,
    CaptionerConfig,
    ClipFrames,
    EndpointCaptioner,
    Tools,
    candidates,
)
from m2raap.curate.encode import encoder
from m2raap.curate.llm.endpoint import EndpointConfig
from m2raap.curate.llm.prompts import digests
from m2raap.curate.llm.schema import Request
from m2raap.models.config import BackboneConfig
from m2raap.stages.llm import cache_of, sent


class CaptionConfig(CaptionerConfig):
    """Which captioner, and how many of a clip's key-frames it describes."""

    frames: int | None = Field(default=None, ge=1, description="that many, spread evenly; null: every key-frame")

    def settings(self, backbone: BackboneConfig, langs: tuple[str, ...]) -> Settings:
        score = self.model_dump(mode="json") | {"langs": list(langs)}
        how: dict[str, Any] = {}
        if self.name == "retrieval":
            score |= {"backbone": backbone.model_dump(mode="json"), "words": digest(candidates())}
        if self.endpoint:
            score |= {"endpoint": self.endpoint.what(), "digests": digests(CAPTION_PROMPTS, self.prompts)}
            score["prompts"] = None  # where the files lie says nothing, their digests do
            how |= {"endpoint": self.endpoint.how(), "prompts": self.prompts}
        return Settings(score, {}, how)


class CaptionStage(DataStage):
    name = "caption"
    version = 2
    reads = ("jpegs",)
    adds = ("texts",)

    def signal_columns(self) -> dict[str, str]:
        said = {"caption_score": "float", "caption_outcome": "str", "caption_note": "str", "caption_sent_to": "str"}
        return said | {"num_captions": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        captioner, clips, chosen = self._prepare(part, settings, settings["how"])
        texts: list[Row] = []
        signals: list[Row] = []
        for clip, frames, found in zip(clips, chosen, captioner.caption_many(clips, settings["langs"]), strict=True):
            sent_frames: set[int] = set()
            for row in found:
                frame = frames[row["frame_index"]]
                ids = {"clip_id": clip.clip_id, "text_id": f"{clip.clip_id}.aux.{row['lang']}{frame}"}
                score = None if row["score"] is None else round(row["score"], 6)
                signal = ids | {"caption_score": score, "caption_outcome": row["outcome"]}
                if row["note"]:
                    signal["caption_note"] = row["note"]
                if row["sent_to"] and frame not in sent_frames:  # one picture, however many languages
                    signal["caption_sent_to"] = row["sent_to"]
                    sent_frames.add(frame)
                signals.append(signal)
                if row["outcome"] == "ok":
                    texts.append(
                        ids
                        | {"lang": row["lang"], "text": row["text"], "origin": "aux", "frame_index": frame}
                        | {"producer": captioner.producer, "active": True}
                    )
            signals.append({"clip_id": clip.clip_id, "num_captions": sum(row["outcome"] == "ok" for row in found)})
        return {"texts": texts, "signals": signals}

    def ledger(self, own: Signals) -> dict[str, int]:
        return sent(own, "caption_sent_to", "frames")

    def requests(self, part: Part, view: View, settings: dict[str, Any], how: dict[str, Any]) -> list[Request]:
        """What `score` would ask about one part, for a Batch file."""
        captioner, clips, _ = self._prepare(part, settings, how)
        assert isinstance(captioner, EndpointCaptioner), "only an endpoint has requests"
        return captioner.requests(clips, settings["langs"])

    def _prepare(
        self, part: Part, settings: dict[str, Any], how: dict[str, Any]
    ) -> tuple[Captioner, list[ClipFrames], list[list[int]]]:
        """The captioner, the frames of every clip that it describes, and their indices."""
        tree = {key: value for key, value in settings.items() if key not in _NO_CONFIG}
        if tree["endpoint"]:
            tree |= {"endpoint": EndpointConfig(**tree["endpoint"], **how["endpoint"]), "prompts": how["prompts"]}
        cfg = CaptionConfig(**tree)
        clips, chosen = [], []
        for clip in part.clips:
            jpegs = part.frames[clip["clip_id"]]["jpegs"] if clip["clip_id"] in part.frames else []
            chosen.append(spread(len(jpegs), cfg.frames))
            clips.append(ClipFrames(clip["clip_id"], [jpegs[i] for i in chosen[-1]]))
        backbone = BackboneConfig(**settings["backbone"]).model_dump_json() if "backbone" in settings else None
        return _captioner(backbone, cfg.model_dump_json(), how["folder"]), clips, chosen


_NO_CONFIG = ("how", "langs", "words", "backbone", "digests")


@lru_cache(maxsize=1)
def _captioner(backbone: str | None, settings: str, folder: str) -> Captioner:
    cfg = CaptionConfig.model_validate_json(settings)

    def encode() -> Any:
        assert backbone is not None, "only retrieval compares features"
        return encoder(BackboneConfig.model_validate_json(backbone))

    tools = Tools(lambda jpegs: encode().images(jpegs), lambda texts: encode().texts(texts), cache_of(folder))
    return CAPTIONERS[cfg.name](cfg, tools)
