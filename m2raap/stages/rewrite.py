"""rewrite: makes faithful captions from raw texts and auxiliary captions. Where a rewrite is refused, with a reason, the original
stays.

`score` asks the rewriter and measures its answers; `apply` compares these signals with the limits of the fidelity rules, so that
a new limit asks no model again. `reduce` counts the different originals that received the same answer, and the clips that would
receive the same caption of frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from m2raap.core.config import APPLY
from m2raap.core.errors import NO_TEXT_LEFT
from m2raap.core.signed import read_manifest
from m2raap.core.stage import Judged, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate import fidelity_rules
from m2raap.curate.caption_rules import CAPTION_RULES, FEWEST_COPIES, CaptionLimits
from m2raap.curate.clean import clean
from m2raap.curate.encode import Encoder, encoder, unpack
from m2raap.curate.fidelity_rules import FIDELITY_RULES, Candidate, FidelityConfig
from m2raap.curate.llm.prompts import digests
from m2raap.curate.llm.schema import Request
from m2raap.curate.reasons import REWRITE_REASONS
from m2raap.curate.refusal import Drop
from m2raap.curate.rewriters import MODEL_PROMPTS, ClipTexts, ModelRewriter, Rewriter, RewriterConfig, build_rewriter
from m2raap.curate.similarity import robust
from m2raap.models.config import BackboneConfig
from m2raap.stages.align import AlignStage
from m2raap.stages.llm import AskingStage, cache_of
from m2raap.stages.rules import judged
from m2raap.stages.shared import Shared


class RewriteConfig(RewriterConfig):
    """The rewriter, its settings, and the conditions that its answers must meet."""

    fidelity: FidelityConfig = Field(
        default_factory=FidelityConfig, description="Conditions on a model's text.", json_schema_extra=APPLY
    )
    captions: CaptionLimits = Field(
        default_factory=CaptionLimits,
        description="Conditions on a caption of frames that becomes a text without a model.",
        json_schema_extra=APPLY,
    )


class RewriteStage(AskingStage[RewriteConfig]):
    """One faithful caption out of raw texts and auxiliary captions."""

    name = "rewrite"
    config = RewriteConfig
    version = 3
    sends = "texts"
    reasons: ClassVar[Mapping[str, str]] = REWRITE_REASONS
    reads = ("texts", "frames")
    reads_signals = ("caption_score", "features", "dim")
    adds = ("texts",)
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {"num_sources": "int", "caption_share": "float"}

    def __init__(self, cfg: RewriteConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared or Shared())

    def dependencies(self) -> dict[str, Any]:
        names: dict[str, Any] = {"langs": list(self.shared.langs)}
        if self.cfg.asks_a_model:
            names["backbone"] = self.shared.backbone.model_dump(mode="json")
            names["prompts"] = digests(MODEL_PROMPTS, self.cfg.prompts)
            names["fidelity"] = FIDELITY_RULES.versions()
        return names

    def rule_versions(self) -> dict[str, int]:
        return CAPTION_RULES.versions()

    def backbones(self) -> list[BackboneConfig]:
        return [self.shared.backbone] if self.cfg.asks_a_model else []

    def tables_over(self, view: View) -> tuple[str, ...]:
        """Also the pictures, where texts of a model are compared with frames whose vectors align has not stored."""
        stored = not self.cfg.asks_a_model or _has_features(view, self.shared.backbone)
        return self.tables if stored else (*self.tables, "jpegs")

    def signal_columns(self) -> dict[str, str]:
        outcomes = {"rewrite_outcome": "str", "rewrite_note": "str", "num_rewrites": "int", "rewrite_sent_to": "str"}
        origins = {"rewrite_of": "str", "rewrite_kind": "str", "near_key": "int", "source_key": "int"}
        return outcomes | origins | {"caption_fit": "float", "caption_key": "int"} | fidelity_rules.SIGNALS

    def score(self, part: Part, view: View) -> Tables:
        rewriter = self._rewriter()
        clips = clip_texts(part)
        texts: list[Row] = []
        signals: list[Row] = []
        measured: list[tuple[Row, Row, Candidate]] = []
        rewrites = rewriter.rewrite_many(clips, list(self.shared.langs))
        for clip, rewrite in zip(clips, rewrites, strict=True):
            raw = {row["text_id"]: row for row in clip.raw}
            for number, new in enumerate(rewrite.new):
                parent = raw.get(new["parent_text_id"])
                text_id = f"{new['parent_text_id'] or clip.clip_id + '.' + new['lang']}.rw{number}"
                ids = {"clip_id": clip.clip_id, "text_id": text_id}
                kept = {name: new[name] for name in ("lang", "text", "origin", "parent_text_id")}
                text = ids | kept | {"producer": new.get("producer", rewriter.producer), "active": True}
                signal = ids | {"rewrite_outcome": "ok", "rewrite_note": new["note"]}
                signal |= {"rewrite_of": new["parent_text_id"], "rewrite_kind": new["origin"]}
                if "caption_fit" in new:
                    signal["caption_fit"] = None if new["caption_fit"] is None else round(new["caption_fit"], 6)
                    signal["caption_key"] = fidelity_rules.near_key(new["text"], new["lang"])
                texts.append(text)
                signals.append(signal)
                if rewriter.checked:
                    source = (parent["lang"], parent["text"]) if parent else None
                    candidate = Candidate(new["text"], new["lang"], new["origin"], source, new["aux"])
                    measured.append((signal, text, candidate))
            signals += _outcomes(clip.clip_id, rewrite)
        if measured:
            _measure(measured, part, encoder(self.shared.backbone), self.cfg.simplified)
        return {"texts": texts, "signals": signals}

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        """`sources`: {near_key: number of different originals}, of answers given to more originals than the limit of
        rewrite_copies. `captions`: {caption_key: share of the clips with captions}, of those of several clips, and thresholds."""
        pairs = [np.zeros((0, 2), np.int64)]
        clips_of: Counter[int] = Counter()
        num_captioned = 0
        for _, signals in parts:
            captions = {
                (row["clip_id"], row["caption_key"]) for row in signals.values() if row["caption_key"] is not None
            }
            clips_of.update(key for _, key in captions)
            num_captioned += len({clip_id for clip_id, _ in captions})
            keys = [(row["near_key"], row["source_key"]) for row in signals.values() if row["near_key"] is not None]
            if keys:
                pairs.append(np.asarray(keys, np.int64))
        keys, counts = np.unique(np.unique(np.concatenate(pairs), axis=0)[:, 0], return_counts=True)
        most = self.cfg.fidelity.thresholds("rewrite").get("rewrite_copies")
        common = [] if most is None else np.flatnonzero(counts > most)
        shares = {str(k): round(n / num_captioned, 6) for k, n in sorted(clips_of.items()) if n >= FEWEST_COPIES}
        thresholds = self.cfg.captions.thresholds(self.shared.backbone.model)
        captions = {"shares": shares, "thresholds": thresholds} if clips_of else {}
        return {"sources": {str(keys[i]): int(counts[i]) for i in common}, "captions": captions}

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        raw = {row["text_id"]: row for row in part.texts}
        dropped: list[Row] = []
        verdicts: list[Row] = []
        superseded: list[Row] = []
        for text_id, row in sorted(signals.items()):
            if row["rewrite_kind"] is None:
                continue
            ids = {"clip_id": row["clip_id"], "text_id": text_id}
            if row["caption_key"] is not None:
                captions = decisions["captions"]
                share = captions["shares"].get(str(row["caption_key"]))
                if share:
                    verdicts.append(ids | {"caption_share": share})
                if refused := CAPTION_RULES.refusals(row | {"caption_share": share}, captions["thresholds"]):
                    dropped.append(Drop.by(refused, **ids).row())
                    continue
            if row["near_key"] is not None:
                num_sources = decisions["sources"].get(str(row["near_key"]))
                limits = self.cfg.fidelity.thresholds(row["rewrite_kind"])
                refused = FIDELITY_RULES.refusals(row | {"num_sources": num_sources}, limits)
                if num_sources:
                    verdicts.append(ids | {"num_sources": num_sources})
                if refused:
                    first = refused[0].signal
                    detail = f"{first}: {row['rewrite_note']}" if row["rewrite_note"] else first
                    dropped.append(replace(Drop.by(refused, **ids), detail=detail).row())
                    continue
            if row["rewrite_kind"] == "rewrite" and row["rewrite_of"] is not None:
                superseded.append(raw[row["rewrite_of"]] | {"active": False})
        if self.cfg.fills_missing:
            dropped += _still_without_text(part, signals, {row["text_id"] for row in dropped})
        return {"dropped": dropped, "verdicts": verdicts, "superseded": superseded}

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        if "text_id" in row and signals.get("caption_key") is not None:
            thresholds = decisions.get("captions", {}).get("thresholds", {})
            return [judged(*rule) for rule in CAPTION_RULES.judged(signals, thresholds)]
        if "text_id" not in row or signals.get("near_key") is None:
            return []
        limits = self.cfg.fidelity.thresholds(signals["rewrite_kind"])
        return [judged(*rule) for rule in FIDELITY_RULES.judged(signals, limits)]

    def requests(self, part: Part, view: View) -> list[Request]:
        """What `score` would ask a model about one part, for a Batch file."""
        rewriter = self._rewriter()
        assert isinstance(rewriter, ModelRewriter), "only a model has requests"
        return rewriter.requests(clip_texts(part), list(self.shared.langs))

    def _rewriter(self) -> Rewriter:
        assert self.folder is not None, "the folder of a stage is set while it runs"
        cfg = RewriterConfig(**self.cfg.model_dump(include=set(RewriterConfig.model_fields)))
        return _rewriter(cfg, self.folder)  # pyright: ignore[reportArgumentType]  # configs hash


def clip_texts(part: Part) -> list[ClipTexts]:
    """Every clip's raw texts and its auxiliary captions with their scores, in the order of the frames."""
    clips = []
    for clip in part.clips:
        texts = part.texts_of[clip["clip_id"]]
        aux = [
            row | {"score": part.signals.get(row["text_id"], {}).get("caption_score")}
            for row in texts
            if row["origin"] == "aux"
        ]
        aux.sort(key=lambda row: (row["frame_index"] or 0, row["lang"]))
        clips.append(ClipTexts(clip["clip_id"], [row for row in texts if row["origin"] != "aux"], aux))
    return clips


@lru_cache(maxsize=1)
def _rewriter(cfg: RewriterConfig, folder: Path) -> Rewriter:
    """The rewriter, one for each process and stage."""
    return build_rewriter(cfg, cache_of(folder))


def _still_without_text(part: Part, signals: Signals, refused_ids: set[str]) -> list[Row]:
    """`dropped` rows of the clips that came without texts, and of whose captions none has become one."""
    filled = {
        row["clip_id"]
        for text_id, row in signals.items()
        if row["rewrite_kind"] is not None and text_id not in refused_ids
    }
    return [
        {"clip_id": clip_id, "reason": NO_TEXT_LEFT, "detail": "it came without texts, and no caption has become one"}
        for clip_id, texts in part.texts_of.items()
        if clip_id not in filled and all(text["origin"] == "aux" for text in texts)
    ]


def _outcomes(clip_id: str, rewrite: Any) -> list[Row]:
    """Rows of `signals`: one for every text that is kept unchanged or was sent to a server, and one for the clip."""
    rows: dict[str | None, Row] = {None: {"clip_id": clip_id, "num_rewrites": len(rewrite.new)}}
    for kept in rewrite.kept:
        row = rows.setdefault(kept["text_id"], {"clip_id": clip_id, "text_id": kept["text_id"]})
        row |= {"rewrite_outcome": kept["reason"], "rewrite_note": kept["detail"]}
    for text_id, server in rewrite.sent_to.items():
        row = rows.setdefault(text_id, {"clip_id": clip_id, "text_id": text_id, "rewrite_outcome": "ok"})
        row["rewrite_sent_to"] = server
    return list(rows.values())


def _measure(measured: list[tuple[Row, Row, Candidate]], part: Part, encode: Encoder, simplified: bool) -> None:
    """Adds the signals of the fidelity rules to each row of `measured`."""
    over = encode.tokens_over([candidate.text for _, _, candidate in measured])
    for (signal, _, candidate), tokens in zip(measured, over, strict=True):
        scores, note = fidelity_rules.score(candidate, simplified)
        signal |= scores | {"tokens_over": float(tokens)}
        signal["rewrite_note"] = "; ".join(text for text in (signal["rewrite_note"], note) if text)
        parents = [candidate.parent] if candidate.parent else sorted(candidate.aux)
        source = " ".join(text for _, text in parents)
        signal["near_key"] = fidelity_rules.near_key(candidate.text, candidate.lang)
        signal["source_key"] = fidelity_rules.near_key(source, parents[0][0] if parents else candidate.lang)
    pairs = [
        (signal, candidate)
        for signal, _, candidate in measured
        if candidate.kind == "rewrite" and candidate.parent and signal["clip_id"] in part.frames
    ]
    if not pairs:
        return
    clips = list(dict.fromkeys(signal["clip_id"] for signal, _ in pairs))
    frames = _frame_features(clips, part, encode)
    # As in align, stock phrases and tags, which a rewriter removes, are not compared with the clip.
    raws = [clean(c.parent[1], c.parent[0])[0] or c.parent[1] for _, c in pairs if c.parent]
    features_NE = encode.texts([*(c.text for _, c in pairs), *raws])
    for (signal, _), new_E, old_E in zip(pairs, features_NE, features_NE[len(pairs) :], strict=False):
        frames_KE = frames[signal["clip_id"]]
        drop = float(robust(frames_KE @ old_E)) - float(robust(frames_KE @ new_E))
        signal["similarity_drop"] = round(drop, 6)


def _frame_features(clips: list[str], part: Part, encode: Encoder) -> dict[str, np.ndarray]:
    """clip_id -> frame vectors (K, E): computed where the part has the pictures (see tables_over), else those of align."""
    with_pictures = [clip_id for clip_id in clips if "jpegs" in part.frames[clip_id]]
    encoded = encode.images_of([part.frames[clip_id]["jpegs"] for clip_id in with_pictures])
    features = dict(zip(with_pictures, encoded, strict=True))
    for clip_id in set(clips) - features.keys():
        stored = part.signals[clip_id]
        features[clip_id] = unpack(stored["features"], stored["dim"])
    return features


def _has_features(view: View, backbone: BackboneConfig) -> bool:
    """Whether an align folder of this view holds frame vectors of this backbone."""
    described = backbone.model_dump(mode="json")
    manifests = [read_manifest(folder) for folder in view.folders]
    return any(
        m["stage"] == AlignStage.name and m["settings"]["dependencies"]["backbone"] == described for m in manifests
    )
