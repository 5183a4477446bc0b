"""caption: auxiliary captions of key-frames, from the frames alone: no text of the corpus is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import Field

from m2raap.core.config import digest
from m2raap.core.stage import DataStage, Settings, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.captioners import CAPTIONERS, Captioner, CaptionerConfig, candidates
from m2raap.models.config import BackboneConfig
from m2raap.stages.encode import encoder


class CaptionConfig(CaptionerConfig):
    """Which captioner, and how many of a clip's key-frames it describes."""

    frames: int | None = Field(default=None, ge=1, description="that many, spread evenly; null: every key-frame")

    def settings(self, backbone: BackboneConfig, langs: tuple[str, ...]) -> Settings:
        words = digest(candidates()) if self.name == "retrieval" else None
        score = {"backbone": backbone.model_dump(mode="json"), "langs": list(langs), "words": words}
        return Settings(score | self.model_dump(mode="json"), {})


class CaptionStage(DataStage):
    name = "caption"
    reads = ("jpegs",)
    adds = ("texts",)

    def signal_columns(self) -> dict[str, str]:
        return {"caption_score": "float", "caption_outcome": "str", "num_captions": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        settings = dict(settings)
        backbone, langs, _ = (settings.pop(name) for name in ("backbone", "langs", "words"))
        cfg = CaptionConfig(**settings)
        model = BackboneConfig(**backbone)
        captioner = _captioner(model.model_dump_json(), cfg.model_dump_json())
        texts: list[Row] = []
        signals: list[Row] = []
        for clip in part.clips:
            clip_id = clip["clip_id"]
            jpegs = part.frames[clip_id]["jpegs"] if clip_id in part.frames else []
            chosen = _spread(len(jpegs), cfg.frames)
            features_KE = encoder(model).images([jpegs[i] for i in chosen])
            found = captioner.caption(features_KE, langs) if chosen else []
            for row in found:
                frame = chosen[row["frame_index"]]
                ids = {"clip_id": clip_id, "text_id": f"{clip_id}.aux.{row['lang']}{frame}"}
                score = {"caption_score": round(row["score"], 6), "caption_outcome": row["outcome"]}
                signals.append(ids | score)
                if row["outcome"] == "ok":
                    texts.append(
                        ids
                        | {"lang": row["lang"], "text": row["text"], "origin": "aux", "frame_index": frame}
                        | {"producer": captioner.producer, "active": True}
                    )
            signals.append({"clip_id": clip_id, "num_captions": sum(row["outcome"] == "ok" for row in found)})
        return {"texts": texts, "signals": signals}


def _spread(num: int, wanted: int | None) -> list[int]:
    """Indices of `wanted` of `num` frames: the middles of equal segments."""
    if wanted is None or wanted >= num:
        return list(range(num))
    return [(2 * i + 1) * num // (2 * wanted) for i in range(wanted)]


@lru_cache(maxsize=1)
def _captioner(backbone: str, settings: str) -> Captioner:
    cfg = CaptionConfig.model_validate_json(settings)
    return CAPTIONERS[cfg.name](encoder(BackboneConfig.model_validate_json(backbone)).texts, cfg)
