"""annotate: the tags of clips, by a tagger over frame vectors that align, embed or an import has stored; no picture is encoded.

The tagger is given, or fitted first, on the clips of the view. A clip that it was fitted on gets its tags from the member that
has not seen it, so that a wrong caption cannot vouch for itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from m2raap.annotate.config import AnnotateConfig
from m2raap.annotate.fit import fit
from m2raap.annotate.label_words import words_of
from m2raap.annotate.shards import fold_of
from m2raap.annotate.tagger import TAGGER, Tagger, open_tagger
from m2raap.core import talk
from m2raap.core.config import digest, result_settings
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError
from m2raap.core.files import files_below
from m2raap.core.folder import plan_of
from m2raap.core.records import Plan
from m2raap.core.stage import DataStage, Judged, Signals, SingleStage, StepInputs, Tables
from m2raap.core.tables import Clip, Row
from m2raap.core.view import Part, View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.curate import balance
from m2raap.curate.refusal import Drop, Refusal
from m2raap.stages.annotate_inputs import (
    DIM,
    VECTORS,
    frame_vectors,
    source_digest,
    vectors_digest,
    vectors_made_with,
    write_inputs,
)

FOLDER = "tagger"
CONTRADICTS = "contradicts_tags"
BALANCED_OUT = "balanced_out_of_tag"
_RULE_VERSION = 1
_SCRATCH = "scratch"


def fit_tagger(view: View, cfg: AnnotateConfig, engine: Engine, folder: Path) -> None:
    """Fits a tagger on the clips of a view, into `folder`/tagger, unless it is there. What is finished stays in `folder`/scratch
    until it is. Raises M2raapError as m2raap.stages.annotate_inputs.write_inputs and m2raap.annotate.fit.fit do."""
    if not (folder / FOLDER / TAGGER).exists():
        job = write_inputs(view, cfg, engine, folder / _SCRATCH)
        about = {"vectors": vectors_made_with(view), "corpus": view.corpus.digest}
        with talk.Phases(talk.title(folder, "annotate")) as phases:
            fit(job, engine, folder / FOLDER, about, phases)
        metrics = Tagger.load(folder / FOLDER).tree["metrics"]
        percent = lambda value: "none" if value is None else f"{100 * value:.1f}"  # noqa: E731
        low, high = map(percent, metrics["gap_95"])
        which = "that the tagger has not seen" if cfg.fit.folds > 1 else "by which its rounds were chosen"
        talk.log(
            f"annotate: GAP@20 {percent(metrics['gap'])} [{low}, {high}] and mAP {percent(metrics['map'])} on "
            f"{metrics['unseen_clips']:,} clips {which}"
        )
    shutil.rmtree(folder / _SCRATCH, ignore_errors=True)


class FitStage(SingleStage[AnnotateConfig]):
    """Fit a tagger on the clips of a view."""

    name = "tagger"
    config = AnnotateConfig
    on_training = False

    def settings(self) -> dict[str, Any]:
        settings = result_settings(self.cfg)
        return {name: settings[name] for name in ("labels", "fit")} | {"lists": source_digest(self.cfg.labels)}

    def plan(self, step: StepInputs) -> Plan:
        return plan_of(self.name, self.version, step.view, self.settings())

    def run(self, step: StepInputs) -> bool:
        def work(target: Path) -> StageOutput:
            fit_tagger(step.view, self.cfg, step.engine, target)
            tagger = Tagger.load(target / FOLDER)
            counts = {"labels": len(tagger.labels), "clips": tagger.labels.num_clips}
            return StageOutput(files_below(target, FOLDER), counts, {"tagger": tagger.digest})

        return run_single_stage(
            self.name, self.version, self.settings(), step.folder, work, view=step.view, force=step.force
        )


def _tag(signals: Signals, clip: Clip) -> int:
    """The number of a clip's most probable tag."""
    tag = signals[clip["clip_id"]]["top_tag"]
    return balance.NO_CLUSTER if tag is None else tag


def tagger_folder(path: Path) -> Path:
    """The folder of a tagger: the one given, or the tagger in the folder of a fit or of annotate. Raises M2raapError."""
    for folder in (path, path / FOLDER):
        if (folder / TAGGER).exists():
            return folder
    raise M2raapError(f"{path}: holds no tagger; give a folder that 'm2raap annotate fit' made")


class AnnotateStage(DataStage[AnnotateConfig]):
    """Say what each clip shows, by labels with probabilities, and refuse texts that the frames contradict."""

    name = "annotate"
    config = AnnotateConfig
    needs = ("align",)
    by_default = False
    reasons: ClassVar[Mapping[str, str]] = {
        CONTRADICTS: "the frames make the labels that the text names improbable, by a tagger that has not seen the clip",
        BALANCED_OUT: "a clip that passed all rules, of a tag of which the corpus holds more than its share",
    }
    reduces = True
    reads = ("texts",)
    reads_signals = (VECTORS, DIM)

    @classmethod
    def from_settings(cls, settings: dict[str, Any], source: str) -> AnnotateStage:
        """Of a folder with a tagger that was given, whose place no manifest names, `cfg.tagger` is the folder `source`."""
        has_tagger = isinstance(deps := settings.get("dependencies"), dict) and "tagger" in deps
        if has_tagger and isinstance(score := settings.get("score"), dict):
            settings = settings | {"score": score | {"tagger": source}}
        stage = super().from_settings(settings, source)
        assert isinstance(stage, cls)
        return stage

    def dependencies(self) -> dict[str, Any]:
        if self.cfg.tagger is not None:
            return {"tagger": Tagger.load(tagger_folder(self.cfg.tagger)).digest}
        return {"lists": source_digest(self.cfg.labels)}

    def rule_versions(self) -> dict[str, int]:
        return {CONTRADICTS: _RULE_VERSION}

    def before_parts(self, view: View, engine: Engine, alone: bool) -> str:
        assert self.folder is not None
        if self.cfg.tagger is None:
            if not alone and not (self.folder / FOLDER / TAGGER).exists():
                raise M2raapError(
                    "--parts: shares need a tagger that is there; fit it with 'm2raap annotate fit' and give it with --tagger"
                )
            fit_tagger(view, self.cfg, engine, self.folder)
        open_tagger.cache_clear()
        tagger = open_tagger(self._tagger)
        if (made_with := vectors_made_with(view)) != tagger.tree["vectors"]:
            raise M2raapError(
                f"{self._tagger}: reads vectors of {tagger.tree['vectors']}, and those of this view are of {made_with}: "
                "use the backbone with which it was fitted, or fit it again"
            )
        if self.cfg.least_support is not None and tagger.cfg.folds == 1:
            raise M2raapError(
                f"{self._tagger}: is one tagger that has seen all its clips, and annotate.least_support judges texts by one that "
                "has not seen them: fit it with annotate.fit.folds of at least 2"
            )
        return digest([tagger.digest, vectors_digest(view)])

    def more_files(self) -> list[str]:
        return files_below(self.folder, FOLDER) if self.folder is not None and self.cfg.tagger is None else []

    @property
    def _tagger(self) -> Path:
        assert self.folder is not None
        return self.folder / FOLDER if self.cfg.tagger is None else tagger_folder(self.cfg.tagger)

    def signal_columns(self) -> dict[str, str]:
        return {"tags": "strs", "tags_p": "floats", "top_tag": "int", "tags_named": "strs", "tag_support": "float"}

    def score(self, part: Part, view: View) -> Tables:
        tagger = open_tagger(self._tagger)
        labels, cfg = tagger.labels, tagger.cfg
        vectors = frame_vectors(view, part.index, (row | {"clip_id": key} for key, row in part.signals.items()))
        known = [clip for clip in part.clips if clip["clip_id"] in vectors]
        for clip in known:
            if (size := vectors[clip["clip_id"]].shape[1]) != tagger.tree["dim"]:
                raise M2raapError(
                    f"{self._tagger}: reads vectors of {tagger.tree['dim']} numbers, and those of clip {clip['clip_id']} have "
                    f"{size}; fit a tagger on such vectors"
                )
        # Whatever the corpus is called today: a member has not seen the videos of its fold.
        folds = [fold_of(clip["video"], cfg.folds, cfg.seed) for clip in known]
        named = [
            # The texts of a benchmark are read by embed alone.
            [labels.labels_in(words_of(text["text"], text["lang"])) for text in part.texts_of[clip["clip_id"]]]
            if not view.is_benchmark
            else []
            for clip in known
        ]
        labels_of = [sorted({label for of_text in texts for label in of_text}) for texts in named]
        if known:
            tags = tagger.tags([vectors[clip["clip_id"]] for clip in known], folds, labels_of, self.cfg.num_tags)
        rows: list[Row] = [
            {"clip_id": clip["clip_id"], "tags": [], "tags_p": [], "top_tag": None}
            for clip in part.clips
            if clip["clip_id"] not in vectors
        ]
        for row, clip in enumerate(known):
            stay = tags.p_NT[row] >= self.cfg.least_p
            best = tags.labels_NT[row][stay].tolist()
            rows.append(
                {
                    "clip_id": clip["clip_id"],
                    "tags": [labels.names_L[label] for label in best],
                    "tags_p": [round(float(p), 6) for p in tags.p_NT[row][stay]],
                    "top_tag": best[0] if best else None,
                }
            )
            p_of = dict(zip(labels_of[row], tags.p_named[row].tolist(), strict=True))
            for text, of_text in zip(part.texts_of[clip["clip_id"]], named[row], strict=not view.is_benchmark):
                support = [float(np.log(max(p_of[label], 1e-9) / labels.priors_L[label])) for label in of_text]
                rows.append(
                    {
                        "clip_id": clip["clip_id"],
                        "text_id": text["text_id"],
                        "tags_named": [labels.names_L[label] for label in of_text],
                        "tag_support": round(float(np.mean(support)), 6) if support else None,
                    }
                )
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        """For the balance: the last place in the random order of a tag's clips that is kept, of every tag with too many."""
        if (cfg := self.cfg.balance) is None:
            return {}
        tags, places = [], []
        for part, signals in parts:
            for clip in self._balanced(part, signals):
                tags.append(_tag(signals, clip))
                places.append(balance.place(clip["clip_id"], cfg.seed))
        return balance.last_places(tags, places, cfg.target)

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        drops = self._contradicting(part, signals)
        cfg = self.cfg.balance
        for clip in self._balanced(part, signals) if cfg else []:
            last = decisions["last"].get(str(tag := _tag(signals, clip)))
            if cfg and last is not None and balance.place(clip["clip_id"], cfg.seed) > last:
                name = signals[clip["clip_id"]]["tags"][0] if tag != balance.NO_CLUSTER else "no tag"
                detail = f"'{name}' keeps {decisions['cap']} clips or one more"
                drops.append({"clip_id": clip["clip_id"], "text_id": None, "reason": BALANCED_OUT, "detail": detail})
        return {"dropped": drops}

    def _contradicting(self, part: Part, signals: Signals) -> list[Row]:
        limit, drops = self.cfg.least_support, []
        for text in part.texts:
            support = signals.get(text["text_id"], {}).get("tag_support")
            if limit is not None and support is not None and support < limit:
                rule = Refusal(CONTRADICTS, "tag_support", support, limit, _RULE_VERSION)
                drops.append(Drop.by([rule], text["clip_id"], text["text_id"]).row())
        return drops

    def _balanced(self, part: Part, signals: Signals) -> list[Clip]:
        """The clips that the balance may drop: for training, and with a text that is left where they had any."""
        dropped_ids = {row["text_id"] for row in self._contradicting(part, signals)}
        clips = []
        for clip in part.clips:
            texts = part.texts_of[clip["clip_id"]]
            if clip["split"] != "val" and (not texts or any(text["text_id"] not in dropped_ids for text in texts)):
                clips.append(clip)
        return clips

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        support, limit = signals.get("tag_support"), self.cfg.least_support
        if "text_id" not in row or support is None or limit is None:
            return []
        return [Judged(CONTRADICTS, _RULE_VERSION, "tag_support", support, limit, "below")]
