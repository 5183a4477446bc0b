"""lint: faults of a corpus as a benchmark: duplicates, captions that fit any clip, faulty texts, overlap with training data.

Nothing is dropped or changed: findings are counted, with the first examples of each. Two texts are the same where their
words are (case and punctuation are ignored), and near copies by MinHash; videos are compared by their key-frames, where the
given folder has those. Memory: the texts, and 1.6 KB for each clip with frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from m2raap.core.view import View
from m2raap.curate import bilingual, duplicates, minhash, thumbnails
from m2raap.curate.columns import TextBatch, blocks
from m2raap.curate.picture_signals import picture_signals
from m2raap.curate.text_copies import text_keys
from m2raap.curate.text_rules import RULES, FilterTextConfig, machine_share, score_rows

EXAMPLES = 20
NEAR_JACCARD = 0.8
RESIDUE_SHARE = 0.2  # of a text in words of the other language; names and codes may stay Latin in a Chinese one
_PAIRS = 2048  # compared at once


class _Text(TypedDict):
    text_id: str
    clip_id: str
    text: str


@dataclass
class _Content:
    """The texts of one corpus by language, and what its clips look like."""

    texts: dict[str, list[_Text]] = field(default_factory=dict)
    clips: list[str] = field(default_factory=list)
    videos: dict[tuple[str, float | None, float | None], list[str]] = field(default_factory=dict)
    with_pictures: list[str] = field(default_factory=list)  # clips with pictures that show something
    hashes: list[np.ndarray] = field(default_factory=list)
    thumbs: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, view: View) -> _Content:
        content = cls()
        for part in view.parts(("texts", "jpegs")):
            for row in part.clips:
                content.clips.append(row["clip_id"])
                content.videos.setdefault((row["video"], row["start_s"], row["end_s"]), []).append(row["clip_id"])
                if row["clip_id"] in part.frames and part.frames[row["clip_id"]]["jpegs"]:
                    content._add_pictures(row["clip_id"], part.frames[row["clip_id"]]["jpegs"])
            for row in part.texts:
                if row["origin"] != "aux":
                    text: _Text = {"text_id": row["text_id"], "clip_id": row["clip_id"], "text": row["text"]}
                    content.texts.setdefault(row["lang"], []).append(text)
        return content

    def _add_pictures(self, clip_id: str, jpegs: Sequence[bytes]) -> None:
        signals = picture_signals(jpegs)
        if signals["thumbnail_hashes"] is None:
            return
        small = np.frombuffer(signals["thumbnails"], np.uint8).reshape(-1, thumbnails.SIDE, thumbnails.SIDE, 3)
        self.with_pictures.append(clip_id)
        self.hashes.append(np.frombuffer(signals["thumbnail_hashes"], "<u8"))
        self.thumbs.append(thumbnails.in_step(small))


def lint(view: View, against: View | None = None) -> dict[str, Any]:
    """{"clips", "texts", "findings": [{"what", "lang", "count", "of", "says", "examples"}]}, only findings with examples.

    `against`: training data in which clips and texts of `view` are looked for. `not_looked_at`: sentences that name what
    could not be compared: an absence of findings there does not mean a clean corpus.
    """
    content = _Content.of(view)
    findings: list[dict[str, Any]] = []
    unseen = (
        []
        if content.with_pictures
        else [f"pictures were not compared: {view.corpus_path} has no frames; give a keyframes folder"]
    )

    def add(
        what: str, says: str, examples: Sequence[Any], of: int, lang: str | None = None, count: int | None = None
    ) -> None:
        if examples:
            finding = {"count": count or len(examples), "of": of, "says": says, "examples": list(examples[:EXAMPLES])}
            findings.append({"what": what, "lang": lang} | finding)

    for lang, rows in sorted(content.texts.items()):
        _copies(rows, lang, add)
        _faults(rows, lang, add)
        _residue(rows, lang, add)
        if lang == "zh":
            _chinese(rows, add)
    same_file = [clips for clips in content.videos.values() if len(clips) > 1]
    add("same_video", "clips with the same file, start and end", same_file, len(content.clips))
    pairs = _pictures(content.hashes, content.thumbs, None)
    add(
        "near_duplicate_videos",
        "pairs of clips that look the same",
        [_names(content, content, pair) for pair in pairs],
        len(content.with_pictures),
    )
    training: _Content | None = None
    if against is not None:
        training = _Content.of(against)
        unseen += _unseen(content, training, against)
        for lang, rows in sorted(content.texts.items()):
            _leaked_texts(rows, training.texts.get(lang, []), lang, add)
        known = {video for video, _, _ in training.videos}
        shared = sorted(clip for (video, _, _), clips in content.videos.items() if video in known for clip in clips)
        add("leaked_video_files", "clips whose video file is in the training data too", shared, len(content.clips))
        count = len(training.hashes)
        leaks = _pictures([*training.hashes, *content.hashes], [*training.thumbs, *content.thumbs], count)
        leaked = [_names(content, training, (at - count, train)) for train, at in leaks]
        add("leaked_videos", "clips that look the same as one of the training data", leaked, len(content.with_pictures))
    return {
        "clips": len(content.clips),
        "texts": {lang: len(rows) for lang, rows in sorted(content.texts.items())},
        "clips_with_frames": len(content.with_pictures),
        "against": None if against is None else str(against.corpus_path),
        "against_clips_with_frames": None if training is None else len(training.with_pictures),
        "not_looked_at": unseen,
        "findings": findings,
    }


def _unseen(content: _Content, training: _Content, against: View) -> list[str]:
    """Sentences that name what of `content` could not be looked for in the training data."""
    sentences = [
        f"{lang} texts were not compared: {against.corpus_path} has none"
        for lang in sorted(content.texts)
        if not training.texts.get(lang)
    ]
    if not content.with_pictures:
        return sentences  # lint() has named that already
    if not training.with_pictures:
        sentences.append(
            f"pictures were not compared: {against.corpus_path} has no frames; give its keyframes folder to --against"
        )
    elif len(training.with_pictures) < len(training.clips):
        sentences.append(
            f"pictures were compared with {len(training.with_pictures):,} of the {len(training.clips):,} clips of "
            f"{against.corpus_path}: "
            "the others have no frames that show anything"
        )
    return sentences


def _copies(rows: list[_Text], lang: str, add: Any) -> None:
    keys = _keys(rows, lang)
    clips: dict[int, set[str]] = {}
    for key, row in zip(keys, rows, strict=True):
        clips.setdefault(key, set()).add(row["clip_id"])
    several = {key: row for key, row in zip(keys[::-1], rows[::-1], strict=True) if len(clips[key]) > 1}
    groups = [{**_example(row), "clips": len(clips[key])} for key, row in several.items()]
    groups.sort(key=lambda row: (-row["clips"], row["text_id"]))
    says = "texts that other clips have too: a right answer counts as wrong"
    add("duplicate_texts", says, groups, len(rows), lang, sum(key in several for key in keys))
    again = [n for n in Counter(zip(keys, (row["clip_id"] for row in rows), strict=True)).items() if n[1] > 1]
    first = {(key, row["clip_id"]): row for key, row in zip(keys[::-1], rows[::-1], strict=True)}
    twins = [first[pair] for pair, count in again for _ in range(count - 1)]
    add("repeated_on_clip", "texts that repeat another one of the same clip", _examples(twins), len(rows), lang)
    leader = minhash.leaders(_sketches(rows, lang), NEAR_JACCARD)
    near = [
        (row, rows[head])
        for row, head, key in zip(rows, leader.tolist(), keys, strict=True)
        if rows[head]["clip_id"] != row["clip_id"] and keys[head] != key
    ]
    twins_of_others = [{**_example(row), "like": head["text"], "clip": head["clip_id"]} for row, head in near]
    add(
        "near_duplicate_texts",
        f"texts nearly the same as one of another clip (Jaccard {NEAR_JACCARD})",
        twins_of_others,
        len(rows),
        lang,
    )


def _faults(rows: list[_Text], lang: str, add: Any) -> None:
    """The texts that `filter` would refuse, by reason; those with reason 'unspecific' are the generic captions."""
    thresholds = FilterTextConfig().thresholds(lang)
    refused: dict[str, list[_Text]] = {}
    texts = [row["text"] for row in rows]
    for block in blocks(texts):  # the scores of a text take more memory than the text
        for row, signals in zip(rows[block], score_rows(texts[block], lang), strict=True):
            for refusal in RULES.refusals(signals, thresholds):
                refused.setdefault(refusal.reason, []).append(row)
    for reason, bad in sorted(refused.items()):
        name = "generic_texts" if reason == "unspecific" else reason
        says = (
            "texts that fit almost any clip"
            if reason == "unspecific"
            else f"texts that filter would refuse as {reason}"
        )
        add(name, says, _examples(bad), len(rows), lang)


def _residue(rows: list[_Text], lang: str, add: Any) -> None:
    """Texts that are partly in the other language, as a model leaves them that changes its language half way."""
    left = [row for row in rows if bilingual.residue_share(row["text"], lang, frozenset()) > RESIDUE_SHARE]
    what = {
        "en": "English texts of which over {} is in Chinese characters",
        "zh": "Chinese texts of which over {} is in Latin words",
    }
    add(f"{lang}_residue", what[lang].format(f"{RESIDUE_SHARE:.0%}"), _examples(left), len(rows), lang)


def _chinese(rows: list[_Text], add: Any) -> None:
    # Not the score of the rule machine_tags: it also weighs short clauses between commas, which ordinary sentences have.
    tags = [row for row in rows if machine_share(row["text"]) > 0]
    says = "Chinese texts that contain part-of-speech tags, file names or identifiers"
    add("zh_tags", says, _examples(tags), len(rows), "zh")
    mixed = [row for row in rows if bilingual.mixed_script(row["text"], simplified=False)]
    add(
        "zh_mixed_script",
        "Chinese texts that mix simplified and traditional characters",
        _examples(mixed),
        len(rows),
        "zh",
    )


def _leaked_texts(rows: list[_Text], train: list[_Text], lang: str, add: Any) -> None:
    verbatim = {row["text"].strip() for row in train}
    exact = [row for row in rows if row["text"].strip() in verbatim]
    add(
        "leaked_texts_verbatim",
        "texts that the training data contains verbatim",
        _examples(exact),
        len(rows),
        lang,
    )
    known = set(_keys(train, lang))
    same = [key in known for key in _keys(rows, lang)]
    leaks = _examples([row for row, leaked in zip(rows, same, strict=True) if leaked])
    add("leaked_texts", "texts that the training data contains, ignoring case and punctuation", leaks, len(rows), lang)
    leader = minhash.leaders(np.concatenate([_sketches(train, lang), _sketches(rows, lang)]), NEAR_JACCARD)[
        len(train) :
    ]
    near = [
        {**_example(row), "like": train[head]["text"], "clip": train[head]["clip_id"]}
        for row, head, leaked in zip(rows, leader.tolist(), same, strict=True)
        if head < len(train) and not leaked
    ]
    add("leaked_texts_nearly", "texts nearly the same as one of the training data", near, len(rows), lang)


def _keys(rows: list[_Text], lang: str) -> list[int]:
    return [key for batch in _batches(rows, lang) for key in text_keys(batch).tolist()]


def _sketches(rows: list[_Text], lang: str) -> np.ndarray:
    none = np.zeros((0, minhash.SKETCH_BYTES), np.uint8)
    return np.concatenate([none, *(minhash.sketches(batch.columns) for batch in _batches(rows, lang))])


def _batches(rows: list[_Text], lang: str) -> Iterator[TextBatch]:
    """The texts, some thousands at a time: their columns take many times the memory of the texts."""
    texts = [row["text"] for row in rows]
    return (TextBatch(texts[block], lang) for block in blocks(texts))


def _example(row: _Text) -> dict[str, Any]:
    return {"text_id": row["text_id"], "clip_id": row["clip_id"], "text": row["text"]}


def _examples(rows: Iterable[_Text]) -> list[dict[str, Any]]:
    return [_example(row) for row in rows]


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


def _names(content: _Content, training: _Content, pair: tuple[int, int]) -> list[str]:
    return [content.with_pictures[pair[0]], training.with_pictures[pair[1]]]
