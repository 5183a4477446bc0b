"""evaluate: embeddings -> ranks and metrics with intervals. Numpy only: embedded once, scored as often as you like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_atomic, write_json
from m2raap.core.whole import Made
from m2raap.retrieval.benchmarks import BENCHMARKS, check_counts
from m2raap.retrieval.evaluate import Results, evaluate


def evaluate_folder(embedded: Path, protocol: str, seed: int, folder: Path) -> Made:
    """Writes results.json and ranks.parquet; one of each again for every probe that `embed` made."""
    ids = read_json(embedded / "ids.json")
    if protocol in BENCHMARKS:
        for lang in sorted(set(ids["text_langs"])):
            num_videos = len(ids["video_ids"]) + len(ids["missing"])
            check_counts(BENCHMARKS[protocol], num_videos, ids["text_langs"].count(lang))
    files = []
    for path in sorted(embedded.glob("video*.npy")):
        probe = path.stem.removeprefix("video").removeprefix("-")
        found = _evaluate(path, embedded / "text.npy", ids, seed)
        suffix = f"-{probe}" if probe else ""
        write_json(folder / f"results{suffix}.json", {"protocol": protocol, "probe": probe or None} | found.to_dict())
        write_ranks(folder / f"ranks{suffix}.parquet", found.ranks)
        files += [f"results{suffix}.json", f"ranks{suffix}.parquet"]
    return Made(
        files, {"queries": len(ids["text_ids"]), "videos": len(ids["video_ids"]), "missing": len(ids["missing"])}
    )


def _evaluate(video: Path, text: Path, ids: dict[str, Any], seed: int) -> Results:
    return evaluate(
        _read_npy(video), ids["video_ids"], _read_npy(text), ids["text_ids"], ids["text_video_ids"], ids["text_langs"],
        ids["categories"], ids["missing"], seed,
    )  # fmt: skip


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise M2raapError(f"{path}: cannot be read as a numpy array ({error}); embed again") from None


def write_ranks(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd", write_statistics=False)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_ranks(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path, use_threads=False).to_pylist()
