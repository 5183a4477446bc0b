"""evaluate: embeddings -> ranks and metrics with intervals. Numpy only: embedded once, scored as often as you like.

results.json and ranks.parquet hold the headline. What is scored otherwise (Mug over candidates, dual softmax, QB-Norm) or
embedded otherwise (probes) stands in files of its own beside them, labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_atomic, write_json
from m2raap.core.view import open_view
from m2raap.core.whole import StageOutput
from m2raap.retrieval.agreement import agreement
from m2raap.retrieval.benchmarks import check_counts, declared
from m2raap.retrieval.config import EvaluateConfig
from m2raap.retrieval.evaluate import SCORE_DIGITS, Results, evaluate
from m2raap.retrieval.rescore import LanguageScores, Rescore, Rescored, dual_softmax, lifted, qb_norm
from m2raap.stages.bank import Bank
from m2raap.stages.protocol import card
from m2raap.stages.rerank import NAME as RERANKED


def evaluate_folder(
    embedded: Path, protocol: str, seed: int, folder: Path, cfg: EvaluateConfig | None = None, bank: Bank | None = None
) -> StageOutput:
    """Writes results.json and ranks.parquet; one of each again for every probe that `embed` made and every way to rescore.

    Raises M2raapError where the counts are not the protocol's, for a protocol that looks like a mistyped one, and for a bank
    that holds a query or a video of the benchmark.
    """
    cfg = cfg or EvaluateConfig()
    ids = read_json(embedded / "ids.json")
    if "made_with" not in ids:
        raise M2raapError(f"{embedded}: ids.json does not say what the embeddings were made with; embed again")
    if bank is not None:
        bank.check(ids, _video_names(embedded))
    benchmark = declared(protocol, cfg.benchmarks)
    if benchmark:
        owners: dict[str, list[str]] = {}
        for lang, video in zip(ids["text_langs"], ids["text_video_ids"], strict=True):
            owners.setdefault(lang, []).append(video)
        check_counts(benchmark, [*ids["video_ids"], *ids["missing"]], owners)
    files: list[str] = []

    def write(name: str, head: dict[str, Any], found: Results) -> None:
        suffix = f"-{name}" if name else ""
        tree = {"protocol": protocol, "probe": None, "card": card(ids, protocol, benchmark)} | head | found.to_dict()
        write_json(folder / f"results{suffix}.json", tree)
        write_ranks(folder / f"ranks{suffix}.parquet", found.ranks)
        files.extend([f"results{suffix}.json", f"ranks{suffix}.parquet"])

    texts = read_npy(embedded / "text.npy")
    for path in sorted(embedded.glob("video*.npy")):
        probe = path.stem.removeprefix("video").removeprefix("-")
        found = _evaluate(read_npy(path), texts, ids, seed)
        write(probe, {"probe": probe or None, "bilingual": agreement(found.ranks, seed)}, found)
    videos = read_npy(embedded / "video.npy")
    for name, label, again in _ways(embedded, ids, cfg, videos, texts, bank):
        write(name, {"rescored": {"name": name, "label": label}}, _evaluate(videos, texts, ids, seed, again))
    counts = {"queries": len(ids["text_ids"]), "videos": len(ids["video_ids"]), "missing": len(ids["missing"])}
    return StageOutput(files, counts)


def _evaluate(
    videos: np.ndarray, texts: np.ndarray, ids: dict[str, Any], seed: int, rescore: Rescore | None = None
) -> Results:
    return evaluate(
        videos, ids["video_ids"], texts, ids["text_ids"], ids["text_video_ids"], ids["text_langs"],
        ids["categories"], ids["missing"], seed, rescore,
    )  # fmt: skip


def _video_names(embedded: Path) -> dict[str, str]:
    """The file that each clip of the benchmark was cut out of, as its list names it; none of vectors without a corpus."""
    if "view" not in read_json(embedded / "manifest.json"):
        return {}
    return {row["clip_id"]: row["video"] for row in open_view(embedded).corpus.all_rows("clips", ["clip_id", "video"])}


def _ways(
    embedded: Path, ids: dict[str, Any], cfg: EvaluateConfig, videos: np.ndarray, texts: np.ndarray, bank: Bank | None
) -> Iterator[tuple[str, str, Rescore]]:
    """Name, label and function of every way to rescore that was asked for."""
    if (embedded / RERANKED).exists():
        tables = _read_npz(embedded / RERANKED)
        num = max(tables[name].shape[1] for name in tables if name.endswith("t2v-ids"))
        note = "" if len(ids["text_ids"]) == _one_a_video(ids) else "; v2t is left out: several texts a video"
        yield "mug", f"late interaction over the first {num}{note}", lambda scores: _mug(scores, tables, ids)
    if (heat := cfg.dual_softmax) is not None:
        label = f"transductive: sees all queries (dual softmax, inverse temperature {heat:g}){_negative(videos, texts, ids)}"
        yield "dual_softmax", label, lambda s: dual_softmax(s.rows, len(s.text_ids), len(s.video_ids), heat)
    if bank is not None:
        label = (
            f"sees a bank of {len(bank.texts):,} training texts (QB-Norm, inverse temperature {cfg.qb_norm:g}); v2t is left "
            "out: the bank holds no videos"
        )
        yield "qb_norm", label, lambda scores: _qb_norm(scores, bank, videos, ids, cfg.qb_norm)


def _negative(videos: np.ndarray, texts: np.ndarray, ids: dict[str, Any]) -> str:
    """What to say where the product of CAMoE turns round: the score of a text and its own video is negative."""
    row_of = {video: row for row, video in enumerate(ids["video_ids"])}
    pairs = [(row, row_of[video]) for row, video in enumerate(ids["text_video_ids"]) if video in row_of]
    rows, own = np.asarray(pairs, np.int64).reshape(-1, 2).T
    num = int(((texts[rows] * videos[own]).sum(1) < 0).sum())
    if not num:
        return ""
    return f"; {num:,} of {len(pairs):,} own scores are negative: such are divided by their softmax, not multiplied (not CAMoE's)"


def _one_a_video(ids: dict[str, Any]) -> int:
    return len(set(zip(ids["text_langs"], ids["text_video_ids"], strict=True)))


def _mug(scores: LanguageScores, tables: dict[str, np.ndarray], ids: dict[str, Any]) -> Rescored:
    """Candidates by place in ids.json -> rows of the sorted ids."""
    row_of_text = {text: row for row, text in enumerate(scores.text_ids)}
    row_of_video = {video: row for row, video in enumerate(scores.video_ids)}
    videos = np.asarray([row_of_video[video] for video in ids["video_ids"]])
    texts = np.asarray([row_of_text.get(text, -1) for text in ids["text_ids"]])
    of_lang = np.flatnonzero(np.asarray(ids["text_langs"]) == scores.lang)

    def pairs(direction: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found, values = (tables[f"{scores.lang}-{direction}-{what}"] for what in ("ids", "scores"))
        query = np.repeat(np.arange(len(found)), found.shape[1])
        if direction == "t2v":
            return texts[of_lang][query], videos[found.ravel()], values.ravel()
        return texts[found.ravel()], videos[query], values.ravel()

    v2t = None if scores.several_texts else lifted(scores.rows, *pairs("v2t"))
    return Rescored(lifted(scores.rows, *pairs("t2v")), v2t)


def _qb_norm(
    scores: LanguageScores, bank: Bank, videos: np.ndarray, ids: dict[str, Any], inverse_temperature: float
) -> Rescored:
    of_lang = [row for row, lang in enumerate(bank.langs) if lang == scores.lang]
    if not of_lang:
        raise M2raapError(
            f"{bank.path}: holds no text in '{scores.lang}'; make a bank from a corpus in that language too"
        )
    order = [row for _, row in sorted(zip(ids["video_ids"], range(len(videos)), strict=True))]
    bank_BE, video_VE = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (bank.vectors_BE[of_lang].astype(np.float64), videos[order].astype(np.float64))
    )
    return qb_norm(
        scores.rows,
        lambda rows: np.round(bank_BE[rows] @ video_VE.T, SCORE_DIGITS),
        len(bank_BE),
        len(video_VE),
        inverse_temperature,
    )


def read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise M2raapError(f"{path}: cannot be read as a numpy array ({error}); embed again") from None


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise M2raapError(f"{path}: cannot be read as numpy arrays ({error}); embed again") from None


def write_ranks(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd", write_statistics=False)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_ranks(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path, use_threads=False).to_pylist()


def side_lines(folder: Path) -> list[str]:
    """What stands beside the headline of an evaluate folder, a sentence each: the two languages, rescored rows."""
    lines = []
    headline = read_json(folder / "results.json")
    for row in headline["bilingual"]:
        gap, same = row["gaps"]["R@1"], row["spearman"]
        lines.append(
            f"en and zh, {row['direction']}, the same {row['clips']:,} clips: R@1 en minus zh {gap['diff']:+.1f} "
            f"({gap['lo']:+.1f} to {gap['hi']:+.1f}, p {gap['p']:.3f}); rank correlation "
            f"{'none' if same is None else f'{same:.2f}'}; found at 1 in both {row['both']:.0%}, only in en "
            f"{row['only_en']:.0%}, only in zh {row['only_zh']:.0%}"
        )
    for path in sorted(folder.glob("results-*.json")):
        tree = read_json(path)
        if "rescored" not in tree:
            continue
        numbers = [
            f"{row['lang']} {row['direction']} {row['metrics']['R@1']:.1f} "
            f"({row['intervals']['R@1'][0]:.1f}-{row['intervals']['R@1'][1]:.1f})"
            for row in tree["rows"]
            if row["slice"] == "all"
        ]
        name, label = tree["rescored"]["name"], tree["rescored"]["label"]
        lines.append(f"not the headline, {name}: R@1 {', '.join(numbers)}; {label}")
    if not headline.get("card", {}).get("declared", True):
        lines.append(
            f"'{headline['protocol']}' is an undeclared benchmark: nobody stated its counts, and its numbers compare only with "
            "others on the very same list"
        )
    return lines
