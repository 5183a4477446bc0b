"""Writes what an importer collected as corpora: benchmarks with published counts, training corpora with val and holdout."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.columns import say_unread
from data_tools.locate import say_missing
from data_tools.pairs import Pairs
from data_tools.rooted import find_missing
from m2raap.core import talk
from m2raap.core.corpus import SCORES, Corpus, holdout, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.core.lock import locked
from m2raap.core.tables import Row, signal_schema

VAL_SHARE, MAX_VAL = 0.1, 1000


@dataclass(frozen=True)
class Declared:
    """The published counts of a list: clips, and texts by language; None where no count is published."""

    name: str
    clips: int | None
    texts: Mapping[str, int] | None = None

    def differs(self, pairs: Pairs) -> str | None:
        """A sentence on how the counts of `pairs` differ from the published ones; None if they do not."""
        counts = pairs.counts()
        declared = {"clips": counts["clips"] if self.clips is None else self.clips, **(self.texts or {})}
        if self.texts is None:
            counts = {"clips": counts["clips"]}
        if counts == declared:
            return None
        return f"{self.name} has {_counted(declared)}; this list has {_counted(counts)}"


def _counted(counts: Mapping[str, int]) -> str:
    words = [f"{counts['clips']:,} clips"] + [f"{n:,} {lang} texts" for lang, n in counts.items() if lang != "clips"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def write_benchmark(out: Path, pairs: Pairs, declared: Declared, *, root: Path, source: dict[str, Any]) -> list[Corpus]:
    """Writes a benchmark, whose clips all have split test.

    Raises M2raapError if the counts are not those of the protocol: results could not be compared with published ones.
    """
    if problem := declared.differs(pairs):
        raise M2raapError(
            f"{pairs.listing}: {problem}; a benchmark needs its complete list (video files may be missing): download it again"
        )
    clips = [row | {"split": "test"} for row in pairs.clips.values()]
    missing = _missing(root, clips, pairs)
    corpus = write_corpus(
        out,
        clips,
        pairs.texts,
        video_root=root,
        source=_source(source, pairs, pairs.texts),
        benchmark=declared.name,
        missing=missing,
    )
    return [corpus]


def write_training(
    out: Path,
    pairs: Pairs,
    *,
    root: Path,
    source: dict[str, Any],
    known: Declared | None = None,
    num_holdout: int | None = None,
    seed: int = 0,
    signals: Mapping[str, Row] | None = None,
    signal_columns: Mapping[str, str] | None = None,
) -> list[Corpus]:
    """Writes `out`, and with `num_holdout` also `out`-holdout, a benchmark of that many clips that have texts.

    Rows without a split become train; if no row has a split, a tenth of the videos (drawn by `seed`) becomes val. Clips of
    one video are never in both corpora: a training clip whose video is in the holdout is left out and counted in `source`.
    If the holdout takes every clip, only the benchmark is written. `signals`: clip_id -> what the list says of the clip, a row
    with `signal_columns`, as in write_corpus. Counts other than `known` are no error in a training
    corpus; `source` states them. Raises M2raapError as write_corpus does.
    """
    clips = list(pairs.clips.values())
    if not clips:
        raise M2raapError(f"{pairs.listing}: holds no entries; give the whole list")
    captioned_ids = {row["clip_id"] for row in pairs.texts} if num_holdout else set()
    held = (
        holdout([row for row in clips if row["clip_id"] in captioned_ids], num_holdout, seed) if num_holdout else set()
    )
    held_videos = {row["video"] for row in clips if row["clip_id"] in held}
    train = [row for row in clips if row["video"] not in held_videos]
    test = [row | {"split": "test"} for row in clips if row["clip_id"] in held]
    if left_out := len(clips) - len(train) - len(held):
        pairs.notes["left_out_because_of_holdout"] = left_out
    if known and (problem := known.differs(pairs)):
        source = source | {"note": problem}
    _split(train, seed)
    num_splits = Counter(video for video, _ in {(row["video"], row["split"]) for row in train})
    if shared := sum(number > 1 for number in num_splits.values()):
        pairs.notes["videos_in_several_splits"] = shared
        talk.log(
            f"{pairs.listing.name}: clips of {shared:,} videos are in more than one split: training sees those videos"
        )
    groups: list[tuple[Path, list[Row], str | None]] = [(out, train, None)]
    if len(held) == len(clips):
        talk.log(f"{out}: not written, because the holdout takes all {len(clips):,} clips")
        groups = []
    if held:
        name = out.with_name(out.name + "-holdout")
        groups.append((name, test, f"{name.name}-{num_holdout}-seed{seed}"))
    missing = _missing(root, train + test, pairs)
    corpora = {}
    # One that is there already comes first: where it may not be replaced, the other one, which belongs to it, is not written.
    for folder, group, benchmark in sorted(groups, key=lambda row: not (row[0] / "manifest.json").exists()):
        group_ids = {row["clip_id"] for row in group}
        texts = [row for row in pairs.texts if row["clip_id"] in group_ids]
        named_by_user = None if folder == out else out.parent  # the name of the holdout is ours: it may not be a link
        with locked(folder, written=(), below=named_by_user):
            corpus = write_corpus(
                folder,
                group,
                texts,
                video_root=root,
                source=_source(source, pairs if folder == groups[0][0] else None, texts),
                benchmark=benchmark,
                missing=[row for row in missing if row["clip_id"] in group_ids],
                signals=[row for clip_id, row in (signals or {}).items() if clip_id in group_ids],
                signal_columns=signal_columns,
            )
            _write_scores(corpus, pairs.scores)
        corpora[folder] = corpus
    return [corpora[folder] for folder, _, _ in groups]


def _source(source: dict[str, Any], pairs: Pairs | None, texts: list[Row]) -> dict[str, Any]:
    """What a manifest says about the origin: texts by language, and, with `pairs`, what was left out."""
    langs = Counter(row["lang"] for row in texts)
    source = source | {"langs": {lang: langs[lang] for lang in sorted(langs)}}
    if pairs:
        source |= pairs.notes
        if columns := {name: names for name, names in pairs.unread.items() if names}:
            source["columns_not_read"] = columns
        if pairs.unread_lists:
            source["lists_not_read"] = pairs.unread_lists
    return source


def _missing(root: Path, clips: list[Row], pairs: Pairs) -> list[Row]:
    """Rows of the clips whose files are absent. Says what the import has not read, and how missing files would be found."""
    missing = find_missing(root, clips)
    say_unread(pairs.unread, pairs.unread_lists)
    video_of = {row["clip_id"]: row["video"] for row in clips}
    say_missing(root, len(set(video_of.values())), [video_of[row["clip_id"]] for row in missing])
    return missing


def _split(clips: list[Row], seed: int) -> None:
    if not any("split" in row for row in clips):
        chosen = val_ids(list(dict.fromkeys(row["video"] for row in clips)), seed)
        for row in clips:
            row["split"] = "val" if row["video"] in chosen else "train"
    for row in clips:
        row.setdefault("split", "train")


def val_ids(names: list[str], seed: int) -> set[str]:
    """A tenth of the videos (1,000 at most), drawn by `seed`, on which checkpoints are chosen."""
    count = min(MAX_VAL, max(1, round(VAL_SHARE * len(names)))) if len(names) > 1 else 0
    by_hash = sorted(names, key=lambda name: hashlib.blake2b(f"val:{seed}:{name}".encode(), digest_size=16).digest())
    return set(by_hash[:count])


def _write_scores(corpus: Corpus, scores: Mapping[str, Row]) -> None:
    """Writes the scores that the list has (clip_id, one column for each) beside the tables, for limits in a recipe."""
    scored_ids = sorted(row["clip_id"] for row in corpus.all_rows("clips", ["clip_id"]) if row["clip_id"] in scores)
    if not scored_ids:
        return
    schema = signal_schema({name: "float" for clip_id in scored_ids for name in scores[clip_id]})
    rows = [{"clip_id": clip_id} | scores[clip_id] for clip_id in scored_ids]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd", write_statistics=False)
    write_atomic(corpus.path / SCORES, sink.getvalue().to_pybytes())
