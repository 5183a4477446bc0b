"""evaluate: computes ranks, and metrics with intervals, from embeddings. It needs only numpy.

results.json and ranks.parquet hold the headline. Each rescoring (a late interaction, dual softmax, QB-Norm) and each frame
ablation has files of its own beside them, with a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.config import result_settings
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic, write_json
from m2raap.core.folder import plan_of
from m2raap.core.records import Plan
from m2raap.core.signed import NPY_ERRORS, read_manifest, refuse_changed_file
from m2raap.core.stage import SingleStage, StepInputs
from m2raap.core.tables import damaged
from m2raap.core.view import open_view
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.retrieval.agreement import agreement
from m2raap.retrieval.benchmarks import check_counts, declared
from m2raap.retrieval.config import EvaluateConfig
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.rescore import LanguageScores, Rescore, Rescored, dual_softmax, lifted, qb_norm
from m2raap.retrieval.results import SCORE_DIGITS, Results, evaluate_embeddings
from m2raap.retrieval.results_file import other_results, read_results
from m2raap.retrieval.significance import bounds_text, change_text
from m2raap.retrieval.tag_slices import LEAST_VIDEOS, add_tags, tag_rows
from m2raap.stages.bank import Bank
from m2raap.stages.protocol import protocol_of
from m2raap.stages.rerank import NAME as RERANKED
from m2raap.stages.shared import Shared
from m2raap.stages.tag_signals import LEAST_P, tags_of_benchmark


def evaluate_folder(
    embedded: Path, protocol: str, seed: int, folder: Path, cfg: EvaluateConfig | None = None, bank: Bank | None = None
) -> StageOutput:
    """Writes results.json and ranks.parquet, and the same pair of files for every frame ablation of `embed` and every rescoring.

    Raises M2raapError where the counts are not those of the protocol, where `protocol` is similar to a declared name but not one,
    for a bank that holds a query or a video of the benchmark, and for tags of another corpus.
    """
    cfg = cfg or EvaluateConfig()
    embeddings = Embeddings.load(embedded)
    if bank is not None:
        bank.check(embeddings, _video_names(embedded))
    benchmark = declared(protocol, cfg.benchmarks)
    if benchmark:
        owners: dict[str, list[str]] = {}
        for lang, video in zip(embeddings.text_langs, embeddings.text_video_ids, strict=True):
            owners.setdefault(lang, []).append(video)
        check_counts(benchmark, [*embeddings.video_ids, *embeddings.missing], owners)
    files: list[str] = []
    fields = {"protocol": protocol_of(embeddings, protocol, benchmark), "frame_ablation": None}
    tags = tags_of_benchmark(cfg.tags, embedded) if cfg.tags else None

    def write(name: str, head: dict[str, Any], results: Results) -> None:
        suffix = f"-{name}" if name else ""
        write_json(folder / f"results{suffix}.json", fields | head | results.to_dict())
        write_ranks(folder / f"ranks{suffix}.parquet", results.ranks)
        files.extend([f"results{suffix}.json", f"ranks{suffix}.parquet"])

    for name in ("", *embeddings.variants_VE):
        results = evaluate_embeddings(embeddings.variant(name), seed)
        head: dict[str, Any] = {"frame_ablation": name or None, "bilingual": agreement(results.ranks, seed)}
        if tags is not None and not name:
            add_tags(results.ranks, tags)
            head["by_tag"] = tag_rows([results.ranks], seed)
        write(name, head, results)
    for name, label, first_stage, rescore in _rescorings(embedded, embeddings, cfg, bank):
        write(name, {"rescored": {"name": name, "label": label}}, evaluate_embeddings(first_stage, seed, rescore))
    num_videos, num_missing = len(embeddings.video_ids), len(embeddings.missing)
    return StageOutput(files, {"queries": len(embeddings.text_ids), "videos": num_videos, "missing": num_missing})


def _video_names(embedded: Path) -> dict[str, str]:
    """clip_id -> the clip's video file as the imported list names it; {} for vectors that were made without a corpus."""
    if "view" not in read_manifest(embedded):
        return {}
    return {row["clip_id"]: row["video"] for row in open_view(embedded).corpus.all_rows("clips", ["clip_id", "video"])}


def _rescorings(
    embedded: Path, embeddings: Embeddings, cfg: EvaluateConfig, bank: Bank | None
) -> Iterator[tuple[str, str, Embeddings, Rescore]]:
    """Name, label, first stage and function of every rescoring that the settings ask for."""
    for variant in ("", *embeddings.variants_VE):
        name = f"{RERANKED}-{variant}" if variant else RERANKED
        if (path := embedded / f"{name}.npz").exists():
            yield _reranking(name, variant, _read_npz(path), embeddings.variant(variant))
    if (scale := cfg.dual_softmax) is not None:
        note = _note_on_negative_scores(embeddings)
        label = f"transductive: sees all queries (dual softmax, inverse temperature {scale:g}){note}"
        yield (
            "dual_softmax",
            label,
            embeddings,
            lambda s: dual_softmax(s.rows, len(s.text_ids), len(s.video_ids), scale),
        )
    if bank is not None:
        label = (
            f"sees a bank of {len(bank.texts):,} training texts (QB-Norm, inverse temperature {cfg.qb_norm:g}); v2t is left "
            "out: the bank holds no videos"
        )
        yield "qb_norm", label, embeddings, lambda scores: _qb_norm(scores, bank, embeddings, cfg.qb_norm)


def _note_on_negative_scores(embeddings: Embeddings) -> str:
    """A note for the label where a text and its own video have a negative score: CAMoE's product would reverse such scores."""
    row_of = {video: row for row, video in enumerate(embeddings.video_ids)}
    pairs = [(row, row_of[video]) for row, video in enumerate(embeddings.text_video_ids) if video in row_of]
    text_P, video_P = np.asarray(pairs, np.int64).reshape(-1, 2).T
    num = int(((embeddings.text_TE[text_P] * embeddings.video_VE[video_P]).sum(1) < 0).sum())
    if not num:
        return ""
    return (
        f"; {num:,} of {len(pairs):,} scores of a text and its own video are negative and are divided by their softmax "
        "instead of multiplied, unlike CAMoE"
    )


def _one_a_video(embeddings: Embeddings) -> int:
    """The number of texts that there are where every video has one text in each language."""
    return len(set(zip(embeddings.text_langs, embeddings.text_video_ids, strict=True)))


_VARIANT_NOTES = {
    "uncaptioned": "; without captions at test",
    "other_captions": "; with captions of another clip at test",
}


def _reranking(
    name: str, variant: str, tables: dict[str, np.ndarray], embeddings: Embeddings
) -> tuple[str, str, Embeddings, Rescore]:
    """What `_rescorings` yields for a file that `rerank` wrote."""
    # Files of older versions have no name: there was Mug alone.
    label = f"late interaction ({tables.get('name', 'mug')}"
    if (weight := float(tables.get("weight", 1))) < 1:
        label += f", weight {weight:g} beside the cosine"
    label += ") over "
    widths = [tables[key].shape[1] for key in tables if key.endswith("t2v-ids")]
    if widths:
        label += f"the first {max(widths)}"
        if len(embeddings.text_ids) != _one_a_video(embeddings):
            label += "; v2t is left out: several texts a video"
    else:
        label += "all pairs"
    label += _VARIANT_NOTES.get(variant, "")
    rescore = _of_candidates if widths else _of_all_pairs
    return name, label, embeddings, lambda scores: rescore(scores, tables, embeddings)


def _rows(scores: LanguageScores, embeddings: Embeddings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where texts and videos of ids.json are among the sorted ids of `scores` (-1: not); the texts of its language."""
    row_of_text = {text: row for row, text in enumerate(scores.text_ids)}
    row_of_video = {video: row for row, video in enumerate(scores.video_ids)}
    texts = np.asarray([row_of_text.get(text, -1) for text in embeddings.text_ids])
    videos = np.asarray([row_of_video[video] for video in embeddings.video_ids])
    return texts, videos, np.flatnonzero(np.asarray(embeddings.text_langs) == scores.lang)


def _of_all_pairs(scores: LanguageScores, tables: dict[str, np.ndarray], embeddings: Embeddings) -> Rescored:
    """Scores of all pairs as `rerank` wrote them. The table counts rows as ids.json does, `scores` counts sorted ids."""
    texts, videos, of_lang = _rows(scores, embeddings)
    table = tables[f"{scores.lang}-scores"]
    known = texts[of_lang] >= 0
    matrix = np.zeros((len(scores.text_ids), len(scores.video_ids)), table.dtype)
    matrix[np.ix_(texts[of_lang][known], videos)] = table[known]

    def rows(chosen: np.ndarray) -> np.ndarray:
        return np.round(matrix[chosen].astype(np.float64), SCORE_DIGITS)

    return Rescored(rows, rows)


def _of_candidates(scores: LanguageScores, tables: dict[str, np.ndarray], embeddings: Embeddings) -> Rescored:
    """Scores with the interaction's for the candidates. The tables count rows as ids.json does."""
    texts, videos, of_lang = _rows(scores, embeddings)

    def pairs(direction: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, values = (tables[f"{scores.lang}-{direction}-{what}"] for what in ("ids", "scores"))
        query = np.repeat(np.arange(len(rows)), rows.shape[1])
        if direction == "t2v":
            return texts[of_lang][query], videos[rows.ravel()], values.ravel()
        return texts[rows.ravel()], videos[query], values.ravel()

    v2t = None if scores.several_texts else lifted(scores.rows, *pairs("v2t"))
    return Rescored(lifted(scores.rows, *pairs("t2v")), v2t)


def _qb_norm(scores: LanguageScores, bank: Bank, embeddings: Embeddings, inverse_temperature: float) -> Rescored:
    of_lang = [row for row, lang in enumerate(bank.langs) if lang == scores.lang]
    if not of_lang:
        raise M2raapError(
            f"{bank.path}: holds no text in '{scores.lang}'; make a bank from a corpus that has texts in this language, too"
        )
    order = sorted(range(len(embeddings.video_ids)), key=lambda row: embeddings.video_ids[row])
    bank_BE, video_VE = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (bank.vectors_BE[of_lang].astype(np.float64), embeddings.video_VE[order].astype(np.float64))
    )
    return qb_norm(
        scores.rows,
        lambda rows: np.round(bank_BE[rows] @ video_VE.T, SCORE_DIGITS),
        len(bank_BE),
        len(video_VE),
        inverse_temperature,
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    import zipfile

    refuse_changed_file(path.parent, path.name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*NPY_ERRORS, zipfile.BadZipFile) as error:
        raise M2raapError(f"{path}: cannot be read as numpy arrays ({error}); run embed again with --force") from None


def write_ranks(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd", write_statistics=False)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_ranks(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of ranks. Raises M2raapError naming a file that is absent, differs from its manifest, or is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_changed_file(path.parent, path.name)
    try:
        return pq.read_table(path, use_threads=False).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def side_lines(folder: Path) -> list[str]:
    """Lines for the console about an evaluate folder besides its headline: agreement of the two languages,
    two-way accuracy, rescorings."""
    lines = []
    headline = read_results(folder)
    for row in headline["bilingual"]:
        gap, same = row["gaps"]["R@1"], row["spearman"]
        lines.append(
            f"en and zh, {row['direction']}, the same {row['clips']:,} clips: R@1 en minus zh {gap['diff']:+.1f} "
            f"({change_text(gap['lo'], gap['hi'])}, p {gap['p']:.3f}); rank correlation "
            f"{'none' if same is None else f'{same:.2f}'}; ranked first in both {row['both']:.0%}, only in en "
            f"{row['only_en']:.0%}, only in zh {row['only_zh']:.0%}"
        )
    others = other_results(folder)
    for name, tree in ({"": headline} | others).items():
        choices = [
            f"{row['lang']} {row['direction']} {row['accuracy']:.1f} ({bounds_text(row['interval'])}, n {row['n']:,})"
            for row in tree.get("two_way", [])
        ]
        if choices:
            what = f", {name}" if name else ""
            lines.append(f"two-way between a clip and its twin{what}, chance 50: {', '.join(choices)}")
    for tree in others.values():
        if "rescored" not in tree:
            continue
        numbers = [
            f"{row['lang']} {row['direction']} {row['metrics']['R@1']:.1f} ({bounds_text(row['intervals']['R@1'])})"
            for row in tree["rows"]
            if row["slice"] == "all"
        ]
        name, label = tree["rescored"]["name"], tree["rescored"]["label"]
        lines.append(f"not the headline, {name}: R@1 {', '.join(numbers)}; {label}")
    if headline.get("by_tag") == []:
        lines.append(f"no slices by tag: no tag has p >= {LEAST_P:g} in at least {LEAST_VIDEOS} videos of one language")
    if not headline["protocol"]["declared"]:
        lines.append(
            f"'{headline['protocol']['name']}' is an undeclared benchmark: the number of its videos and texts is not declared, "
            "and its results can be compared only with results on exactly the same list"
        )
    return lines


class EvaluateStage(SingleStage[EvaluateConfig]):
    """Rank and score an embedded benchmark, with intervals."""

    name = "evaluate"
    config = EvaluateConfig
    version = 6
    needs = ("embed",)
    on_training = False
    on_benchmarks = True

    def __init__(self, cfg: EvaluateConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared or Shared())
        self.protocol = ""

    def settings(self) -> dict[str, Any]:
        tags = {"tags": [read_manifest(folder)["digest"] for folder in self.cfg.tags]} if self.cfg.tags else {}
        return {"protocol": self.protocol, "seed": self.shared.seed, "rows": result_settings(self.cfg), **tags}

    def plan(self, step: StepInputs) -> Plan:
        self.protocol = step.view.corpus.benchmark or ""
        return plan_of(self.name, self.version, None, self.settings(), _inputs(step.parents[-1], None))

    def run(self, step: StepInputs) -> bool:
        self.run_on(step.parents[-1], step.view.corpus.benchmark or "", step.folder, step.force)
        return True

    def run_on(
        self, embedded: Path, protocol: str, folder: Path, force: bool = False, bank: Bank | None = None
    ) -> None:
        """Evaluates an embed folder under a benchmark's protocol; `bank`: training texts for QB-Norm."""
        self.protocol = protocol

        def work(target: Path) -> StageOutput:
            return evaluate_folder(embedded, protocol, self.shared.seed, target, self.cfg, bank)

        inputs = _inputs(embedded, bank)
        run_single_stage(self.name, self.version, self.settings(), folder, work, inputs=inputs, force=force)


def _inputs(embedded: Path, bank: Bank | None) -> dict[str, str]:
    """The entries of an embed folder and a bank in the `inputs` of a manifest."""
    return {"embed": read_manifest(embedded)["digest"]} | ({"bank": bank.digest} if bank else {})
