"""What a stage is: its name, its config, what it needs, reads, adds and drops, and its work. m2raap.core.runner carries it out.

A data stage maps parts: `score` (part -> part) is dear and pure per clip, `reduce` looks over all parts where that is needed,
`apply` (part + decisions -> part) is thresholds. A single stage takes its input whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from m2raap.core.config import Config, build, by_phase, merge, what_is_made
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Clip, Row
from m2raap.core.videos import VideoDigests
from m2raap.core.view import Part, View

Tables = dict[str, list[Row]]
Signals = dict[str, Row]  # one stage's signals by clip_id or text_id
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class StepInputs:
    """What one step of a run works on, and how. A stage reads what it needs of it.

    `parents` are the folders before it, oldest first; `model` is the adapted model's folder, None for the bare backbone;
    `caches` is where a run keeps what its arms share.
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


class Stage(Generic[C]):
    """A stage of a recipe, configured once and pickled so. The first sentence of a subclass's docstring is its help.

    `cfg` is the stage's own config, `shared` what a recipe says once for all stages (m2raap.stages.shared.Shared).
    """

    name: ClassVar[str]
    config: ClassVar[type[Config]]
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()  # stages that have to stand before it in a recipe
    on_training: ClassVar[bool] = True  # whether the recipe's `stages` may name it
    on_benchmarks: ClassVar[bool] = False  # whether it may see a benchmark
    # Of a stage that makes no step folders: the last file that it writes, in the folder of the run that has its name.
    result: ClassVar[str | None] = None
    reads_video: ClassVar[bool] = False  # then clips that cannot be read are dropped here
    # Reason -> sentence, of everything that it may drop besides unreadable videos.
    reasons: ClassVar[Mapping[str, str]] = {}

    def __init__(self, cfg: C, shared: Any = None) -> None:
        self.cfg = cfg
        self.shared = shared

    def settings(self) -> dict[str, Any]:
        """What the folder's digest names: every key but those that say how."""
        return what_is_made(self.cfg)

    def backbones(self) -> list[Any]:
        """Configs of the backbones whose weights it will load, so that missing ones are noticed before any work."""
        return []


class SingleStage(Stage[C]):
    """Base of the stages that take their input whole. Long work resumes by itself (see core.whole.run_single_stage)."""

    def run(self, step: StepInputs) -> bool:
        """Brings the step's folder to its finished state; False where this process is not the one that finishes it."""
        raise NotImplementedError  # abstract: the stage itself


@dataclass(frozen=True)
class Judged:
    """One rule's look at one clip or text: its score beside its threshold, passed or failed."""

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
        """How far the score is on the good side, in units of the threshold (of the score where that is 0)."""
        gap = self.threshold - self.score if self.refused_if == "above" else self.score - self.threshold
        return gap / (abs(self.threshold) or 1.0)


class DataStage(Stage[C]):
    """Base of the stages that map parts.

    `score` must depend on nothing but one clip's own rows and the settings, so that reuse by clip equals a fresh run; it
    returns at least one `signals` row for every clip. What looks across clips belongs into `reduce`.
    """

    reads: ClassVar[tuple[str, ...]] = ("texts",)  # tables that `score` sees besides clips: texts, frames, jpegs
    reads_signals: ClassVar[tuple[str, ...]] = ()  # columns of earlier stages' signals that `score` sees
    reads_scores: ClassVar[bool] = False  # whether users' scores (--scores) mean anything to it
    adds: ClassVar[tuple[str, ...]] = ()  # tables that `score` writes besides signals
    reduces: ClassVar[bool] = False
    verdict_columns: ClassVar[dict[str, str]] = {}  # of the scores that only `apply` can know

    folder: Path | None = None  # of the stage, while it runs: what it keeps besides tables lies there

    def settings(self) -> dict[str, Any]:
        """`score` and `apply` apart, because they are redone apart, and what each depends on besides its config."""
        trees = by_phase(self.cfg)
        more = {"dependencies": self.dependencies(), "rules": self.rule_versions()}
        return {"score": trees["score"], "apply": trees["apply"], **more}

    @classmethod
    def from_settings(cls, settings: dict[str, Any], source: str) -> DataStage[Any]:
        """The stage as a finished folder was made by it: every HOW key is at its default. Raises M2raapError."""
        if not all(isinstance(settings.get(phase), dict) for phase in ("score", "apply")):
            raise M2raapError(
                f"{source}: its manifest names no settings of a data stage; it is none of ours, or damaged"
            )
        return cls(build(cls.config, merge(settings["score"], settings["apply"]), source))  # type: ignore[arg-type]

    def dependencies(self) -> dict[str, Any]:
        """What `score` depends on besides its own config: versions of rules, digests of prompts, the backbone."""
        return {}

    def rule_versions(self) -> dict[str, int]:
        """Reason -> version, of the rules whose scores `reduce` and `apply` work out."""
        return {}

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that `score` sees besides clips: `reads`, and signals where `reads_signals` names columns of them."""
        return (*self.reads, "signals") if self.reads_signals else self.reads

    def tables_over(self, view: View) -> tuple[str, ...]:
        """`tables`, and more of them where the stages under the view lack something."""
        return self.tables

    def prepared(self, view: View, scores: tuple[Path, ...] = ()) -> View:
        """The view as the stage reads it; a stage that reads users' scores lays them over it."""
        return view

    def more_verdict_columns(self, view: View) -> dict[str, str]:
        """Columns of `verdicts` beside those, which depend on what the user gave."""
        return {}

    def signal_columns(self) -> dict[str, str]:
        """Name -> float | int | str | bool | bytes of the columns that `score` writes."""
        raise NotImplementedError  # abstract: every stage states its columns

    def video_digest(self, clip: Clip, view: View, videos: VideoDigests) -> str:
        """Names the bytes that `score` will read of a clip's video; 'absent' where it may not or cannot."""
        return "absent"

    def score(self, part: Part, view: View) -> Tables:
        raise NotImplementedError  # abstract: the stage itself

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        """Decisions over all parts, as plain values: they are kept in decisions.json."""
        return {}

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        """The `dropped` (and `verdicts`) rows of one part. `signals`: this stage's own; `part.signals`: those before it.

        A stage that adds texts also gives `superseded`: rows of texts that its own replace, with active False.
        """
        return {}

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        """Every rule that looked at a clip, or at a text where the row has a text_id. `signals`: all that is known of it."""
        return []

    def counts(self, signals: Signals) -> dict[str, int]:
        """More counts of one part for the manifest, such as how many texts went to which server."""
        return {}
