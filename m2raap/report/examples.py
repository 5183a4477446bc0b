"""Examples with key-frames for the report: the best and worst queries, and some of what each rule dropped or nearly dropped."""

from __future__ import annotations

from heapq import nsmallest

from m2raap.core.errors import M2raapError
from m2raap.core.stage import Judged
from m2raap.core.tables import Row, part_of, read_clip, read_part, row_key
from m2raap.core.view import View, open_view
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import DroppedItem, Example, Hit, Strip
from m2raap.retrieval.embeddings import Embeddings
from m2raap.stages.evaluate import EvaluateStage, read_ranks
from m2raap.stages.rules import StageRules

PER_KIND = 2  # queries of a kind, language and benchmark
HITS = 3
PER_REASON = 3
NEAR = 0.5  # an item whose margin to the threshold is this share of it or more was not nearly dropped


def examples(run: RunFolder, steps: list[Step], arm: str) -> list[Example]:
    """Text-to-video queries of one arm with the best and the worst ranks, and the clips that are ranked first for them."""
    chosen_examples = []
    for step in steps:
        if not step.is_of(EvaluateStage) or step.arm != arm:
            continue
        embedded = next((s for s in steps if s.folder == step.parents[0]), None)
        if embedded is None:
            raise M2raapError(
                f"{step.parents[0]}: is not finished, although {step.folder} was made from it; run it again"
            )
        embeddings = Embeddings.load(embedded.folder)
        text_of = dict(zip(embeddings.text_ids, embeddings.texts, strict=True))
        caption_of = _captions(embeddings)
        strips = _Strips(View(run.inputs.benches[step.bench or ""]).over(embedded.parents[0]))
        rows = [row for row in read_ranks(step.folder / "ranks.parquet") if row["direction"] == "t2v"]
        for lang in sorted({row["lang"] for row in rows}):
            ordered = sorted(
                (row for row in rows if row["lang"] == lang and row["top_ids"]),
                key=lambda row: (row["rank_expected"], -row["top_scores"][0], row["query_id"]),
            )
            chosen = [("best", row) for row in ordered[:PER_KIND]] + [("worst", row) for row in ordered[-PER_KIND:]]
            for kind, row in chosen:
                chosen_examples.append(_example(kind, row, arm, text_of[row["query_id"]], caption_of[lang], strips))
    return chosen_examples


def _captions(embeddings: Embeddings) -> dict[str, dict[str, str]]:
    """Language -> video -> the first of its texts."""
    captions: dict[str, dict[str, str]] = {}
    columns = (embeddings.text_langs, embeddings.text_video_ids, embeddings.texts)
    for lang, video, text in zip(*columns, strict=True):
        captions.setdefault(lang, {}).setdefault(video, text)
    return captions


def _example(kind: str, row: Row, arm: str, text: str, captions: dict[str, str], strips: _Strips) -> Example:
    top = list(zip(row["top_ids"], row["top_scores"], strict=True))[:HITS]
    hits = [Hit(strips.of(clip), score, clip == row["target_id"], captions.get(clip, "")) for clip, score in top]
    among_hits = any(hit.is_target for hit in hits)
    target = None if among_hits or row["missing"] else strips.of(row["target_id"])
    return Example(kind, arm, row["lang"], text, row["rank_expected"], row["gallery"], hits, target)


class _Strips:
    """Key-frame strips by clip, each read once."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._strips: dict[str, Strip] = {}

    def of(self, clip_id: str) -> Strip:
        if clip_id not in self._strips:
            index = part_of(clip_id, self._view.num_parts)
            rows = [row for folder in self._view.folders for row in read_clip(folder, "frames", index, clip_id)]
            self._strips[clip_id] = Strip(clip_id, rows[-1]["jpegs"], rows[-1]["times_s"]) if rows else Strip(clip_id)
        return self._strips[clip_id]


def dropped_gallery(run: RunFolder, curated: list[Step]) -> list[DroppedItem]:
    """The first few drops of every stage and reason, by part and id."""
    corpus = View(run.inputs.data).corpus
    strips = _Strips(View(run.inputs.data, tuple(step.folder for step in curated)))
    items_of: dict[tuple[str, str], list[DroppedItem]] = {}
    for step in curated:
        for index in range(corpus.num_parts):
            rows = read_part(step.folder, "dropped", index)
            if not rows:
                continue
            texts: dict[str, list[Row]] = {}
            for text in corpus.rows("texts", index):
                texts.setdefault(text["clip_id"], []).append(text)
            for row in rows:
                items = items_of.setdefault((step.stage, row["reason"]), [])
                if len(items) < PER_REASON:
                    items.append(_item(row, step.stage, texts.get(row["clip_id"], []), strips))
    return [item for items in items_of.values() for item in items]


def nearly_dropped(run: RunFolder, curated: list[Step]) -> list[DroppedItem]:
    """What each rule kept by the smallest margins, of those under NEAR."""
    folders = tuple(step.folder for step in curated)
    strips = _Strips(View(run.inputs.data, folders))
    near_items: list[DroppedItem] = []
    for step in curated:
        rules = StageRules(step.folder)
        nearest: dict[str, list[tuple[float, str, Judged, str, list[str]]]] = {}
        for part in open_view(step.folder).parts(("texts", "signals")):
            judgements = [
                (clip["clip_id"], clip["clip_id"], [t["text"] for t in part.texts_of[clip["clip_id"]]], judged)
                for clip in part.clips
                for judged in rules.judged(clip, part.signals.get(clip["clip_id"], {}))
            ]
            judgements += [
                (text["text_id"], text["clip_id"], [text["text"]], judged)
                for text in part.texts
                for judged in rules.judged(text, part.signals.get(text["text_id"], {}))
            ]
            for item_id, clip_id, texts, judged in judgements:
                if 0 <= judged.margin < NEAR:
                    nearest.setdefault(judged.rule, []).append((judged.margin, item_id, judged, clip_id, texts))
            nearest = {reason: nsmallest(PER_REASON, rows, key=lambda r: r[:2]) for reason, rows in nearest.items()}
        for reason in nearest:
            near_items += [_near_item(step.stage, *row[1:], strips) for row in nearest[reason]]
    return near_items


def _near_item(
    stage: str, item_id: str, judged: Judged, clip_id: str, texts: list[str], strips: _Strips
) -> DroppedItem:
    strip = strips.of(clip_id)
    return DroppedItem(
        item_id=item_id,
        stage=stage,
        reason=judged.rule,
        texts=texts[:PER_REASON],
        strip=strip if strip.jpegs else None,
        score=judged.score,
        threshold=judged.threshold,
        detail=judged.signal,
    )


def _item(row: Row, stage: str, texts: list[Row], strips: _Strips) -> DroppedItem:
    captions = [text["text"] for text in texts if row["text_id"] in (None, text["text_id"])]
    strip = strips.of(row["clip_id"])
    return DroppedItem(
        item_id=row_key(row),
        stage=stage,
        reason=row["reason"],
        texts=captions,
        strip=strip if strip.jpegs else None,
        score=row["score"],
        threshold=row["threshold"],
        detail=row["detail"] or "",
    )
