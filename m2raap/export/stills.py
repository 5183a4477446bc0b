"""Pictures with captions that were not trained on: how well an adapted model still matches single images with texts.

A table beside its pictures: csv or jsonl with `image` (a path below the table's folder) and `caption_en` and/or `caption_zh`.
A still goes through the whole model as a clip of one frame.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core import talk
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.core.files import open_without_links
from m2raap.export.measure import Measured
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.results import evaluate_embeddings
from m2raap.stages.embedder import encode_texts
from m2raap.video.limits import Refused
from m2raap.video.paths import resolve_video

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP

BATCH = 64


@dataclass(frozen=True)
class Stills:
    """A set of pictures with captions. `texts`: (index of the still in `paths`, language, caption)."""

    name: str
    paths: list[Path]
    texts: list[tuple[int, str, str]]


def read_stills(table: Path, langs: tuple[str, ...] = ("en", "zh")) -> Stills:
    """The stills of a table. Raises M2raapError naming table and row."""
    paths: list[Path] = []
    texts: list[tuple[int, str, str]] = []
    for number, row in enumerate(_rows(table), start=1):
        if not row.get("image"):
            raise M2raapError(f"{table}: row {number} has no 'image'; give a path below the folder of the table")
        try:
            path = resolve_video(table.parent.resolve(), str(row["image"]))
        except Refused as refused:
            raise M2raapError(f"{table}: row {number}: {row['image']}: {refused}") from None
        captions = [(lang, row.get(f"caption_{lang}")) for lang in langs]
        texts += [(len(paths), lang, str(text)) for lang, text in captions if text]
        paths.append(path)
    if not texts:
        raise M2raapError(f"{table}: no row has a caption_{' or caption_'.join(langs)}")
    return Stills(table.stem, paths, texts)


def _bytes(path: Path) -> bytes:
    try:
        with os.fdopen(open_without_links(path), "rb") as source:
            return source.read()
    except OSError as error:
        raise M2raapError(f"{path}: the picture cannot be read ({error.strerror}); check the file") from None


def measure_stills(stills: Stills, clip: VideoCLIP, gallery: int | None = None, seed: int = 0) -> Measured:
    """R@1 of the captions among the stills. `gallery`: rank among that many at a time (seeded); None: among all."""
    import torch

    from m2raap.models.batches import Batches
    from m2raap.models.images import images_from_jpegs

    images: list[np.ndarray] = []
    clip.to(device())

    def encoded(paths: list[Path]) -> np.ndarray:
        pictures = images_from_jpegs([_bytes(path) for path in paths], clip.backbone.preprocess)
        return clip.encode_video(pictures[:, None].to(clip.backbone.device)).float().cpu().numpy()

    with torch.inference_mode(), talk.progress("stills", len(stills.paths)) as advance:
        for vectors_BE in Batches(BATCH, "pictures")(encoded, stills.paths):
            images.append(vectors_BE)
            advance(len(vectors_BE))
        text_TE = encode_texts(clip, [text for _, _, text in stills.texts])
    image_VE = np.concatenate(images)
    rows, ranks = [], []
    for share in _groups(len(stills.paths), gallery, seed):
        measured = _evaluate(stills, image_VE, text_TE, share, seed)
        rows, ranks = measured.rows, ranks + measured.ranks
    if gallery:
        from m2raap.retrieval.arms import summarise

        rows = summarise([ranks], seed)
    return Measured(f"{stills.name}, {len(stills.paths):,} stills" + (f" by {gallery}" if gallery else ""), rows, ranks)


def _evaluate(stills: Stills, image_VE: np.ndarray, text_TE: np.ndarray, share: list[int], seed: int) -> Any:
    kept = set(share)
    texts = [place for place, (number, _, _) in enumerate(stills.texts) if number in kept]
    name = "{:07d}".format
    embeddings = Embeddings(
        video_VE=image_VE[share],
        text_TE=text_TE[texts],
        video_ids=[name(number) for number in share],
        text_ids=[f"{name(stills.texts[place][0])}.{stills.texts[place][1]}" for place in texts],
        text_video_ids=[name(stills.texts[place][0]) for place in texts],
        text_langs=[stills.texts[place][1] for place in texts],
    )
    return evaluate_embeddings(embeddings, seed)


def _groups(num: int, gallery: int | None, seed: int) -> list[list[int]]:
    """All stills, or random groups of `gallery` stills; stills that fill no group are left out."""
    if gallery is None:
        return [list(range(num))]
    if not 2 <= gallery <= num:
        raise M2raapError(f"--gallery {gallery}: give a number from 2 to {num}, the number of stills")
    order = np.random.default_rng([seed, 77]).permutation(num)
    return [sorted(int(i) for i in order[at : at + gallery]) for at in range(0, num - gallery + 1, gallery)]


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise M2raapError(f"{table}: cannot be read ({error})") from None
    if table.suffix == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise M2raapError(f"{table}: cannot be read as csv ({error})") from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # a caption may hold other separators, such as U+2028
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise M2raapError(f"{table}: row {number} is not JSON ({error}); give .jsonl or .csv") from None
        if not isinstance(rows[-1], dict):
            raise M2raapError(f"{table}: row {number} is not an object with the keys image, caption_en, caption_zh")
    return rows
