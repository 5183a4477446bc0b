"""Evaluates any model on a benchmark with one call: the stages keyframes, embed and evaluate behind one function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from m2raap.core.config import build
from m2raap.core.corpus import LANGS
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.runner import run_data_stage
from m2raap.core.signed import read_manifest
from m2raap.core.view import View, open_view
from m2raap.interop.external import ExternalModel
from m2raap.interop.mteb import MtebEmbedder, is_encoder
from m2raap.interop.sentence_transformers import SentenceTransformerEmbedder, is_sentence_transformer
from m2raap.models.config import BackboneConfig
from m2raap.models.video_clip import VideoCLIP
from m2raap.retrieval.benchmarks import asked_for
from m2raap.retrieval.config import EvaluateConfig
from m2raap.retrieval.results_file import other_results, read_results
from m2raap.stages.bank import IDS, Bank, run_bank
from m2raap.stages.embed import EmbedConfig, EmbedStage
from m2raap.stages.embedder import Embedder, embedder, model_folder
from m2raap.stages.evaluate import EvaluateStage
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.stages.shared import Shared


def evaluate(
    model: Any,
    corpus: str | Path,
    *,
    preprocess: Callable[..., Any] | None = None,
    tokenizer: Callable[..., Any] | None = None,
    name: str | None = None,
    langs: tuple[str, ...] = LANGS,
    num_frames: int | None = None,
    keyframes: Mapping[str, Any] | None = None,
    protocol: str | None = None,
    evaluate: EvaluateConfig | Mapping[str, Any] | None = None,
    bank: str | Path | None = None,
    seed: int = 0,
    workers: int = 1,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Returns the content of `results.json`: metrics and intervals by language and direction, protocol, missing videos.

    `model`: a model folder of m2raap, a VideoCLIP, a BackboneConfig, an mteb encoder, a SentenceTransformer (or with
    instructions a SentenceTransformerEmbedder), or any object with `encode_text` and `encode_video` or `encode_image` (see
    ExternalModel for their inputs). `corpus`: a benchmark, or the folder of its
    key-frames; of a benchmark the key-frames are made first, with `keyframes` as settings of that stage (with several
    `workers` a script needs `if __name__ == "__main__":`, since they are processes). `protocol`: the declared benchmark to
    use instead of the one that the corpus names. `evaluate`: settings as under that key of a recipe: `benchmarks` of the
    user's (as m2raap.retrieval.benchmarks.read_benchmarks reads them from a YAML), `dual_softmax`, `qb_norm`, `tags`. `bank`: a
    bank's folder, or a training corpus whose texts the model then embeds, without the texts and videos of the benchmark.
    The results of dual_softmax and qb_norm are under `rescored`, by name. `out` keeps the folders (keyframes, embed, bank,
    evaluate) for `m2raap report compare`. The numbers are those of `m2raap embed` and `m2raap evaluate`. Raises M2raapError.
    """
    cfg = evaluate if isinstance(evaluate, EvaluateConfig) else build(EvaluateConfig, dict(evaluate or {}), "evaluate")
    model_embedder = _embedder(model, preprocess, tokenizer, name)
    view = open_view(Path(corpus), langs)
    if not view.is_benchmark:
        raise M2raapError(f"{corpus}: is no benchmark; make one with 'm2raap data import ... --holdout N'")
    benchmark = view.corpus.benchmark or ""
    name_of_benchmark = benchmark if protocol in (None, benchmark) else asked_for(protocol, cfg.benchmarks)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(out) if out is not None else Path(scratch) / "model"
        view = _with_frames(view, keyframes, home / "keyframes", workers)
        EmbedStage(EmbedConfig(num_frames=num_frames)).run_on(view, model_embedder, home / "embed")
        texts = _bank(Path(bank), view, model_embedder, home / "bank", langs) if bank is not None else None
        stage = EvaluateStage(cfg, Shared(seed=seed))
        stage.run_on(home / "embed", name_of_benchmark, home / "evaluate", bank=texts)
        evaluated = home / "evaluate"
        rescored = {tree["rescored"]["name"]: tree for tree in other_results(evaluated).values() if "rescored" in tree}
        return read_results(evaluated) | ({"rescored": rescored} if rescored else {})


def _embedder(model: Any, preprocess: Any, tokenizer: Any, name: str | None) -> Embedder:
    if isinstance(model, str | Path):
        return embedder(model_folder(Path(model)))
    if isinstance(model, VideoCLIP | BackboneConfig):
        return embedder(model)
    if is_sentence_transformer(model):
        return SentenceTransformerEmbedder(model, name=name)
    if all(hasattr(model, part) for part in ("videos", "texts", "digest", "preprocess")):
        return model
    return MtebEmbedder(model) if is_encoder(model) else ExternalModel(model, preprocess, tokenizer, name)


def _bank(path: Path, bench: View, model_embedder: Embedder, folder: Path, langs: tuple[str, ...]) -> Bank:
    """The bank at `path`; where that is a training corpus, a bank of its texts, embedded by the evaluated model."""
    if (path / IDS).exists():
        return Bank.open(path)
    run_bank(open_view(path, langs), [bench], model_embedder, folder, False)
    return Bank.open(folder)


def _with_frames(view: View, keyframes: Mapping[str, Any] | None, folder: Path, workers: int) -> View:
    if any(read_manifest(path)["stage"] == KeyframesStage.name for path in view.folders):
        if keyframes:
            raise M2raapError(
                f"{view.folders[-1]}: holds key-frames already; leave `keyframes` out, or give the corpus to make others"
            )
        return view
    settings = build(KeyframesConfig, dict(keyframes or {}), "keyframes")
    engine = LocalEngine(workers)
    try:
        run_data_stage(KeyframesStage(settings), view, folder, engine)
    finally:
        engine.close()
    return view.over(folder)
