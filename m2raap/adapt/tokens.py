"""Token ids of all texts of a source: made once, kept in a file, and mapped into the memory of every process that trains.

N texts, L text tokens.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from m2raap.core.engine import LocalEngine, available_cores
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, open_atomic, write_json
from m2raap.core.records import Count, read_record
from m2raap.core.signed import NPY_ERRORS
from m2raap.core.strings import Strings

CHUNK = 4096
SPREAD_FROM = 50_000  # texts; for fewer the processes would take longer to start than to tokenise


class Tokenizes(Protocol):
    """m2raap.models.tokenizer.Tokenizer, or what does the same."""

    @property
    def can_shorten(self) -> bool: ...
    def tokenize_counted(self, texts: Sequence[str], text_length: int | None = None) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class Tokens:
    """`ids_NL`: int32, with as many columns as the longest text has. `num_truncated`: number of texts that were cut."""

    ids_NL: np.ndarray
    num_truncated: int

    def rows(self, rows: np.ndarray) -> Tensor:
        """Token ids (*rows.shape, L) of these texts."""
        return torch.from_numpy(self.ids_NL[rows].astype(np.int64))


class TokenStore:
    """The folder in which the tokens of a run are kept; `digest` names the data and the tokenizer.

    `first`: calls a function in the main process, then in the others, which find the files.
    """

    def __init__(self, folder: Path, digest: str, first: Callable[[Callable[[], Tokens]], Tokens]) -> None:
        self.folder, self.digest, self._first = folder, digest, first
        self.seconds = 0.0  # that tokenising has taken
        self._whole: set[Path] = set()  # files that were compared with their digest, or written here

    def tokens(self, name: str, tokenizer: Tokenizes, texts: Strings, text_length: int | None) -> Tokens:
        """The tokens of the texts, from the file of this name where it has them already."""
        return self.kept(name, text_length, lambda: tokenised(tokenizer, texts, text_length))

    def kept(self, name: str, text_length: int | None, make: Callable[[], Tokens]) -> Tokens:
        """What `make` makes in the main process, or has made for a run of the same data, tokenizer and length."""
        return self._first(lambda: self._kept(name, text_length, make))

    def _kept(self, name: str, text_length: int | None, make: Callable[[], Tokens]) -> Tokens:
        array, state = self.folder / f"{name}.npy", self.folder / f"{name}.json"
        try:
            record = read_record(_State, state) if state.exists() else None
            same = record and record["digest"] == self.digest and record["text_length"] == (text_length or 0)
            if record and same and self._is_whole(array, record["sha256"]):
                return Tokens(np.load(array, mmap_mode="r", allow_pickle=False), record["num_truncated"])
        except (M2raapError, *NPY_ERRORS):  # damaged: it is made again
            pass
        started = time.perf_counter()
        tokens = make()
        self.seconds += time.perf_counter() - started
        self.folder.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
        with open_atomic(array) as sink:
            np.lib.format.write_array(sink, tokens.ids_NL, allow_pickle=False)
        sha256 = file_sha256(array)
        self._whole.add(array)
        write_json(
            state,
            _State(digest=self.digest, text_length=text_length or 0, num_truncated=tokens.num_truncated, sha256=sha256),
        )
        return Tokens(np.load(array, mmap_mode="r", allow_pickle=False), tokens.num_truncated)

    def _is_whole(self, array: Path, sha256: str) -> bool:
        if array not in self._whole and file_sha256(array) == sha256:
            self._whole.add(array)
        return array in self._whole


def tokens_of(
    tokenizer: Tokenizes, texts: Strings, text_length: int | None, store: TokenStore | None, name: str
) -> Tokens:
    """The tokens of texts: kept by `store` under `name`; None: in memory."""
    return store.tokens(name, tokenizer, texts, text_length) if store else tokenised(tokenizer, texts, text_length)


class _State(TypedDict):
    digest: str
    text_length: Count
    num_truncated: Count
    sha256: str  # of the array's file


def tokenised(tokenizer: Tokenizes, texts: Strings, text_length: int | None = None) -> Tokens:
    """The tokens of texts, by several processes where there are many texts.

    All texts of a source have the same length L, so that a vector never depends on its batch. `text_length`: number of tokens to
    which texts are cut; None: the model's own.
    """
    chunks = [texts.between(start, min(start + CHUNK, len(texts))) for start in range(0, len(texts), CHUNK)]
    tasks = [(tokenizer, chunk, text_length) for chunk in chunks]
    if len(texts) >= SPREAD_FROM and available_cores() > 1 and _can_be_sent(tokenizer):
        engine = LocalEngine(available_cores())
        try:
            parts = dict(engine.map(_tokenise, tasks))
        finally:
            engine.close()
    else:
        parts = dict(enumerate(map(_tokenise, tasks)))
    if not chunks:
        return Tokens(np.zeros((0, 1), np.int32), 0)
    ids_NL = np.concatenate([parts[number][0] for number in range(len(chunks))])
    if tokenizer.can_shorten:  # the end token has the largest id
        ids_NL = ids_NL[:, : int(ids_NL.argmax(1).max()) + 1]
    return Tokens(ids_NL, sum(num_cut for _, num_cut in parts.values()))


def _can_be_sent(tokenizer: Tokenizes) -> bool:
    """Whether the tokenizer can be sent to other processes, which its library decides."""
    try:
        return bool(pickle.dumps(tokenizer))
    except Exception:  # whatever a foreign class raises
        return False


def _tokenise(task: tuple[Tokenizes, Sequence[str], int | None]) -> tuple[np.ndarray, int]:
    tokenizer, texts, text_length = task
    ids_BL, num_cut = tokenizer.tokenize_counted(texts, text_length)
    return ids_BL.numpy().astype(np.int32), num_cut
