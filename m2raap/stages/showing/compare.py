"""compare: two runs on the same benchmarks, the paired difference between them, and gates. Reads finished folders only.

Results compare where their protocol cards agree; otherwise the fields that differ are named and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import read_json
from m2raap.retrieval.arms import paired, summarise
from m2raap.retrieval.evaluate import evaluate
from m2raap.retrieval.published import published
from m2raap.stages.evaluate import read_npy, read_ranks
from m2raap.stages.protocol import MUST_AGREE, SHOWN, differing
from m2raap.stages.runs.recipe import family
from m2raap.stages.runs.run_folder import RunFolder

AT = (1, 5, 10)
_ON_THE_INTERSECTION = ("ids", "texts", "missing", "pictures")
Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Contender:
    """One side: benchmark -> evaluate folders, one a training seed."""

    name: str
    folders: dict[str, list[Path]]

    def cards(self, bench: str) -> list[dict[str, Any]]:
        trees = [(folder, read_json(folder / "results.json")) for folder in self.folders[bench]]
        for folder, tree in trees:
            if "card" not in tree:
                raise M2raapError(f"{folder}: results.json has no protocol card; evaluate again")
        return [tree["card"] for _, tree in trees]


def open_contender(path: Path) -> Contender:
    """A run (its last arm stands for it), one arm's folder in a run, or an evaluate folder.

    Raises M2raapError where there is none, or it is not finished.
    """
    if (path / "results.json").exists() and (path / "manifest.json").exists():
        return Contender(path.name, {read_json(path / "results.json")["protocol"]: [path]})
    home = path if (path / "run.json").exists() else path.parent
    if not (home / "run.json").exists():
        raise M2raapError(
            f"{path}: neither a run, nor an arm's folder in one, nor a finished evaluate folder (results.json)"
        )
    run = RunFolder.open(home)
    arms = list(dict.fromkeys(family(arm) for arm in run.arms()))
    arm = arms[-1] if home == path else path.name
    if arm not in arms:
        raise M2raapError(f"{path}: the run has no arm '{arm}'; its arms are {', '.join(arms)}")
    folders: dict[str, list[Path]] = {}
    for step in run.steps:
        if step.stage == "evaluate" and family(step.arm) == arm:
            if not (step.folder / "manifest.json").exists():
                raise M2raapError(f"{step.folder}: is not finished; run the same 'm2raap run' again, it resumes")
            folders.setdefault(step.bench or "", []).append(step.folder)
    if not folders:
        raise M2raapError(f"{path}: the run has no benchmark; give one with --bench")
    return Contender(f"{home.name}/{arm}" if len(arms) > 1 else home.name, folders)


def compare(
    a: Contender, b: Contender, *, intersect: bool = False, allow: Collection[str] = (), seed: int = 0
) -> dict[str, Any]:
    """{"a", "b", "benches": [...]}; a bench has name, protocol, scope, cards, rows, differences, published.

    `rows` are those of `summarise` with `run` a or b, `differences` those of `paired` (R@1, 5, 10). Raises M2raapError
    naming the fields of the protocol card that differ, but for those in `allow`; with `intersect` the lists and the missing
    videos may differ, and both are scored again on the clips and texts that both have.
    """
    if unknown := sorted(set(allow) - set(MUST_AGREE)):
        raise UsageError(f"--allow {unknown[0]}: fields of the protocol card are {', '.join(MUST_AGREE)}")
    benches = []
    for name, other in _common(a, b):
        cards = (a.cards(name), b.cards(other))
        allowed = {*allow, *(_ON_THE_INTERSECTION if intersect else ())}
        _refuse_unlike(a, b, name, cards, allowed)
        note = ""
        if intersect:
            tables, note = _intersected((a.folders[name], b.folders[other]), name, "pictures" in allow, seed)
        else:
            tables = [
                [read_ranks(folder / "ranks.parquet") for folder in side]
                for side in (a.folders[name], b.folders[other])
            ]
        benches.append(_bench(name, cards, tables, note, seed))
    return {"a": a.name, "b": b.name, "allowed": sorted(allow), "benches": benches}


def alone(a: Contender, seed: int = 0) -> dict[str, Any]:
    """As `compare`, of one side: no differences."""
    benches = []
    for name, folders in a.folders.items():
        cards = a.cards(name)
        _refuse_unlike(a, a, name, (cards, cards), ())
        benches.append(_bench(name, (cards,), [[read_ranks(folder / "ranks.parquet") for folder in folders]], "", seed))
    return {"a": a.name, "b": None, "allowed": [], "benches": benches}


def failed_gates(found: Mapping[str, Any], min_r1: float | None, against: Mapping[str, Any] | None) -> list[str]:
    """What a gate objects to, a sentence each.

    `min_r1`: every text-to-video R@1 of a has to reach it. `against` (a compared with the run not to be worse than): no
    R@1 may lie below that run's with its whole 95 % interval.
    """
    sentences = []
    least = 0.0 if min_r1 is None else min_r1
    for bench in found["benches"]:
        for row in bench["rows"]:
            r1 = row["metrics"]["R@1"]
            if row["run"] == "a" and row["direction"] == "t2v" and r1 < least:
                sentences.append(f"{bench['name']} {row['lang']} t2v R@1 {r1:.2f} is under --min-r1 {least:g}")
    if against is None:
        return sentences
    for bench in against["benches"]:
        for row in bench["differences"]:
            if row["metric"] == "R@1" and row["hi"] < 0:
                sentences.append(
                    f"{bench['name']} {row['lang']} {row['direction']} R@1 is {-row['diff']:.2f} points below {against['b']} "
                    f"({row['lo']:+.2f} to {row['hi']:+.2f})"
                )
    return sentences


def _common(a: Contender, b: Contender) -> list[tuple[str, str]]:
    if len(a.folders) == len(b.folders) == 1:
        return [(*a.folders, *b.folders)]  # type: ignore[list-item]  # one name each
    both = [name for name in a.folders if name in b.folders]
    if not both:
        raise M2raapError(
            f"{a.name} and {b.name} have no benchmark in common ({', '.join(a.folders)}; {', '.join(b.folders)})"
        )
    return [(name, name) for name in both]


def _refuse_unlike(
    a: Contender, b: Contender, bench: str, cards: tuple[list[dict[str, Any]], ...], allowed: Collection[str]
) -> None:
    first = cards[0][0]
    for side, found in zip((a, b), cards, strict=True):
        for card in found:
            if odd := [name for name in differing(first, card) if name not in allowed]:
                values = "; ".join(f"{name}: {_short(first[name])} and {_short(card[name])}" for name in odd)
                hint = "; --intersect scores both on what they share"
                if "protocol" in odd or "frames" in odd:
                    hint = "; --allow compares them all the same, and says so: " + " ".join(
                        f"--allow {name}" for name in odd
                    )
                raise M2raapError(
                    f"{a.name} and {side.name} do not compare on {bench}, their protocols differ in {values}{hint}"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 32 and " " not in text else text


def _bench(
    name: str, cards: tuple[list[dict[str, Any]], ...], tables: Sequence[Sequence[Table]], note: str, seed: int
) -> dict[str, Any]:
    rows = []
    for run, side in zip("ab", tables, strict=False):
        for row in summarise(side, seed):
            if row["slice"] == "all":
                spread = float(np.std(row["seeds_r1"], ddof=1)) if row["seeds"] > 1 else None
                comparable = row["comparable"] and not note
                rows.append({"run": run, **row, "comparable": comparable, "deviation_r1": spread})
    differences = []
    if len(tables) == 2:
        for lang in sorted({row["lang"] for row in tables[0][0]}):
            for direction in ("t2v", "v2t"):
                differences += [paired(tables[0], tables[1], lang, direction, k, seed) for k in AT]
    protocol = cards[0][0]["protocol"]
    return {
        "name": name,
        "protocol": protocol,
        "note": note,
        "cards": {
            run: {key: side[0][key] for key in (*MUST_AGREE, *SHOWN)} for run, side in zip("ab", cards, strict=False)
        },
        "rows": rows,
        "differences": differences,
        "published": published(protocol),
    }


def _intersected(
    sides: Sequence[Sequence[Path]], bench: str, other_pictures: bool, seed: int
) -> tuple[list[list[Table]], str]:
    """The ranks of every folder again, on the clips and texts that all of them have."""
    found = [[_Embedded.of(folder) for folder in side] for side in sides]
    every = [one for side in found for one in side]
    videos = set.intersection(*(set(one.frames) for one in every))
    texts = set.intersection(*(set(one.texts) for one in every))
    texts = {row for row in texts if row[1] in videos}
    videos &= {row[1] for row in texts}
    if not texts:
        raise M2raapError(f"{bench}: the two have no text and clip in common")
    first = every[0].frames
    unlike = sorted(video for video in videos if any(one.frames[video] != first[video] for one in every))
    if unlike and not other_pictures:
        raise M2raapError(
            f"{bench}: {len(unlike)} of the {len(videos)} common clips were shown with other pictures, first {unlike[0]}; "
            "--allow pictures compares them all the same"
        )
    note = f"on the intersection, n={len(videos)} clips, {len(texts)} texts: not comparable with official rows"
    return [[one.ranks(videos, texts, seed) for one in side] for side in found], note


@dataclass(frozen=True)
class _Embedded:
    path: Path
    ids: dict[str, Any]
    frames: dict[str, str]  # video -> digest of its pictures
    texts: list[tuple[str, str, str, str]]  # id, video, language, text; in the order of text.npy

    @classmethod
    def of(cls, evaluated: Path) -> _Embedded:
        """The embeddings that an evaluate folder was made from: they lie beside it. Raises M2raapError if not."""
        wanted = read_json(evaluated / "manifest.json")["inputs"]["embed"]
        for path in sorted(evaluated.resolve().parent.iterdir()):
            manifest = path / "manifest.json"
            if (path / "ids.json").exists() and manifest.exists() and read_json(manifest)["digest"] == wanted:
                ids = read_json(path / "ids.json")
                columns = (ids[name] for name in ("text_ids", "text_video_ids", "text_langs", "texts"))
                frames = dict(zip(ids["video_ids"], ids["video_frames"], strict=True))
                return cls(path, ids, frames, list(zip(*columns, strict=True)))
        raise M2raapError(
            f"{evaluated}: its embeddings (digest {wanted[:12]}) are in no folder beside it; --intersect needs them"
        )

    def ranks(self, videos: set[str], texts: set[tuple[str, str, str, str]], seed: int) -> Table:
        keep_V = [row for row, video in enumerate(self.ids["video_ids"]) if video in videos]
        keep_T = [row for row, text in enumerate(self.texts) if text in texts]
        picked = [self.texts[row] for row in keep_T]
        names, owners, langs, _ = zip(*picked, strict=True)
        return evaluate(
            read_npy(self.path / "video.npy")[keep_V], [self.ids["video_ids"][row] for row in keep_V],
            read_npy(self.path / "text.npy")[keep_T], names, owners, langs, self.ids["categories"], (), seed,
        ).ranks  # fmt: skip
