"""rewrite: raw texts and auxiliary captions -> one faithful caption a text. What is refused keeps the original and says why."""

from __future__ import annotations

from typing import Any

from m2raap.core.stage import DataStage, Settings, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.rewriters import REWRITERS, RewriterConfig


class RewriteConfig(RewriterConfig):
    """Which rewriter, and what it may do."""

    def settings(self, langs: tuple[str, ...]) -> Settings:
        return Settings(self.model_dump(mode="json") | {"langs": list(langs)}, {})


class RewriteStage(DataStage):
    name = "rewrite"
    reads = ("texts", "signals")
    adds = ("texts",)

    def signal_columns(self) -> dict[str, str]:
        return {"rewrite_outcome": "str", "rewrite_note": "str", "num_rewrites": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        settings = dict(settings)
        langs = settings.pop("langs")
        rewriter = REWRITERS[settings["name"]](RewriterConfig(**settings))
        texts: list[Row] = []
        signals: list[Row] = []
        for clip in part.clips:
            own = part.texts_of[clip["clip_id"]]
            raw = [row for row in own if row["origin"] != "aux"]
            aux = [
                row | {"score": part.signals[row["text_id"]]["caption_score"]} for row in own if row["origin"] == "aux"
            ]
            found = rewriter.rewrite(raw, aux, langs)
            for number, new in enumerate(found.new):
                text_id = f"{new['parent_text_id'] or clip['clip_id'] + '.' + new['lang']}.rw{number}"
                ids = {"clip_id": clip["clip_id"], "text_id": text_id}
                kept = {name: new[name] for name in ("lang", "text", "origin", "parent_text_id")}
                texts.append(ids | kept | {"producer": rewriter.producer, "active": True})
                signals.append(ids | {"rewrite_outcome": "ok", "rewrite_note": new["note"]})
            texts += [row | {"active": False} for row in raw if row["text_id"] in found.inactive]
            for refused in found.refused:
                ids = {"clip_id": clip["clip_id"], "text_id": refused["text_id"]}
                signals.append(ids | {"rewrite_outcome": refused["reason"], "rewrite_note": refused["detail"]})
            signals.append({"clip_id": clip["clip_id"], "num_rewrites": len(found.new)})
        return {"texts": texts, "signals": signals}
