"""From embeddings to results: per language and direction, with intervals, slices and a table of ranks. Pure.

Shape suffixes: V videos, T texts, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.core.errors import M2raapError
from m2raap.retrieval.compat import LABEL, clip4clip, clip4clip_several
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.metrics import V2T_RULES, Ranks, ScoreRows, ranks_of, rsum
from m2raap.retrieval.rank_counts import RankCounts
from m2raap.retrieval.rank_table import Counts, counts_of, rank_rows, tops_of
from m2raap.retrieval.rescore import LanguageScores, Rescore, Rescored
from m2raap.retrieval.sides import RULE_B
from m2raap.retrieval.summary import DIGITS, summary_row
from m2raap.retrieval.two_way import add_choices, choices, two_way_rows

# Cosines are computed in float64 and rounded: what differs by less than the noise of float32 embeddings is a tie, and
# neither the block size nor the threads of the matrix product can change a rank.
SCORE_DIGITS = 7


@dataclass(frozen=True)
class Results:
    """`rows`: one dict for each language, direction, scope and slice. `ranks`: one dict for each query of the headline, with its
    ranks among the available clips and by rule b. `missing`: ids of missing videos, sorted.

    `compat`: language -> direction -> what CLIP4Clip's arithmetic prints for the embedded videos (none of rescored scores).
    `two_way`: one dict for each language and direction, of the clips that have a twin (two_way.py); the choice of each of
    their queries is in its rank's `two_way`.
    """

    rows: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    missing: list[str]
    compat: dict[str, dict[str, dict[str, float]]]
    two_way: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What belongs in results.json (the ranks go to a table of their own)."""
        compat = {"compat": {"label": LABEL, "rows": self.compat}} if self.compat else {}
        two_way = {"two_way": self.two_way} if self.two_way else {}
        return {"v2t_rules": V2T_RULES, "missing": self.missing, "rows": self.rows} | compat | two_way


def evaluate_embeddings(embeddings: Embeddings, seed: int, rescore: Rescore | None = None) -> Results:
    """Retrieval results of cosine scores between the embeddings (normalised first), or of the scores that `rescore` gives.

    Each language is evaluated alone against all videos. Scope `official`: a missing video (one without an embedding)
    is ranked last in the gallery, and all its queries are misses. Where some are missing, scope `available` drops
    them from both sides; `comparable` is then False. The queries of a category are ranked against the full gallery. The order
    of the embeddings does not matter. Raises M2raapError for zero or non-finite vectors. With `rescore` there is scope
    `official` only, rsum is None where a direction is, and the tops of v2t are empty.
    """
    videos = _Vectors.checked("video", embeddings.video_VE, embeddings.video_ids)
    texts = _Vectors.checked("text", embeddings.text_TE, embeddings.text_ids)
    categories, missing_video_ids = embeddings.categories, sorted(embeddings.missing)
    row_of_video = {video: row for row, video in enumerate(videos.ids)}
    video_of_text = dict(zip(embeddings.text_ids, embeddings.text_video_ids, strict=True))
    lang_of_text = dict(zip(embeddings.text_ids, embeddings.text_langs, strict=True))

    results = Results([], [], missing_video_ids, {})
    for lang in sorted(set(embeddings.text_langs)):
        queries = texts.select([text for text in texts.ids if lang_of_text[text] == lang])
        part = _Language(videos, queries, video_of_text, row_of_video)
        rescored = rescore(part.scores(lang)) if rescore else None
        official = part.ranks(missing_video_ids, rescored)
        directions = [name for name in ("t2v", "v2t") if rescored is None or getattr(rescored, name)]
        results.rows.extend(part.rows(official, lang, "official", categories, seed, directions))
        more = {"rule_b": part.counts(official, RULE_B)}
        if not rescore:
            kept, available = part, official
            if missing_video_ids:
                kept_texts = texts.select([text for text in part.texts.ids if video_of_text[text] in row_of_video])
                kept = _Language(videos, kept_texts, video_of_text, row_of_video)
                available = kept.ranks([])
                results.rows.extend(kept.rows(available, lang, "available", categories, seed, directions))
                more["available"] = kept.counts(available, "t2v") | kept.counts(available, "v2t")
                more["available_rule_b"] = kept.counts(available, RULE_B)
            results.compat[lang] = kept.compat(available)
        for direction in directions:
            head = {"direction": direction, "lang": lang}
            results.ranks.extend(part.rank_table(getattr(official, direction), head, categories, rescored, more))
        scores = {name: getattr(rescored, name) if rescored else part.cosines for name in directions}
        owners = [video_of_text[text] for text in part.texts.ids]
        add_choices(results.ranks, lang, choices(scores, part.texts.ids, owners, row_of_video, embeddings.twins))
    results.two_way.extend(two_way_rows([results.ranks], seed))
    return results


@dataclass(frozen=True)
class _Vectors:
    """Unit vectors in the order of their ids."""

    ids: list[str]
    unit_NE: NDArray[np.float64]

    @classmethod
    def checked(cls, what: str, vectors_NE: NDArray[Any], ids: Sequence[str]) -> _Vectors:
        if not len(ids):
            raise M2raapError(f"there is no {what} embedding to evaluate")
        order = sorted(range(len(ids)), key=lambda i: ids[i])
        named = [ids[i] for i in order]
        vectors = vectors_NE[order].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(bad):
            raise M2raapError(
                f"the embedding of {what} {named[bad[0]]} holds NaN or Inf, or is all zero ({len(bad)} such); embed again"
            )
        return cls(named, vectors / norms[:, None])

    def select(self, ids: Sequence[str]) -> _Vectors:
        row_of = {name: row for row, name in enumerate(self.ids)}
        return _Vectors(list(ids), self.unit_NE[[row_of[name] for name in ids]])


@dataclass(frozen=True)
class _Language:
    """The texts of one language against all videos. Missing videos get the numbers after those of the embedded ones."""

    videos: _Vectors
    texts: _Vectors
    video_of_text: Mapping[str, str]
    row_of_video: Mapping[str, int]

    def cosines(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.round(self.texts.unit_NE[rows] @ self.videos.unit_NE.T, SCORE_DIGITS)

    def scores(self, lang: str) -> LanguageScores:
        several = len({self.video_of_text[text] for text in self.texts.ids}) < len(self.texts.ids)
        return LanguageScores(lang, self.texts.ids, self.videos.ids, several, self.cosines)

    def compat(self, ranks: Ranks) -> dict[str, dict[str, float]]:
        t2v = clip4clip(ranks.t2v)
        if ranks.several_texts:
            t2v = clip4clip_several(self.cosines, ranks.t2v.query, ranks.t2v.target, len(self.videos.ids))
        return {"t2v": t2v, "v2t": clip4clip(ranks.v2t)}

    def ranks(self, missing: Sequence[str], rescored: Rescored | None = None) -> Ranks:
        pairs = [
            (row, self.row_of_video[self.video_of_text[text]])
            for row, text in enumerate(self.texts.ids)
            if self.video_of_text[text] in self.row_of_video
        ]
        if not pairs:
            raise M2raapError(
                f"no video of the texts in the language of {self.texts.ids[0]} has an embedding; "
                "embed again, or leave the language out"
            )
        place = {video: i for i, video in enumerate(missing)}
        absent_T = np.asarray([place.get(self.video_of_text[text], 0) for text in self.texts.ids], np.int64)

        def ranks(rows: ScoreRows) -> Ranks:
            return ranks_of(rows, len(self.texts.ids), len(self.videos.ids), np.asarray(pairs, np.int64), absent_T)

        counted = ranks((rescored.t2v or rescored.v2t or self.cosines) if rescored else self.cosines)
        if rescored and rescored.t2v and rescored.v2t:
            other = ranks(rescored.v2t)
            counted = Ranks(counted.t2v, other.v2t, other.v2t_rule_b, counted.several_texts)
        if not missing:
            return counted
        number = {video: len(self.videos.ids) + i for video, i in place.items()}
        missing_pairs = [
            (row, number[self.video_of_text[text]])
            for row, text in enumerate(self.texts.ids)
            if self.video_of_text[text] in number
        ]
        first_text: dict[int, int] = {}
        for row, video in missing_pairs:
            first_text.setdefault(video, row)
        videos_with_text = len({self.video_of_text[text] for text in self.texts.ids})
        v2t = list(first_text.items())
        return Ranks(
            _with_misses(counted.t2v, missing_pairs, len(self.videos.ids) + len(missing)),
            _with_misses(counted.v2t, v2t, videos_with_text),
            _with_misses(counted.v2t_rule_b, v2t, len(self.texts.ids)),
            counted.several_texts,
        )

    def rows(
        self,
        ranks: Ranks,
        lang: str,
        scope: str,
        categories: Mapping[str, str],
        seed: int,
        directions: Sequence[str],
    ) -> list[dict[str, Any]]:
        comparable = scope == "official"
        result = []
        slices = ["all", *sorted({categories[v] for v in self._queried_videos(ranks) if v in categories})]
        for name in slices:
            sides = {name: getattr(ranks, name) for name in directions}
            if ranks.several_texts and "v2t" in directions:
                sides[RULE_B] = ranks.v2t_rule_b
            parts = {}
            for direction, side in sides.items():
                ids = self.query_video_ids(side, direction)
                keep = np.asarray([name == "all" or categories.get(video) == name for video in ids])
                parts[direction] = (side.select(keep), [v for v, kept in zip(ids, keep, strict=True) if kept])
            both = len(directions) == 2
            total = round(rsum(parts["t2v"][0], parts["v2t"][0]), DIGITS) if both else None
            for direction, (side, ids) in parts.items():
                head = {"lang": lang, "direction": direction, "scope": scope, "slice": name, "comparable": comparable}
                result.append({**head, **summary_row([side], ids, seed), "rsum": total})
        return result

    def query_video_ids(self, side: RankCounts, direction: str) -> list[str]:
        """The video that each query is about: its own in v2t, its target in t2v."""
        text_rows = side.query if direction == "t2v" else side.target
        return [self.video_of_text[self.texts.ids[row]] for row in text_rows]

    def _cosines_of_videos(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.round(self.videos.unit_NE[rows] @ self.texts.unit_NE.T, SCORE_DIGITS)

    def _queried_videos(self, ranks: Ranks) -> set[str]:
        return set(self.query_video_ids(ranks.t2v, "t2v"))

    def query_ids(self, side: RankCounts, direction: str) -> list[str]:
        """Text ids in t2v, video ids in v2t."""
        return (
            [self.texts.ids[row] for row in side.query] if direction == "t2v" else self.query_video_ids(side, direction)
        )

    def counts(self, ranks: Ranks, direction: str) -> Counts:
        """The values of a column of EXTRA_COLUMNS; empty for rule b where no video has several texts."""
        if direction == RULE_B:
            side = ranks.v2t_rule_b
            return counts_of(side, "v2t", self.query_ids(side, "v2t")) if ranks.several_texts else {}
        side = getattr(ranks, direction)
        return counts_of(side, direction, self.query_ids(side, direction))

    def rank_table(
        self,
        side: RankCounts,
        head: Mapping[str, str],
        categories: Mapping[str, str],
        rescored: Rescored | None,
        more: Mapping[str, Counts],
    ) -> list[dict[str, Any]]:
        """One row for each query, ordered by query id. `target_id` is the video in t2v, the best own text in v2t.

        The tops of t2v are videos, those of v2t are texts; a missing video has no scores, so its v2t top is empty.
        """
        direction = head["direction"]
        owners = self.query_video_ids(side, direction)
        tops, targets = {}, owners
        if direction == "t2v":
            tops = tops_of((rescored.t2v if rescored else None) or self.cosines, self.videos.ids, side.query)
        else:
            targets = [self.texts.ids[row] for row in side.target]
            embedded = side.query[side.query < len(self.videos.ids)]
            tops = {} if rescored else tops_of(self._cosines_of_videos, self.texts.ids, embedded)
        return rank_rows(side, head, self.query_ids(side, direction), targets, owners, categories, tops, more)


def _with_misses(side: RankCounts, missing_pairs: Sequence[tuple[int, int]], gallery: int) -> RankCounts:
    """`side` with the queries whose video is missing: all other items rank before their target."""
    query, target = (np.asarray([pair[i] for pair in missing_pairs], np.int64) for i in (0, 1))
    none = np.zeros(len(missing_pairs), np.int64)
    return RankCounts(
        np.concatenate([side.query, query]),
        np.concatenate([side.target, target]),
        np.concatenate([side.greater, np.full(len(missing_pairs), gallery - 1)]),
        np.concatenate([side.equal, none]),
        np.concatenate([side.missing, np.ones(len(missing_pairs), bool)]),
        gallery,
        None if side.siblings is None else np.concatenate([side.siblings, none]),
    )
