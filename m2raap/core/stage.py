"""The contract of a stage: its name, its config, what it needs, reads, adds and drops, and its work. m2raap.core.runner runs it.

A data stage maps parts: `score` (part -> part) is costly and depends on one clip at a time, `reduce` decides over all parts where
that is needed, and `apply` (part + decisions -> part) compares with thresholds. A single stage takes its input whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from m2raap.core.config import Config, build, by_phase, merge, result_settings
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError
from m2raap.core.extension import CODE_KEY, code_of
from m2raap.core.folder import plan_of
from m2raap.core.records import Plan
from m2raap.core.tables import Clip, Row
from m2raap.core.videos import VideoDigests
from m2raap.core.view import Part, View

Tables = dict[str, list[Row]]
Signals = dict[str, Row]  # one stage's signals by clip_id or text_id
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class StepInputs:
    """The inputs of one step of a run; each stage uses those that it needs.

    `parents` are the folders before it, oldest first; `model` is the adapted model's folder, None for the bare backbone;
    `caches` is the folder of the caches that the arms of a run share; `allow_refused` is the share of the clips that a data stage
    may lose to missing files, None where losses are not checked.
    """

    view: View
    folder: Path
    engine: Engine
    parents: tuple[Path, ...] = ()
    model: Path | None = None
    scores: tuple[Path, ...] = ()
    caches: Path | None = None
    force: bool = False
    share: tuple[int, int] = (1, 1)
    allow_refused: float | None = None


class Stage(Generic[C]):
    """A stage of a recipe, configured once and pickled so. The first sentence of a subclass's docstring is its help.

    `cfg` is the stage's own config, `shared` the settings that a recipe gives once for all stages (m2raap.stages.shared.Shared).
    """

    name: ClassVar[str]
    config: ClassVar[type[Config]]
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()  # stages that have to stand before it in a recipe
    on_training: ClassVar[bool] = True  # whether the recipe's `stages` may name it
    by_default: ClassVar[bool] = True  # whether a recipe that names no stages has it
    on_benchmarks: ClassVar[bool] = False  # whether it may see a benchmark
    # For a stage without step folders, such as report: the last file that it writes, in the run's folder of the stage's name.
    result: ClassVar[str | None] = None
    reads_video: ClassVar[bool] = False  # then it drops the clips whose video cannot be read
    # Reason -> sentence, for every reason of its drops besides those of unreadable videos.
    reasons: ClassVar[Mapping[str, str]] = {}

    def __init__(self, cfg: C, shared: Any = None) -> None:
        self.cfg = cfg
        self.shared = shared

    def settings(self) -> dict[str, Any]:
        """The settings that the folder's digest includes: every key but those marked HOW, and the code that they name."""
        return result_settings(self.cfg) | self.code()

    def code(self) -> dict[str, Any]:
        """{"code": {name: digest of its source file}} of the extensions that its settings name, {} where they name none.

        Raises UsageError where code is not allowed or cannot be imported.
        """
        code = code_of(result_settings(self.cfg), self.name)
        for cfg in self.backbones():
            code |= code_of(cfg.model_dump(mode="json"), "backbone")
        return {CODE_KEY: code} if code else {}

    def plan(self, step: StepInputs) -> Plan:
        """The plan with which `run` compares the step's folder (core.folder.plan_of). The folders before it must be finished.

        Raises M2raapError for inputs that do not fit.
        """
        raise NotImplementedError  # abstract: a data stage, or the stage itself

    def backbones(self) -> list[Any]:
        """Configs of the backbones whose weights it loads, so that missing weights are reported before any work."""
        return []

    @property
    def runs_network(self) -> bool:
        """Whether its work on parts runs a network, so that its workers are given GPUs where there are some."""
        return bool(self.backbones())


class SingleStage(Stage[C]):
    """Base of the stages that take their input whole. Long work resumes by itself (see core.whole.run_single_stage)."""

    @property
    def writes_signals(self) -> bool:
        """Whether it leaves scores of captions for `filter` of a later arm (m2raap.core.scores.PAIR_SIGNALS)."""
        return False

    def run(self, step: StepInputs) -> bool:
        """Brings the step's folder to its finished state; False where another process finishes it."""
        raise NotImplementedError  # abstract: the stage itself


@dataclass(frozen=True)
class Judged:
    """The result of one rule for one clip or text: the score and the threshold with which it is compared."""

    rule: str
    version: int
    signal: str
    score: float
    threshold: float
    refused_if: Literal["below", "above"]

    @property
    def failed(self) -> bool:
        return self.score < self.threshold if self.refused_if == "below" else self.score > self.threshold

    @property
    def margin(self) -> float:
        """Distance of the score from the threshold, as a share of it (or absolute where it is 0); negative: failed."""
        gap = self.threshold - self.score if self.refused_if == "above" else self.score - self.threshold
        return gap / (abs(self.threshold) or 1.0)


class DataStage(Stage[C]):
    """Base of the stages that map parts.

    `score` must depend on nothing but one clip's own rows and the settings, so that reuse by clip equals a fresh run; it
    returns at least one `signals` row for every clip. Whatever compares clips with each other belongs in `reduce`.
    """

    reads: ClassVar[tuple[str, ...]] = ("texts",)  # tables that `score` sees besides clips: texts, frames, jpegs
    reads_signals: ClassVar[tuple[str, ...]] = ()  # columns of earlier stages' signals that `score` sees
    adds: tuple[str, ...] = ()  # tables that `score` writes besides signals
    reduces: ClassVar[bool] = False
    verdict_columns: ClassVar[dict[str, str]] = {}  # of the scores that only `apply` can compute

    folder: Path | None = None  # of the stage while it runs, for files besides its tables

    def settings(self) -> dict[str, Any]:
        """The keys of `score` and of `apply`, which are redone separately, and what each depends on besides its config."""
        trees = by_phase(self.cfg)
        more = {"dependencies": self.dependencies(), "rules": self.rule_versions()}
        return {"score": trees["score"], "apply": trees["apply"], **more, **self.code()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any], source: str) -> DataStage[Any]:
        """The stage with the settings of a finished folder; HOW keys have their defaults. Raises M2raapError naming `source`."""
        if not all(isinstance(settings.get(phase), dict) for phase in ("score", "apply")):
            raise M2raapError(
                f"{source}: its manifest has no settings of a data stage; m2raap did not write it, or it is damaged"
            )
        return cls(build(cls.config, merge(settings["score"], settings["apply"]), source))  # type: ignore[arg-type]

    def plan(self, step: StepInputs) -> Plan:
        return plan_of(self.name, self.version, self.prepared(step.view, step.scores), self.settings())

    @property
    def reads_scores(self) -> bool:
        """Whether it reads users' scores (--scores)."""
        return False

    def dependencies(self) -> dict[str, Any]:
        """What `score` depends on besides its own config: versions of rules, digests of prompts, the backbone."""
        return {}

    def rule_versions(self) -> dict[str, int]:
        """Reason -> version, of the rules whose scores `reduce` and `apply` compute."""
        return {}

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that `score` sees besides clips: `reads`, and signals where `reads_signals` names columns of them."""
        return (*self.reads, "signals") if self.reads_signals else self.reads

    def tables_over(self, view: View) -> tuple[str, ...]:
        """`tables`, and others where the stages of the view have not stored what `score` needs."""
        return self.tables

    def prepared(self, view: View, scores: tuple[Path, ...] = ()) -> View:
        """The view as the stage reads it; a stage that reads users' scores adds them."""
        return view

    def before_parts(self, view: View, engine: Engine, alone: bool) -> str:
        """Makes, in `folder`, what `score` reads besides its part; returns its digest, "" where there is none. `alone`: whether
        no other share of the stage runs. Where a run is resumed, it is called again."""
        return ""

    def more_files(self) -> list[str]:
        """The files in `folder`, besides tables, that the manifest names."""
        return []

    def more_verdict_columns(self, view: View) -> dict[str, str]:
        """Further columns of `verdicts`, which depend on the scores that the user supplies."""
        return {}

    def signal_columns(self) -> dict[str, str]:
        """Name -> float | int | str | bool | bytes | strs | floats of the columns that `score` writes."""
        raise NotImplementedError  # abstract: every stage states its columns

    def video_digest(self, clip: Clip, view: View, videos: VideoDigests) -> str:
        """The digest of the bytes that `score` reads of a clip's video; 'absent' where it may not or cannot read them."""
        return "absent"

    def score(self, part: Part, view: View) -> Tables:
        raise NotImplementedError  # abstract: the stage itself

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        """Decisions over all parts, as plain values, which are stored in decisions.json."""
        return {}

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        """The `dropped` (and `verdicts`) rows of one part. `signals`: of this stage; `part.signals`: of the stages before it.

        A stage that adds texts also returns `superseded`: the texts that its new texts replace, with active False.
        """
        return {}

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        """The results of all rules for a clip, or for a text where `row` has a text_id. `signals`: its signals of all stages."""
        return []

    def spent(self) -> tuple[float, ...]:
        """What the stage has asked and spent in all commands so far; () where it spends nothing."""
        return ()

    def num_open(self, signals: Iterable[Row]) -> int:
        """Number of questions that `score` left open because what it may spend is spent. A part with any is not finished."""
        return 0

    def summary(self, before: tuple[float, ...], counts: Mapping[str, Any], num_open: int) -> str:
        """A line on what was asked and spent since `spent()` was `before`. `counts`: of the manifest; {} where there is none."""
        return ""

    def counts(self, signals: Signals) -> dict[str, int]:
        """Further counts of one part for the manifest, such as the number of texts that were sent to each server."""
        return {}
