"""A stage as somebody outside of the package would write it: this file, a line of the stage table, a field of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from m2raap.core.config import APPLY, HOW, Config
from m2raap.core.stage import DataStage, Judged, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View

SCORED: list[str] = []  # ids of the clips that were scored in this process


class ToyConfig(Config):
    vowels: str = Field("aeiou", description="Letters that are counted.")
    most: int = Field(12, description="A text with more of them is dropped.", json_schema_extra=APPLY)
    patience_s: float = Field(1.0, description="Seconds that it would wait.", json_schema_extra=HOW)


class ToyStage(DataStage[ToyConfig]):
    """Drop texts with too many vowels."""

    name = "toy"
    config = ToyConfig
    needs = ("filter",)
    reasons: ClassVar[dict[str, str]] = {"too_many_vowels": "the text has more vowels than toy.most"}

    def signal_columns(self) -> dict[str, str]:
        return {"num_vowels": "int"}

    def score(self, part: Part, view: View) -> Tables:
        SCORED.extend(clip["clip_id"] for clip in part.clips)
        counts = {text["text_id"]: sum(text["text"].count(v) for v in self.cfg.vowels) for text in part.texts}
        ids = [{"clip_id": text["clip_id"], "text_id": text["text_id"]} for text in part.texts]
        return {
            "signals": [{"clip_id": clip["clip_id"]} for clip in part.clips]
            + [row | {"num_vowels": counts[row["text_id"]]} for row in ids]
        }

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        drops: list[Row] = []
        for text in part.texts:
            number = signals[text["text_id"]]["num_vowels"]
            if number > self.cfg.most:
                ids = {"clip_id": text["clip_id"], "text_id": text["text_id"], "reason": "too_many_vowels"}
                drops.append(ids | {"score": float(number), "threshold": float(self.cfg.most), "detail": "num_vowels"})
        return {"dropped": drops}

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        if "text_id" not in row:
            return []
        number = float(signals["num_vowels"])
        return [Judged("too_many_vowels", 1, "num_vowels", number, float(self.cfg.most), "above")]
