"""A faiss index over clip vectors: exact, HNSW, IVF or compressed, chosen by the number of clips; scores are always exact.

faiss proposes rows, the score of a hit is the inner product with the stored vector, so that a clip has the same
score in every kind. Building takes one thread and fixed seeds: the same vectors make the same bytes on all machines of one kind.
Q queries, N clips, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256

Kind = Literal["flat", "hnsw", "ivf", "pq"]
KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivf", "pq")
# bench/search.py: an exact scan of 100,000 clips of 512-d takes about 25 ms; HNSW takes 2.3 kB of memory a clip, pq 80 bytes.
FLAT_MOST, HNSW_MOST = 200_000, 2_000_000
HNSW_LINKS, HNSW_EF_BUILD, HNSW_EF = 32, 80, 128
TRAIN_A_LIST = TRAIN_A_CODE = 40  # vectors that k-means sees for each list, and each of the 256 entries of a code book
PQ_LEAST = 256  # number of entries of an 8-bit code book
PQ_CANDIDATES = 200  # smallest number of candidates that are scored exactly
SCAN_MOST = 50_000  # a filtered search among so many clips or fewer scores all of them
_BLOCK = 65_536

Floats = NDArray[np.float32]


def _faiss() -> Any:
    """faiss, imported late because that is slow; Any, because its type stubs are incomplete."""
    import faiss

    return faiss


def choose_kind(num: int) -> Kind:
    """The kind for a number of clips: exact while a scan is quick, then HNSW while it fits into memory, then compressed."""
    return "flat" if num <= FLAT_MOST else "hnsw" if num <= HNSW_MOST else "pq"


def num_lists(num: int) -> int:
    """Number of lists of an inverted file: 4 sqrt(N), or fewer, so that each list has 40 vectors to be trained on."""
    return max(1, min(round(4 * num**0.5), num // TRAIN_A_LIST))


def num_probes(num: int) -> int:
    """Number of lists that a query searches."""
    return max(8, num_lists(num) // 64)


def code_bytes(dim: int) -> int:
    """Bytes of a vector in the compressed index: the largest divisor of E that is at most E / 8."""
    return next(size for size in range(max(1, dim // 8), 0, -1) if dim % size == 0)


def build_index(vectors_NE: Floats, kind: Kind) -> Any:
    """The faiss index of unit vectors (an array, or one mapped from disk). Raises M2raapError for too few vectors for `pq`."""
    faiss = _faiss()
    num, dim = vectors_NE.shape
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "pq" and num < PQ_LEAST:
        raise M2raapError(
            f"--kind pq: a compressed index needs at least {PQ_LEAST} clips to learn its codes, not {num}; give --kind flat"
        )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        if kind == "flat":
            index = faiss.IndexFlatIP(dim)
            _reserve(index, num * dim * 4)
        elif kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, HNSW_LINKS, metric)
            index.hnsw.efConstruction = HNSW_EF_BUILD
            _reserve(faiss.downcast_index(index.storage), num * dim * 4)
        else:
            suffix = "Flat" if kind == "ivf" else f"PQ{code_bytes(dim)}x8"
            index = faiss.index_factory(dim, f"IVF{num_lists(num)},{suffix}", metric)
            if kind == "pq":
                index.do_polysemous_training = (
                    False  # it serves Hamming search, which is not used, and takes most of the training time
                )
                index.pq.cp.min_points_per_centroid = 1  # no warning of faiss: PQ_LEAST is the limit
            index.train(_sample(vectors_NE, max(TRAIN_A_CODE * 256, TRAIN_A_LIST * num_lists(num))))
        for start in range(0, num, _BLOCK):
            index.add(np.ascontiguousarray(vectors_NE[start : start + _BLOCK]))
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _reserve(storage: Any, num_bytes: int) -> None:
    """Gives a flat index its memory at once: where it grows, its vectors are for a moment in memory twice."""
    storage.codes.resize(num_bytes)
    storage.codes.resize(0)  # the memory stays


def _sample(vectors_NE: Floats, most: int) -> Floats:
    """At most `most` rows to train on, drawn with a fixed seed, in their order."""
    if len(vectors_NE) <= most:
        return np.ascontiguousarray(vectors_NE)
    return vectors_NE[
        np.sort(np.random.default_rng([len(vectors_NE), 17]).choice(len(vectors_NE), most, replace=False))
    ]


def write_index(index: Any, path: Path) -> str:
    """Writes the index to `path` and returns its SHA-256, which :meth:`VectorIndex.open` asks for."""
    faiss = _faiss()
    faiss.write_index(index, str(path))
    return file_sha256(path)


@dataclass(frozen=True)
class VectorIndex:
    """Searches `vectors_NE` (mapped from disk) with its faiss index. Several threads may search at once."""

    kind: Kind
    vectors_NE: Floats
    index: Any

    @classmethod
    def open(cls, path: Path, digest: str, kind: Kind, vectors_NE: Floats) -> VectorIndex:
        """The index in a file. Raises M2raapError where its SHA-256 is not `digest`: faiss does not check what it reads."""
        faiss = _faiss()
        if not path.is_file() or file_sha256(path) != digest:
            raise M2raapError(
                f"{path}: its digest is not the one in the manifest of the index, so it is not opened; make the index again"
            )
        try:
            # Mapped as the vectors are: the system reads the pages that queries touch, and may drop them again.
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as error:
            raise M2raapError(f"{path}: faiss cannot read it ({str(error)[:200]}); make the index again") from None
        if (index.ntotal, index.d) != vectors_NE.shape:
            raise M2raapError(
                f"{path}: holds {index.ntotal} vectors of size {index.d}, but the array of vectors has shape {vectors_NE.shape}; "
                "make the index again"
            )
        return cls(kind, vectors_NE, index)

    def search(
        self, queries_QE: Floats, top: int, allowed_N: NDArray[np.bool_] | None = None, *, exact: bool = False
    ) -> tuple[NDArray[np.int64], Floats]:
        """Rows (Q, K) and scores (Q, K) of the best K = min(top, clips allowed), best first, equal scores by row.

        An approximate kind may give fewer: the last rows are then -1 and the last scores -inf. `exact`: all allowed clips are
        scored, however many they are and whatever the kind.
        """
        queries_QE = np.ascontiguousarray(queries_QE, np.float32)
        num = len(self.vectors_NE) if allowed_N is None else int(allowed_N.sum())
        top = min(top, num)
        if top == 0:
            return np.zeros((len(queries_QE), 0), np.int64), np.zeros((len(queries_QE), 0), np.float32)
        if allowed_N is not None and (exact or num <= SCAN_MOST or self.kind == "flat"):
            return self._scan(queries_QE, top, np.flatnonzero(allowed_N))
        num_candidates = min(num, max(PQ_CANDIDATES, 20 * top)) if self.kind == "pq" else top
        params, _held = self._parameters(num_candidates, allowed_N)
        _, rows_QC = self.index.search(queries_QE, num_candidates, params=params)
        return self._ranked(queries_QE, rows_QC, top)

    def _parameters(self, num_candidates: int, allowed_N: NDArray[np.bool_] | None) -> tuple[Any, Any]:
        """faiss search parameters, and the objects that must be kept alive as long as they are used."""
        faiss = _faiss()
        bits = None if allowed_N is None else np.packbits(allowed_N, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        if self.kind == "flat":
            return None, None
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW()
            params.efSearch = max(HNSW_EF, 2 * num_candidates) * (1 if selector is None else 2)
        else:
            params = faiss.SearchParametersIVF()
            params.nprobe = num_probes(len(self.vectors_NE))
        if selector is not None:
            params.sel = selector
        return params, (bits, selector)

    def _scan(self, queries_QE: Floats, top: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
        """The best of `rows`, all of which are scored, block by block."""
        best = np.zeros((len(queries_QE), 0), np.int64)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            both = np.concatenate([best, np.tile(block, (len(queries_QE), 1))], axis=1)
            best, _ = self._ranked(queries_QE, both, top)
        return self._ranked(queries_QE, best, top)

    def _ranked(self, queries_QE: Floats, rows_QC: NDArray[np.int64], top: int) -> tuple[NDArray[np.int64], Floats]:
        """The best `top` of the candidates by their exact scores."""
        best_rows = np.full((len(queries_QE), top), -1, np.int64)
        best_scores = np.full((len(queries_QE), top), -np.inf, np.float32)
        for query, rows_C in enumerate(rows_QC):
            rows_C = np.sort(rows_C[rows_C >= 0])
            # A product for each row by itself: the score of a clip must not depend on how many candidates there are.
            scores_C = np.einsum("ce,e->c", self.vectors_NE[rows_C], queries_QE[query]).astype(np.float32)
            order = np.argsort(-scores_C, kind="stable")[:top]
            best_rows[query, : len(order)] = rows_C[order]
            best_scores[query, : len(order)] = scores_C[order]
        return best_rows, best_scores
