"""The protocol of a result: everything that it depends on, by digests. Two results can be compared where their protocols agree.

`embed` knows the frames and the model, `evaluate` the lists; results.json holds the protocol under the key `protocol`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from m2raap.core.config import canonical, digest
from m2raap.core.signed import read_manifest
from m2raap.core.view import View
from m2raap.retrieval.benchmarks import Benchmark
from m2raap.retrieval.embeddings import Embeddings
from m2raap.stages.keyframes import KeyframesStage

if TYPE_CHECKING:
    from m2raap.models.backbone import Preprocess

# Fields that must agree before two results are compared, in the order in which differences are reported.
MUST_AGREE = ("name", "ids", "texts", "frames", "missing", "pictures")
# Fields that may differ, because they are what a comparison is about.
SHOWN = ("preprocess", "model")
_NOT_THE_FRAMES = ("decode", "remote", "jpeg_quality")


def frames_digest(jpegs: Iterable[bytes]) -> str:
    """The digest of the key-frames of one clip, in their order."""
    hasher = hashlib.blake2b(digest_size=16)
    for jpeg in jpegs:
        hasher.update(len(jpeg).to_bytes(8, "big") + jpeg)
    return hasher.hexdigest()


def describe_frames(view: View, num_frames: int | None, captions: bool) -> str:
    """How the frames of the benchmark were chosen, in words and with the digest of all settings."""
    settings: dict[str, Any] = {}
    for folder in view.folders:
        manifest = read_manifest(folder)
        if manifest["stage"] == KeyframesStage.name:
            settings = {k: v for k, v in manifest["settings"]["score"].items() if k not in _NOT_THE_FRAMES}
    if not settings:
        return "unknown"
    subset = f", {num_frames} of them" if num_frames else ""
    words = f"{settings['strategy']}-{settings['k']}{subset}, short side {settings['short_side_px']} px"
    return f"{words}{', with auxiliary captions' if captions else ''} ({digest(settings)[:12]})"


def describe_preprocess(preprocess: Preprocess) -> str:
    fields = asdict(preprocess)
    return f"{fields['image_size']} px, {fields['resize_mode']}, {fields['interpolation']} ({digest(fields)[:12]})"


def protocol_of(embeddings: Embeddings, name: str, benchmark: Benchmark | None) -> dict[str, Any]:
    """The protocol of a result on these embeddings. `name`: of the benchmark; `benchmark`: None for an undeclared one."""
    columns = (embeddings.text_ids, embeddings.text_video_ids, embeddings.text_langs, embeddings.texts)
    texts = sorted(zip(*columns, strict=True))
    videos = sorted([*embeddings.video_ids, *embeddings.missing])
    return {
        "name": name,
        "ids": digest([videos, [row[:3] for row in texts]]),
        "texts": digest([row[3] for row in texts]),
        "missing": digest(sorted(embeddings.missing)),
        "pictures": digest(sorted(zip(embeddings.video_ids, embeddings.video_frames, strict=True))),
        **asdict(embeddings.made_with),
        "declared": benchmark is not None,
        "benchmark": benchmark.model_dump(mode="json") if benchmark else None,
    }


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The fields of MUST_AGREE in which two protocols differ."""
    return [name for name in MUST_AGREE if canonical(a[name]) != canonical(b[name])]


def describe_difference(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """How two protocols differ in a field, in words; a digest is shown by its first characters."""
    return f"{name}: {_short(a[name])} and {_short(b[name])}"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 32 and " " not in text else text
