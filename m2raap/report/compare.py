"""compare: two runs on the same benchmarks, and the paired difference between them. It reads finished folders only.

Two results are compared only where their protocols agree; otherwise the error names the fields that differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import read_object
from m2raap.core.signed import read_manifest
from m2raap.report.contenders import Contender
from m2raap.report.published import published
from m2raap.retrieval.arms import paired, summarise
from m2raap.retrieval.embeddings import IDS, Embeddings
from m2raap.retrieval.rank_counts import MEAN_RECALL
from m2raap.retrieval.results import evaluate_embeddings
from m2raap.retrieval.two_way import two_way_differences, two_way_rows
from m2raap.stages.evaluate import read_ranks
from m2raap.stages.protocol import MUST_AGREE, SHOWN, describe_difference, differing

COMPARED = ("R@1", "R@5", "R@10", MEAN_RECALL)
_IGNORED_ON_INTERSECTION = ("ids", "texts", "missing", "pictures")
Table = list[dict[str, Any]]


def compare(
    a: Contender, b: Contender, *, intersect: bool = False, allow: Collection[str] = (), seed: int = 0
) -> dict[str, Any]:
    """{"a", "b", "allowed", "lacking", "benches": [...]}; a bench has name, protocol, note, unlike, protocols, rows, two_way,
    differences, published. `lacking`: for a and b, the benchmarks that only the other one has, which are not compared.

    `rows` are those of `summarise` with `run` a or b, `two_way` those of `two_way_rows` (none without twins), `differences`
    those of `paired` (R@1, R@5, R@10, MeanR) and of `two_way_differences`. Raises M2raapError
    naming the fields of the protocol that differ and are not in `allow`; `unlike` lists the allowed ones that differ.
    With `intersect` the lists and the missing videos may differ, and both runs are scored again on the clips and texts that
    both have: such rows have scope `intersection`, and `published` is empty.
    """
    _check_fields(allow)
    benches = []
    pairs = _common(a, b)
    for name, other in pairs:
        protocols = (a.protocols(name), b.protocols(other))
        sides = (a.folders[name], b.folders[other])
        ignored = _IGNORED_ON_INTERSECTION if intersect else ()
        unlike = _refuse_unlike(a, b, name, protocols, {*allow, *ignored})
        unlike = [field for field in unlike if field not in ignored]
        if intersect:
            tables, note, other_pictures = _intersected(sides, name, "pictures" in allow, seed)
            unlike += ["pictures"] if other_pictures else []
        else:
            tables, note = [[read_ranks(folder / "ranks.parquet") for folder in side] for side in sides], ""
        benches.append(_bench(name, protocols, tables, note, seed) | {"unlike": unlike})
    lacking = {
        "a": [name for name in b.folders if name not in {other for _, other in pairs}],
        "b": [name for name in a.folders if name not in {name_a for name_a, _ in pairs}],
    }
    return {"a": a.name, "b": b.name, "allowed": sorted(allow), "lacking": lacking, "benches": benches}


def alone(a: Contender, seed: int = 0, allow: Collection[str] = ()) -> dict[str, Any]:
    """As :func:`compare`, for one run: its official rows on all its benchmarks, without differences.

    `allow`: fields of the protocol in which its seeds may differ.
    """
    _check_fields(allow)
    benches = []
    for name, folders in a.folders.items():
        protocols = a.protocols(name)
        unlike = _refuse_unlike(a, a, name, (protocols, protocols), allow)
        tables = [[read_ranks(folder / "ranks.parquet") for folder in folders]]
        benches.append(_bench(name, (protocols,), tables, "", seed) | {"unlike": unlike})
    return {"a": a.name, "b": None, "allowed": sorted(allow), "lacking": {"a": [], "b": []}, "benches": benches}


def _check_fields(allow: Collection[str]) -> None:
    if unknown := sorted(set(allow) - set(MUST_AGREE)):
        raise UsageError(f"--allow {unknown[0]}: not a field of the protocol; give one of {', '.join(MUST_AGREE)}")


def _common(a: Contender, b: Contender) -> list[tuple[str, str]]:
    if len(a.folders) == len(b.folders) == 1:
        return [(*a.folders, *b.folders)]  # type: ignore[list-item]  # one name each
    both = [name for name in a.folders if name in b.folders]
    if not both:
        raise M2raapError(
            f"{a.name} and {b.name} have no benchmark in common ({', '.join(a.folders)}; {', '.join(b.folders)}); evaluate both "
            "on the same one"
        )
    return [(name, name) for name in both]


def _refuse_unlike(
    a: Contender, b: Contender, bench: str, protocols: tuple[list[dict[str, Any]], ...], allowed: Collection[str]
) -> list[str]:
    """The fields of MUST_AGREE that differ, all of them in `allowed`. Raises M2raapError where another one differs."""
    first = protocols[0][0]
    unlike: set[str] = set()
    for side, of_side in zip((a, b), protocols, strict=True):
        for protocol in of_side:
            fields = differing(first, protocol)
            unlike.update(fields)
            if refused := [name for name in fields if name not in allowed]:
                values = "; ".join(describe_difference(name, first, protocol) for name in refused)
                flags = " ".join(f"--allow {name}" for name in refused)
                hint = "give --intersect to score both on the clips and texts that both have"
                if "name" in refused or "frames" in refused:
                    hint = f"give {flags} to compare them nevertheless (the output names what differs)"
                elif not {"ids", "texts"} & set(refused):  # the same queries: the official rows can be paired
                    hint += f", or {flags} to compare the official rows nevertheless (the output names what differs)"
                raise M2raapError(
                    f"{a.name} and {side.name} cannot be compared on {bench}: their protocols differ in {values}; {hint}"
                )
    return [name for name in MUST_AGREE if name in unlike]


def _bench(
    name: str, protocols: tuple[list[dict[str, Any]], ...], tables: Sequence[Sequence[Table]], note: str, seed: int
) -> dict[str, Any]:
    rows = []
    for run, side in zip("ab", tables, strict=False):
        for row in summarise(side, seed):
            if row["slice"] == "all" and row["scope"] == "official" and row["direction"] in ("t2v", "v2t"):
                spread = float(np.std(row["seeds_r1"], ddof=1)) if row["seeds"] > 1 else None
                scope = {"scope": "intersection", "comparable": False} if note else {}
                rows.append({"run": run, **row, **scope, "deviation_r1": spread})
    differences = []
    if len(tables) == 2:
        for lang in sorted({row["lang"] for row in tables[0][0]}):
            for direction in ("t2v", "v2t"):
                differences += [paired(tables[0], tables[1], lang, direction, metric, seed) for metric in COMPARED]
        differences += two_way_differences(tables[0], tables[1], seed)
    protocol = protocols[0][0]["name"]
    return {
        "name": name,
        "protocol": protocol,
        "note": note,
        "protocols": {
            run: {key: side[0][key] for key in (*MUST_AGREE, *SHOWN)}
            for run, side in zip("ab", protocols, strict=False)
        },
        "rows": rows,
        "two_way": [
            {"run": run, **row} for run, side in zip("ab", tables, strict=False) for row in two_way_rows(side, seed)
        ],
        "differences": differences,
        "published": [] if note else [row for row in published(protocol) if row["lang"] in {r["lang"] for r in rows}],
    }


def _intersected(
    sides: Sequence[Sequence[Path]], bench: str, other_pictures: bool, seed: int
) -> tuple[list[list[Table]], str, bool]:
    """Ranks every folder again on the clips and texts that all of them have. Gives the tables of ranks, a note for the output,
    and whether the key-frames of some of those clips differ between the folders."""
    embedded = [[_Embedded.of(folder) for folder in side] for side in sides]
    flat = [side_embeddings for side in embedded for side_embeddings in side]
    videos = set.intersection(*(set(side_embeddings.frames) for side_embeddings in flat))
    texts = set.intersection(*(set(side_embeddings.texts) for side_embeddings in flat))
    texts = {row for row in texts if row[1] in videos}
    videos &= {row[1] for row in texts}
    if not texts:
        raise M2raapError(f"{bench}: the two have no text and clip in common, so --intersect leaves nothing to score")
    first = flat[0].frames
    with_other_frames = sorted(
        video for video in videos if any(side_embeddings.frames[video] != first[video] for side_embeddings in flat)
    )
    if with_other_frames and not other_pictures:
        raise M2raapError(
            f"{bench}: {len(with_other_frames)} of the {len(videos)} common clips were embedded from different frames, first "
            f"{with_other_frames[0]}; give --allow pictures to compare them nevertheless"
        )
    note = f"on the intersection, n={len(videos):,} clips, {len(texts):,} texts: not comparable with official or published rows"
    return (
        [[side_embeddings.ranks(videos, texts, seed) for side_embeddings in side] for side in embedded],
        note,
        bool(with_other_frames),
    )


@dataclass(frozen=True)
class _Embedded:
    embeddings: Embeddings
    frames: dict[str, str]  # video -> digest of its pictures
    texts: list[tuple[str, str, str, str]]  # id, video, language, text; in the order of text.npy

    @classmethod
    def of(cls, evaluated: Path) -> _Embedded:
        """The embeddings that an evaluate folder was computed from, which are looked for by digest in the folders next to it.

        Raises M2raapError where none of those has the digest.
        """
        digest = read_manifest(evaluated)["inputs"]["embed"]
        for path in sorted(evaluated.resolve().parent.iterdir()):
            manifest = path / "manifest.json"
            if (path / IDS).exists() and manifest.exists() and read_object(manifest).get("digest") == digest:
                loaded = Embeddings.load(path)
                texts = zip(loaded.text_ids, loaded.text_video_ids, loaded.text_langs, loaded.texts, strict=True)
                return cls(loaded, dict(zip(loaded.video_ids, loaded.video_frames, strict=True)), list(texts))
        raise M2raapError(
            f"{evaluated}: no folder next to it holds the embeddings that it was computed from (digest {digest[:12]}), which "
            "--intersect needs; embed and evaluate again"
        )

    def ranks(self, videos: set[str], texts: set[tuple[str, str, str, str]], seed: int) -> Table:
        text_rows = [row for row, text in enumerate(self.texts) if text in texts]
        return evaluate_embeddings(self.embeddings.select(videos, text_rows), seed).ranks


def failed_thresholds(
    official: Mapping[str, Any], min_r1: float | None, against: Mapping[str, Any] | None = None
) -> list[str]:
    """One sentence for each threshold that run a misses. Thresholds are always on official rows.

    `official`: the result of :func:`alone` for run a; with `min_r1` every text-to-video R@1 of it has to reach that.
    `against`: the result of :func:`compare` for run a and a reference run. The threshold is missed where the whole 95 %
    interval of a difference in R@1 lies below zero, and for every benchmark of the reference run that a lacks.
    """
    sentences = []
    if min_r1 is not None:
        for bench in official["benches"]:
            for row in bench["rows"]:
                r1 = row["metrics"]["R@1"]
                if row["direction"] == "t2v" and not r1 >= min_r1:  # also for NaN
                    sentences.append(
                        f"{bench['name']} {row['lang']} t2v R@1 {r1:.2f} of {official['a']} (official row) is under "
                        f"--min-r1 {min_r1:g}"
                    )
    if against is None:
        return sentences
    for bench in against["benches"]:
        for row in bench["differences"]:
            if row["metric"] == "R@1" and row["hi"] < 0:
                sentences.append(
                    f"{bench['name']} {row['lang']} {row['direction']} R@1 of {against['a']} is {-row['diff']:.2f} points "
                    f"below {against['b']} ({row['lo']:+.2f} to {row['hi']:+.2f})"
                )
    for name in against["lacking"]["a"]:
        sentences.append(
            f"{against['a']} has no results on benchmark '{name}', on which {against['b']} has some; evaluate it there too"
        )
    return sentences
