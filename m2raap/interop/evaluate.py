"""One call from anybody's model to a benchmark's results: the stages keyframes, embed and evaluate, behind one function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from m2raap.core.config import build
from m2raap.core.corpus import LANGS
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json
from m2raap.core.runner import run_data_stage
from m2raap.core.view import View, open_view
from m2raap.interop.external import ExternalModel
from m2raap.interop.mteb import OfMteb, is_encoder
from m2raap.models.config import BackboneConfig
from m2raap.models.video_clip import VideoCLIP
from m2raap.retrieval.benchmarks import asked_for
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages.bank import IDS, Bank, run_bank
from m2raap.stages.embed import EmbedConfig, Embedder, EmbedStage, embedder, model_folder
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
    """What `results.json` holds: rows with metrics and intervals by language and direction, protocol, missing videos.

    `model`: the folder of a model of ours, a VideoCLIP, a BackboneConfig, an mteb encoder, or any object with `encode_text`
    and `encode_video` or `encode_image` (ExternalModel says what each is given). `corpus`: a benchmark, or
    the folder of its key-frames; without stored frames they are made first, `keyframes` being settings of that stage (more
    `workers` start processes: a script then needs its `if __name__ == "__main__":`). `protocol` names the declared benchmark
    in place of the corpus. `evaluate`: settings as under that key of a recipe: `benchmarks` of one's own (what
    m2raap.retrieval.benchmarks.read_benchmarks reads from a YAML), `dual_softmax`, `qb_norm`. `bank`: a bank's
    folder, or a training corpus, whose texts this model then embeds, those and the videos of the benchmark left out.
    What these two add stands under `rescored`: name -> results of that way. `out` keeps the folders (keyframes, embed, bank,
    evaluate), for `m2raap report compare`. The numbers are those of `m2raap embed` and `m2raap evaluate`. Raises M2raapError.
    """
    cfg = evaluate if isinstance(evaluate, EvaluateConfig) else build(EvaluateConfig, dict(evaluate or {}), "evaluate")
    by = _embedder(model, preprocess, tokenizer, name)
    view = open_view(Path(corpus), langs)
    if not view.is_benchmark:
        raise M2raapError(f"{corpus}: is no benchmark; cut one out of it with 'm2raap data import ... --holdout N'")
    benchmark = view.corpus.benchmark or ""
    name_of_benchmark = benchmark if protocol in (None, benchmark) else asked_for(protocol, cfg.benchmarks)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(out) if out is not None else Path(scratch) / "model"
        view = _with_frames(view, keyframes, home / "keyframes", workers)
        EmbedStage(EmbedConfig(num_frames=num_frames)).run_on(view, by, home / "embed")
        texts = _bank(Path(bank), view, by, home / "bank", langs) if bank is not None else None
        stage = EvaluateStage(cfg, Shared(seed=seed))
        stage.run_on(home / "embed", name_of_benchmark, home / "evaluate", bank=texts)
        trees = [read_json(path) for path in sorted((home / "evaluate").glob("results-*.json"))]
        rescored = {tree["rescored"]["name"]: tree for tree in trees if "rescored" in tree}
        return read_json(home / "evaluate" / "results.json") | ({"rescored": rescored} if rescored else {})


def _embedder(model: Any, preprocess: Any, tokenizer: Any, name: str | None) -> Embedder:
    if isinstance(model, str | Path):
        return embedder(model_folder(Path(model)))
    if isinstance(model, VideoCLIP | BackboneConfig):
        return embedder(model)
    return OfMteb(model) if is_encoder(model) else ExternalModel(model, preprocess, tokenizer, name)


def _bank(path: Path, bench: View, by: Embedder, folder: Path, langs: tuple[str, ...]) -> Bank:
    """The bank in the folder, or one of the training corpus's texts made by the very model that is evaluated."""
    if (path / IDS).exists():
        return Bank.open(path)
    run_bank(open_view(path, langs), [bench], by, folder, False)
    return Bank.open(folder)


def _with_frames(view: View, keyframes: Mapping[str, Any] | None, folder: Path, workers: int) -> View:
    if any(read_json(path / "manifest.json")["stage"] == KeyframesStage.name for path in view.folders):
        if keyframes:
            raise M2raapError(
                f"{view.folders[-1]}: its key-frames are made; give the corpus for others, or no `keyframes`"
            )
        return view
    settings = build(KeyframesConfig, dict(keyframes or {}), "keyframes")
    engine = LocalEngine(workers)
    try:
        run_data_stage(KeyframesStage(settings), view, folder, engine)
    finally:
        engine.close()
    return view.over(folder)
