"""lint: what is wrong with a corpus as a benchmark. Copies, captions that fit every clip, faults of texts, test in train.

Nothing is dropped or changed: findings are counted, with the first examples of each. Texts are the same where their words
are (case and punctuation do not count), near copies by MinHash; videos by the pictures of their key-frames, where those lie
in the folder that is given. Memory: the texts, and 1.6 KB a clip with frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m2raap.core.tables import Text
from m2raap.core.view import View
from m2raap.curate import bilingual, duplicates, minhash, thumbnails
from m2raap.curate.columns import TextBatch
from m2raap.curate.text_copies import text_keys
from m2raap.curate.text_rules import RULES, FilterTextConfig, score_rows
from m2raap.stages.align import looks

EXAMPLES = 20
NEAR_JACCARD = 0.8
RESIDUE_SHARE = 0.2  # of a Chinese text in Latin words that are neither names nor codes
_ZH_TAG_SHARE = 0.01  # any tagger's mark
_PAIRS = 2048


@dataclass
class _Side:
    """The texts of one corpus by language, and what its clips look like."""

    texts: dict[str, list[Text]] = field(default_factory=dict)
    clips: list[str] = field(default_factory=list)
    videos: dict[tuple[str, float | None, float | None], list[str]] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)  # clips with pictures that show something
    hashes: list[np.ndarray] = field(default_factory=list)
    thumbs: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, view: View) -> _Side:
        found = cls()
        for part in view.parts(("texts", "jpegs")):
            for row in part.clips:
                found.clips.append(row["clip_id"])
                found.videos.setdefault((row["video"], row["start_s"], row["end_s"]), []).append(row["clip_id"])
                if row["clip_id"] in part.frames and part.frames[row["clip_id"]]["jpegs"]:
                    found._look(row["clip_id"], part.frames[row["clip_id"]]["jpegs"])
            for row in part.texts:
                if row["origin"] != "aux":
                    found.texts.setdefault(row["lang"], []).append(row)
        return found

    def _look(self, clip_id: str, jpegs: Sequence[bytes]) -> None:
        signals = looks(jpegs)
        if signals["thumbnail_hashes"] is None:
            return
        small = np.frombuffer(signals["thumbnails"], np.uint8).reshape(-1, thumbnails.SIDE, thumbnails.SIDE, 3)
        self.shown.append(clip_id)
        self.hashes.append(np.frombuffer(signals["thumbnail_hashes"], "<u8"))
        self.thumbs.append(thumbnails.in_step(small))


def lint(view: View, against: View | None = None) -> dict[str, Any]:
    """{"clips", "texts", "findings": [{"what", "lang", "count", "of", "says", "examples"}]}, only findings that were made.

    `against`: training data in which clips and texts of `view` are looked for. `not_looked_at`: sentences that say what could
    not be compared, so that no finding is not taken for none there.
    """
    own = _Side.of(view)
    findings: list[dict[str, Any]] = []
    unseen = (
        [] if own.shown else [f"pictures were not compared: {view.corpus_path} has no frames; give a keyframes folder"]
    )

    def found(
        what: str, says: str, examples: Sequence[Any], of: int, lang: str | None = None, count: int | None = None
    ) -> None:
        if examples:
            told = {"count": count or len(examples), "of": of, "says": says, "examples": list(examples[:EXAMPLES])}
            findings.append({"what": what, "lang": lang} | told)

    for lang, rows in sorted(own.texts.items()):
        _copies(rows, lang, found)
        _faults(rows, lang, found)
        if lang == "zh":
            _chinese(rows, found)
    same_file = [clips for clips in own.videos.values() if len(clips) > 1]
    found("same_video", "clips with one and the same file and span", same_file, len(own.clips))
    pairs = _pictures(own.hashes, own.thumbs, None)
    found(
        "near_duplicate_videos",
        "pairs of clips that look the same",
        [_names(own, own, pair) for pair in pairs],
        len(own.shown),
    )
    other: _Side | None = None
    if against is not None:
        other = _Side.of(against)
        unseen += _unseen(own, other, against)
        for lang, rows in sorted(own.texts.items()):
            _leaked_texts(rows, other.texts.get(lang, []), lang, found)
        known = {video for video, _, _ in other.videos}
        shared = sorted(clip for (video, _, _), clips in own.videos.items() if video in known for clip in clips)
        found("leaked_video_files", "clips whose video file the training data names too", shared, len(own.clips))
        count = len(other.hashes)
        leaks = _pictures([*other.hashes, *own.hashes], [*other.thumbs, *own.thumbs], count)
        told = [_names(own, other, (at - count, train)) for train, at in leaks]
        found("leaked_videos", "clips that look the same as one of the training data", told, len(own.shown))
    return {
        "clips": len(own.clips),
        "texts": {lang: len(rows) for lang, rows in sorted(own.texts.items())},
        "clips_with_frames": len(own.shown),
        "against": None if against is None else str(against.corpus_path),
        "against_clips_with_frames": None if other is None else len(other.shown),
        "not_looked_at": unseen,
        "findings": findings,
    }


def _unseen(own: _Side, other: _Side, against: View) -> list[str]:
    """What of `own` could not be looked for in the training data."""
    told = [
        f"{lang} texts were not compared: {against.corpus_path} has none"
        for lang in sorted(own.texts)
        if not other.texts.get(lang)
    ]
    if not own.shown:
        return told  # said already
    if not other.shown:
        told.append(
            f"pictures were not compared: {against.corpus_path} has no frames; give its keyframes folder to --against"
        )
    elif len(other.shown) < len(other.clips):
        told.append(
            f"pictures were compared with {len(other.shown):,} of the {len(other.clips):,} clips of {against.corpus_path}: "
            "the others have no frames that show anything"
        )
    return told


def _copies(rows: list[Text], lang: str, found: Any) -> None:
    keys = _keys(rows, lang)
    clips: dict[int, set[str]] = {}
    for key, row in zip(keys, rows, strict=True):
        clips.setdefault(key, set()).add(row["clip_id"])
    several = {key: row for key, row in zip(keys[::-1], rows[::-1], strict=True) if len(clips[key]) > 1}
    groups = [{**_one(row), "clips": len(clips[key])} for key, row in several.items()]
    groups.sort(key=lambda row: (-row["clips"], row["text_id"]))
    says = "texts that stand on other clips too: right answers count as wrong"
    found("duplicate_texts", says, groups, len(rows), lang, sum(key in several for key in keys))
    again = [n for n in Counter(zip(keys, (row["clip_id"] for row in rows), strict=True)).items() if n[1] > 1]
    first = {(key, row["clip_id"]): row for key, row in zip(keys[::-1], rows[::-1], strict=True)}
    twins = [first[pair] for pair, count in again for _ in range(count - 1)]
    found("repeated_on_clip", "texts that repeat another one of the same clip", _told(twins), len(rows), lang)
    leader = minhash.leaders(_sketches(rows, lang), NEAR_JACCARD)
    near = [
        (row, rows[head])
        for row, head, key in zip(rows, leader.tolist(), keys, strict=True)
        if rows[head]["clip_id"] != row["clip_id"] and keys[head] != key
    ]
    told = [{**_one(row), "like": head["text"], "clip": head["clip_id"]} for row, head in near]
    found(
        "near_duplicate_texts", f"texts almost like one of another clip (Jaccard {NEAR_JACCARD})", told, len(rows), lang
    )


def _faults(rows: list[Text], lang: str, found: Any) -> None:
    """Everything that `filter` would refuse, by its reason; 'unspecific' are the generic captions."""
    thresholds = FilterTextConfig().thresholds(lang)
    refused: dict[str, list[Text]] = {}
    for row, signals in zip(rows, score_rows([row["text"] for row in rows], lang), strict=True):
        for refusal in RULES.refusals(signals, thresholds):
            refused.setdefault(refusal.reason, []).append(row)
    for reason, bad in sorted(refused.items()):
        name = "generic_texts" if reason == "unspecific" else reason
        says = (
            "texts that fit almost any clip"
            if reason == "unspecific"
            else f"texts that filter would refuse as {reason}"
        )
        found(name, says, _told(bad), len(rows), lang)


def _chinese(rows: list[Text], found: Any) -> None:
    tags = [
        row
        for row, s in zip(rows, score_rows([row["text"] for row in rows], "zh"), strict=True)
        if s["tag_share"] > _ZH_TAG_SHARE
    ]
    found("zh_tags", "Chinese texts with a tagger's or list's residue", _told(tags), len(rows), "zh")
    left = [row for row in rows if bilingual.residue_share(row["text"], "zh", frozenset()) > RESIDUE_SHARE]
    found(
        "zh_residue", f"Chinese texts with over {RESIDUE_SHARE:.0%} left in Latin words", _told(left), len(rows), "zh"
    )
    mixed = [row for row in rows if bilingual.mixed_script(row["text"], simplified=False)]
    found(
        "zh_mixed_script", "Chinese texts that mix simplified and traditional characters", _told(mixed), len(rows), "zh"
    )


def _leaked_texts(rows: list[Text], train: list[Text], lang: str, found: Any) -> None:
    verbatim = {row["text"].strip() for row in train}
    exact = [row for row in rows if row["text"].strip() in verbatim]
    found("leaked_texts_verbatim", "texts that stand in the training data to the letter", _told(exact), len(rows), lang)
    known = set(_keys(train, lang))
    same = [key in known for key in _keys(rows, lang)]
    told = _told([row for row, leaked in zip(rows, same, strict=True) if leaked])
    found("leaked_texts", "texts that stand in the training data, case and punctuation apart", told, len(rows), lang)
    leader = minhash.leaders(np.concatenate([_sketches(train, lang), _sketches(rows, lang)]), NEAR_JACCARD)[
        len(train) :
    ]
    near = [
        {**_one(row), "like": train[head]["text"], "clip": train[head]["clip_id"]}
        for row, head, leaked in zip(rows, leader.tolist(), same, strict=True)
        if head < len(train) and not leaked
    ]
    found("leaked_texts_nearly", "texts almost like one of the training data", near, len(rows), lang)


def _keys(rows: list[Text], lang: str) -> list[int]:
    return text_keys(TextBatch([row["text"] for row in rows], lang)).tolist()


def _sketches(rows: list[Text], lang: str) -> np.ndarray:
    return minhash.sketches(TextBatch([row["text"] for row in rows], lang).columns)


def _one(row: Text) -> dict[str, Any]:
    return {"text_id": row["text_id"], "clip_id": row["clip_id"], "text": row["text"]}


def _told(rows: Iterable[Text]) -> list[dict[str, Any]]:
    return [_one(row) for row in rows]


def _pictures(hashes: list[np.ndarray], thumbs: list[np.ndarray], num_others: int | None) -> list[tuple[int, int]]:
    """(earlier, later) rows that look the same; with `num_others` only pairs of one of those and one of the rest."""
    if len(hashes) < 2:
        return []
    cfg = duplicates.DuplicateConfig()
    pairs = duplicates.candidates(np.stack(hashes), cfg)
    if num_others is not None:
        pairs = pairs[(pairs[:, 0] < num_others) & (pairs[:, 1] >= num_others)]
    same = []
    for start in range(0, len(pairs), _PAIRS):
        block = pairs[start : start + _PAIRS]
        first, second = (np.stack([thumbs[row] for row in block[:, side]]) for side in (0, 1))
        match = thumbnails.matching_shares(first, second, cfg.max_distance) >= cfg.min_share
        same += [(int(a), int(b)) for a, b in block[match]]
    return same


def _names(own: _Side, other: _Side, pair: tuple[int, int]) -> list[str]:
    return [own.shown[pair[0]], other.shown[pair[1]]]
