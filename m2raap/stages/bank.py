"""A bank of training texts for QB-Norm: their embeddings, and what shows that no test text is among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.engine import torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_json
from m2raap.core.tables import Row
from m2raap.core.view import View
from m2raap.core.whole import Made
from m2raap.curate.columns import TextBatch
from m2raap.curate.text_copies import text_keys
from m2raap.models.config import BackboneConfig
from m2raap.stages.embed import encode_texts, load_model, write_npy

IDS, VECTORS = "bank.json", "bank.npy"


@dataclass(frozen=True)
class Bank:
    """Unit vectors (B, E) of training texts. `digest` names the folder's content."""

    path: Path
    digest: str
    model: str
    texts: list[str]
    langs: list[str]
    vectors_BE: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Bank:
        """Raises M2raapError where no finished bank is."""
        if not (path / "manifest.json").exists() or not (path / IDS).exists():
            raise M2raapError(f"{path}: holds no bank; make one with 'm2raap bank TRAIN_CORPUS --out {path.name}'")
        tree, manifest = read_json(path / IDS), read_json(path / "manifest.json")
        vectors = np.load(path / VECTORS, allow_pickle=False)
        return cls(path, manifest["digest"], manifest["models"]["model"], tree["texts"], tree["langs"], vectors)

    def check(self, texts: list[str], langs: list[str], model: str) -> None:
        """Raises M2raapError where the bank is another model's, or a query stands in it."""
        if model != self.model:
            raise M2raapError(
                f"{self.path}: these vectors are of model {self.model[:12]}, the embeddings of {model[:12]}; make a bank with "
                "the same --model"
            )
        queries = {key: text for key, text in zip(_keys(texts, langs), texts, strict=True)}
        shared = [queries[key] for key in _keys(self.texts, self.langs) if key in queries]
        if shared:
            raise M2raapError(
                f"{self.path}: {len(shared):,} of its texts are queries of this benchmark, first '{shared[0][:80]}'; a bank "
                "comes from training texts only: make it with 'm2raap bank TRAIN_CORPUS --without BENCHMARK'"
            )


def make_bank(view: View, without: list[View], model: Path | BackboneConfig, folder: Path) -> Made:
    """Embeds the distinct texts of the training split that stand in none of the corpora `without`.

    Raises M2raapError for a benchmark, or where no text is left.
    """
    import torch

    if view.is_benchmark:
        raise M2raapError(
            f"{view.corpus_path}: is the benchmark '{view.corpus.benchmark}'; a bank comes from training texts"
        )
    torch.set_num_threads(torch_threads())
    clip = load_model(model)
    rows = [row for part in view.parts() for row in _training_texts(part.clips, part.texts)]
    refused = {key for other in without for part in other.parts() for key in _keys(*_columns(part.texts))}
    kept: dict[tuple[int, str], Row] = {}
    for key, row in zip(_keys(*_columns(rows)), rows, strict=True):
        if key not in refused:
            kept.setdefault(key, row)
    texts, langs = _columns(list(kept.values()))
    if not texts:
        raise M2raapError(f"{view.corpus_path}: no training text is left for a bank ({len(rows):,} stand in --without)")
    with torch.inference_mode():
        write_npy(folder / VECTORS, encode_texts(clip, texts))
    write_json(folder / IDS, {"texts": texts, "langs": langs, "corpus": view.digest})
    return Made([VECTORS, IDS], {"texts": len(texts), "left_out": len(rows) - len(texts)}, {"model": clip.digest})


def _training_texts(clips: list[Row], texts: list[Row]) -> list[Row]:
    train = {row["clip_id"] for row in clips if row["split"] == "train"}
    return [row for row in texts if row["clip_id"] in train and row["origin"] != "aux"]


def _columns(rows: list[Row]) -> tuple[list[str], list[str]]:
    return [row["text"] for row in rows], [row["lang"] for row in rows]


def _keys(texts: list[str], langs: list[str]) -> list[tuple[int, str]]:
    """What makes texts the same: their words, whatever the case and punctuation."""
    found: list[Any] = [None] * len(texts)
    for lang in sorted(set(langs)):
        rows = [i for i, one in enumerate(langs) if one == lang]
        for row, key in zip(rows, text_keys(TextBatch([texts[i] for i in rows], lang)).tolist(), strict=True):
            found[row] = (key, lang)
    return found
