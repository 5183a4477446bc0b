"""A bank of training texts for QB-Norm: their embeddings, and the names that prove that no text or video of the test is in it.

A text is identified by its words, a video by its clip's id, its name in the imported list, and its stored frames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from m2raap.core.engine import torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object, write_json
from m2raap.core.records import as_record
from m2raap.core.signed import refuse_changed_file, stage_manifest
from m2raap.core.tables import Text
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.curate.columns import TextBatch
from m2raap.curate.text_copies import text_keys
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.embeddings import Embeddings, read_npy, write_npy
from m2raap.stages.embedder import Embedder, embedder, model_input
from m2raap.stages.protocol import frames_digest

IDS, VECTORS = "bank.json", "bank.npy"
_HOW = "a bank is made from training data only; 'm2raap evaluate EMBEDDED --bank TRAIN_CORPUS' leaves the benchmark out"


@dataclass(frozen=True)
class ClipIdentity:
    """A clip's id, its video's name in the imported list (None: unknown), and the digest of its frames (None: not stored)."""

    clip_id: str
    video: str | None
    frames: str | None

    def names(self) -> list[tuple[str, str]]:
        """(kind, name) of everything that identifies the clip. Two clips with a common name count as the same video."""
        known = (("clip", self.clip_id), ("video", self.video), ("frames", self.frames))
        return [(what, name) for what, name in known if name is not None]


class _BankJson(TypedDict):
    """bank.json; `frames`: None where no frames are stored."""

    texts: list[str]
    langs: list[str]
    clip_ids: list[str]
    videos: list[str | None]
    frames: list[str | None]


@dataclass(frozen=True)
class Bank:
    """Unit vectors (B, E) of training texts, and the clips of these texts. `digest`: of the folder's content."""

    path: Path
    digest: str
    model: str
    texts: list[str]
    langs: list[str]
    clips: list[ClipIdentity]
    vectors_BE: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Bank:
        """Reads a bank folder. Raises M2raapError where it is unfinished, or an older one that does not list its videos."""
        if not (path / "manifest.json").exists() or not (path / IDS).exists():
            raise M2raapError(f"{path}: holds no bank; 'm2raap evaluate EMBEDDED --bank TRAIN_CORPUS' makes one")
        manifest = stage_manifest(path)
        files = [refuse_changed_file(path, name) for name in (IDS, VECTORS)]
        tree = read_object(files[0])
        if lacking := sorted({"clip_ids", "videos", "frames", "texts", "langs"} - set(tree)):
            raise M2raapError(
                f"{path / IDS}: lacks '{lacking[0]}'; make the bank again: 'm2raap evaluate' with --bank TRAIN_CORPUS --force"
            )
        rows = as_record(_BankJson, tree, path / IDS)
        vectors_BE = read_npy(files[1])
        num_clips, num_texts = len(rows["clip_ids"]), len(rows["texts"])
        if {len(rows["videos"]), len(rows["frames"])} != {num_clips} or len(rows["langs"]) != num_texts:
            raise M2raapError(f"{path / IDS}: its lists are of different lengths; make the bank again with --force")
        if vectors_BE.ndim != 2 or len(vectors_BE) != num_texts or "model" not in manifest["models"]:
            raise M2raapError(
                f"{path}: holds no vector for each of its {num_texts} texts; make the bank again with --force"
            )
        clips = [ClipIdentity(*row) for row in zip(rows["clip_ids"], rows["videos"], rows["frames"], strict=True)]
        model = manifest["models"]["model"]
        return cls(path, manifest["digest"], model, rows["texts"], rows["langs"], clips, vectors_BE)

    def check(self, embeddings: Embeddings, videos: Mapping[str, str]) -> None:
        """Checks the bank against a benchmark. `embeddings`: of the benchmark; `videos`: clip_id -> name of the video in the
        imported list, where known.

        Raises M2raapError where another model made the bank, or where it holds a query or a video of the benchmark.
        """
        model = embeddings.made_with.model
        if model != self.model:
            raise M2raapError(
                f"{self.path}: its vectors are of model {self.model[:12]}, but the embeddings are of {model[:12]}; make a bank "
                "with the same --model"
            )
        texts, langs = list(embeddings.texts), list(embeddings.text_langs)
        queries = dict(zip(_keys(texts, langs), texts, strict=True))
        shared = [queries[key] for key in _keys(self.texts, self.langs) if key in queries]
        if shared:
            raise M2raapError(
                f"{self.path}: {len(shared):,} of its texts are queries of this benchmark, such as '{shared[0][:80]}'; {_HOW}"
            )
        frames = dict(zip(embeddings.video_ids, embeddings.video_frames, strict=True))
        listed = [ClipIdentity(i, videos.get(i), frames.get(i)) for i in (*embeddings.video_ids, *embeddings.missing)]
        if twins := _shared(self.clips, _names(listed)):
            first, (what, name) = twins[0]
            raise M2raapError(
                f"{self.path}: {len(twins):,} of its {len(self.clips):,} clips show videos of this benchmark, such as "
                f"'{first.clip_id}' (the same {what}: '{name[:80]}'); {_HOW}"
            )


def make_bank(
    view: View,
    without: list[View],
    model: Path | BackboneConfig | Embedder,
    folder: Path,
    text_length: int | None = None,
) -> StageOutput:
    """Embeds the distinct texts of the training split whose words and videos are in none of the corpora `without`.

    `text_length`: number of tokens to which texts are cut, as for the benchmark's; None: the model's own. Raises
    M2raapError where `view` is a benchmark, or no text is left.
    """
    import torch

    if view.is_benchmark:
        raise M2raapError(f"{view.corpus_path}: is the benchmark '{view.corpus.benchmark}'; give a training corpus")
    torch.set_num_threads(torch_threads())
    loaded = embedder(model, text_length)
    clips, rows = _of_view(view, training=True)
    refused_clips: set[tuple[str, str]] = set()
    refused: set[tuple[int, str]] = set()
    for other in without:
        others, texts_of_others = _of_view(other, training=False)
        refused_clips |= _names(others.values())
        refused |= set(_keys(*_columns(texts_of_others)))
    leaked = {clip.clip_id for clip, _ in _shared(clips.values(), refused_clips)}
    kept: dict[tuple[int, str], Text] = {}
    clip_ids: set[str] = set()
    for key, row in zip(_keys(*_columns(rows)), rows, strict=True):
        if key not in refused and row["clip_id"] not in leaked:
            kept.setdefault(key, row)
            clip_ids.add(row["clip_id"])
    texts, langs = _columns(list(kept.values()))
    if not texts:
        raise M2raapError(
            f"{view.corpus_path}: no training text is left for a bank (all {len(rows):,} are in --without)"
        )
    write_npy(folder / VECTORS, loaded.texts(texts))
    of_bank = [clips[clip_id] for clip_id in sorted(clip_ids)]
    columns = {"clip_ids": "clip_id", "videos": "video", "frames": "frames"}
    seen = {column: [getattr(clip, name) for clip in of_bank] for column, name in columns.items()}
    write_json(folder / IDS, {"texts": texts, "langs": langs, **seen, "corpus": view.digest})
    counts = {"texts": len(texts), "clips": len(of_bank), "left_out": len(rows) - len(texts)}
    return StageOutput([VECTORS, IDS], counts, {"model": loaded.digest})


def _of_view(view: View, training: bool) -> tuple[dict[str, ClipIdentity], list[Text]]:
    """The clips and the texts of the corpus; with `training` those of the training split, without auxiliary captions."""
    clips: dict[str, ClipIdentity] = {}
    texts: list[Text] = []
    for part in view.parts(("texts", "jpegs")):
        for row in part.clips:
            if training and row["split"] != "train":
                continue
            frames = part.frames.get(row["clip_id"])
            digest = frames_digest(frames["jpegs"]) if frames else None
            clips[row["clip_id"]] = ClipIdentity(row["clip_id"], row["video"], digest)
        texts += [row for row in part.texts if not training or (row["clip_id"] in clips and row["origin"] != "aux")]
    return clips, texts


def _names(clips: Iterable[ClipIdentity]) -> set[tuple[str, str]]:
    return {name for clip in clips for name in clip.names()}


def _shared(
    clips: Iterable[ClipIdentity], names: Collection[tuple[str, str]]
) -> list[tuple[ClipIdentity, tuple[str, str]]]:
    """The clips that have one of `names`, each with the first of its names that matches."""
    matches = ((clip, next((name for name in clip.names() if name in names), None)) for clip in clips)
    return [(clip, name) for clip, name in matches if name]


def _columns(rows: list[Text]) -> tuple[list[str], list[str]]:
    return [row["text"] for row in rows], [row["lang"] for row in rows]


def _keys(texts: list[str], langs: list[str]) -> list[tuple[int, str]]:
    """A key for each text; texts with the same words in one language, whatever case and punctuation, have equal keys."""
    keys: list[Any] = [None] * len(texts)
    for lang in sorted(set(langs)):
        rows = [i for i, text_lang in enumerate(langs) if text_lang == lang]
        for row, key in zip(rows, text_keys(TextBatch([texts[i] for i in rows], lang)).tolist(), strict=True):
            keys[row] = (key, lang)
    return keys


def run_bank(
    view: View,
    without: list[View],
    model: Path | BackboneConfig | Embedder,
    folder: Path,
    force: bool,
    text_length: int | None = None,
) -> None:
    """Makes a bank in `folder`; what `make_bank` says."""

    def work(target: Path) -> StageOutput:
        return make_bank(view, without, model, target, text_length)

    inputs = model_input(model) | {f"without{i}": other.digest for i, other in enumerate(without)}
    settings = {} if text_length is None else {"text_length": text_length}
    run_single_stage("bank", 2, settings, folder, work, view=view, inputs=inputs, force=force)
