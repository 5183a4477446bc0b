"""The rows that a report shows: plain values, so that report.json holds all of them except the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from m2raap.core.errors import listed
from m2raap.report.tag_table import TagTable


@dataclass(frozen=True)
class Strip:
    """A clip's key-frames as JPEG bytes, in order of time."""

    clip_id: str
    jpegs: list[bytes] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FunnelStage:
    """The row counts of one table in one stage; `rows_in + added == rows_out + sum(dropped)` is asserted when rendering."""

    stage: str
    table: str  # clips or texts
    rows_in: int
    added: int
    dropped: dict[str, int]  # reason -> rows
    rows_out: int


@dataclass(frozen=True)
class ResultRow:
    """ResultRow(arm, benchmark, **row) of a row that `evaluate_embeddings` or, for several seeds, `arms.summarise` gives."""

    arm: str
    benchmark: str
    lang: str
    direction: str
    scope: str
    slice: str
    comparable: bool
    queries: int
    gallery: int
    missing: int
    seeds: int
    seeds_r1: list[float]  # R@1 of each training seed
    metrics: dict[str, float]
    pessimistic: dict[str, float]
    intervals: dict[str, list[float]]
    tied_queries: int
    rsum: float | None  # None: scores of one direction only


@dataclass(frozen=True)
class DifferenceRow:
    """Arm a minus arm b, in points: DifferenceRow(arm_a, arm_b, benchmark, **arms.paired(...))."""

    arm_a: str
    arm_b: str
    benchmark: str
    lang: str
    direction: str
    slice: str
    metric: str
    queries: int
    a: float
    b: float
    diff: float
    lo: float
    hi: float
    p: float
    smallest: float | None = None  # points: the smallest difference that these queries can detect (5 %, 80 % power)
    unlike: list[str] = field(default_factory=list)  # what differs between the two protocols, in words


@dataclass(frozen=True)
class CompatRow:
    """What CLIP4Clip's metric code would print for an arm, mean over the training seeds; for comparison only."""

    arm: str
    benchmark: str
    lang: str
    direction: str
    metrics: dict[str, float]
    queries: int
    entries: float  # number of ranks that its averages are over: a query with ties has several
    label: str


@dataclass(frozen=True)
class RescoredRow:
    """Metrics of an arm under rescoring (a late interaction, dual softmax, QB-Norm); never the headline.

    `diff`, `lo`, `hi`, `p`: its R@1 minus the R@1 of the arm's plain cosines, paired over the queries.
    """

    arm: str
    benchmark: str
    way: str
    mark: str  # late interaction or transductive
    label: str
    lang: str
    direction: str
    queries: int
    gallery: int
    seeds: int
    seeds_r1: list[float]
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    diff: float
    lo: float
    hi: float
    p: float


def labels_of(rows: Iterable[RescoredRow]) -> list[tuple[str, str, str]]:
    """The (way, mark, label) of all rows, each once. Where a way has several labels, each of them names its arms."""
    arms: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        arms.setdefault((row.way, row.mark, row.label), []).append(f"{row.arm} on {row.benchmark}")
    several = {way for way, _, _ in arms if sum(other == way for other, _, _ in arms) > 1}
    return [
        (way, mark, f"{label} ({', '.join(dict.fromkeys(names))})" if way in several else label)
        for (way, mark, label), names in arms.items()
    ]


@dataclass(frozen=True)
class BilingualRow:
    """Results in English and in Chinese on the same clips. Shares and correlation are means over the training seeds."""

    arm: str
    benchmark: str
    direction: str
    clips: int
    seeds: int
    gaps: dict[str, dict[str, float]]  # metric -> en, zh, diff (en minus zh), lo, hi, p, smallest
    spearman: float | None  # of the clips' ranks; None where one side does not vary
    both: float  # share of the clips with rank 1 in both languages
    only_en: float
    only_zh: float
    neither: float


@dataclass(frozen=True)
class ProtocolRow:
    """What the numbers of some arms on a benchmark depend on. Arms that were evaluated under another protocol have a row of
    their own.

    `protocol`: what `stages.protocol.protocol_of` gives, without model and preprocess; None where results.json has none.
    """

    benchmark: str
    name: str  # A, B, ... where a benchmark has several
    arms: list[str]
    protocol: dict[str, Any] | None
    num_frames: int | None  # that the model saw at test; None: all that were stored
    captions: bool  # whether auxiliary captions were used at test
    models: dict[str, str]  # arm and training seed -> digest
    preprocess: dict[str, str]
    missing: dict[str, str]  # clip without an embedding -> reason, "" where none is recorded


@dataclass(frozen=True)
class PublishedRow:
    """One metric of a published zero-shot text-to-video result on a benchmark of the run, in percent."""

    benchmark: str
    system: str
    lang: str
    metric: str
    value: float
    source: str
    note: str


@dataclass(frozen=True)
class FrameAblationRow:
    """R@1 of one arm with the frames as they are or in a frame ablation (shuffled, reversed, one frame only)."""

    arm: str
    benchmark: str
    lang: str
    direction: str
    slice: str
    frames: str
    r1: float
    lo: float | None = None
    hi: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class TwoWayRow:
    """Two-way accuracy of an arm between clips and their twins, in percent; chance is 50. See `retrieval.two_way`."""

    arm: str
    benchmark: str
    way: str  # "": plain cosines of all frames; else the name of a rescoring or of a frame ablation
    lang: str
    direction: str
    n: int
    pairs: int
    accuracy: float
    interval: list[float]
    seeds: int
    seeds_accuracy: list[float]


@dataclass(frozen=True)
class CostRow:
    """Training time of an arm and the R@1 that it reached. Times are wall seconds, except `frames_s`."""

    arm: str
    input: str  # raw video, or how the stored frames were chosen
    steps: int
    frames_s: float | None  # core seconds of the stage that stored its frames; None: it decodes videos while it trains
    train_s: float  # from the loaded model to the last step, with validation
    waited_s: float  # part of train_s in which training waited for a batch
    r1: dict[str, float]  # benchmark and language -> R@1 text to video
    cotrain_s: float | None = None  # of the co-training that it starts from, with its cache; other arms may share it


@dataclass(frozen=True)
class InterpolationRow:
    """R@1 of weights interpolated between backbone (alpha 0) and adapted model (alpha 1); `diff`: paired, to alpha 0."""

    set: str  # name of a benchmark, or stills
    what: str  # description of the set
    lang: str
    direction: str
    alpha: float
    queries: int
    r1: float
    lo: float
    hi: float
    diff: float
    diff_lo: float
    diff_hi: float
    p: float


@dataclass(frozen=True)
class ModuleRow:
    """Weights, FLOP and time of an arm's modules for one clip, compared with mean pooling on the same backbone.

    `gates`: the value of each scalar gate at the step that was kept, and the norm of each matrix that starts at zero, by name;
    empty where nothing was trained or the start was kept.
    """

    arm: str
    module: str
    frames: int
    backbone_m: float  # million weights
    new_m: float  # million weights of temporal module and ACG
    learning_m: float  # million weights that are trained
    gflop: float  # of one clip, forward pass only
    mean_gflop: float
    ms: float  # for one clip, the fastest of several passes, fp32 on `device`
    mean_ms: float
    threads: int  # on the CPU
    gates: dict[str, float]
    device: str = "cpu"


@dataclass(frozen=True)
class ProgressiveRow:
    """One row of a progressive table: text to video, R@1 and MeanR in points, differences as [points, low, high]."""

    arm: str
    way: str  # "": plain cosine; rerank: late interaction
    benchmark: str
    lang: str
    r1: float
    interval: list[float]
    seeds_r1: list[float]
    step: list[float] | None  # to the row before; of a reranked row, to that one reranked, too, where it is
    whole: list[float] | None  # to the first row
    mean_recall: float  # MeanR
    mean_recall_interval: list[float]
    mean_recall_step: list[float] | None
    paper_step: float | None  # what the step brings in M2-RAAP's figure 1, on other data, most likely in MeanR
    clips: int  # that remain for training and validation
    texts: int
    curation_s: float  # core seconds of the stages before training
    train_s: float  # wall seconds of co-training, if any, and training, mean over the seeds
    unlike: list[str] = field(default_factory=list)  # how the protocol differs from that of the row before
    unlike_whole: list[str] = field(default_factory=list)  # how it differs from that of the first row


@dataclass(frozen=True)
class Curve:
    """One line of a chart: (step, value) points. Curves of one chart share a panel."""

    chart: str
    label: str
    points: list[tuple[float, float]]
    bounds: list[tuple[float, float]] = field(default_factory=list)  # lower and upper, of every point or of none


@dataclass(frozen=True)
class Hit:
    """One of the clips that are ranked first for a query."""

    strip: Strip
    score: float
    is_target: bool
    caption: str = ""


@dataclass(frozen=True)
class Example:
    """A text query, the clips that are ranked first for it, and its own clip where that is not among them."""

    kind: str  # best or worst
    arm: str
    lang: str
    text: str
    rank: float
    gallery: int
    hits: list[Hit]
    target: Strip | None = None


@dataclass(frozen=True)
class DroppedItem:
    """One clip or text that a stage dropped or nearly dropped, with the score and the threshold that decided it."""

    item_id: str
    stage: str
    reason: str
    texts: list[str]
    strip: Strip | None = None
    score: float | None = None
    threshold: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class ReportData:
    """The whole report. Sections without data are left out; `grading` is what `report.grading.grade` gives.

    `synthetic` sets the banner 'synthetic world, tiny model'. `notes` are plain sentences shown under the title. Where
    `headline_arm` is named, its R@1 is shown large at the top, next to that of `baseline_arm`.
    """

    title: str
    synthetic: bool
    headline_arm: str = ""
    baseline_arm: str = ""
    notes: list[str] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)
    lengths: list[ResultRow] = field(default_factory=list)  # slices by the length of the clip
    by_tag: list[ResultRow] = field(default_factory=list)  # slices by tag, which overlap
    published: list[PublishedRow] = field(default_factory=list)
    compat: list[CompatRow] = field(default_factory=list)
    rescored: list[RescoredRow] = field(default_factory=list)
    bilingual: list[BilingualRow] = field(default_factory=list)
    differences: list[DifferenceRow] = field(default_factory=list)
    frame_ablations: list[FrameAblationRow] = field(default_factory=list)
    two_way: list[TwoWayRow] = field(default_factory=list)
    costs: list[CostRow] = field(default_factory=list)
    modules: list[ModuleRow] = field(default_factory=list)
    interpolation: list[InterpolationRow] = field(default_factory=list)
    progressive: list[ProgressiveRow] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    funnel: list[FunnelStage] = field(default_factory=list)
    tags: list[TagTable] = field(default_factory=list)
    grading: dict[str, Any] | None = None
    examples: list[Example] = field(default_factory=list)
    dropped: list[DroppedItem] = field(default_factory=list)
    nearly: list[DroppedItem] = field(default_factory=list)  # kept, by the smallest margin of each rule
    protocols: list[ProtocolRow] = field(default_factory=list)
    protocol: dict[str, str] = field(default_factory=dict)  # settings and inputs of the whole run
    timings: list[tuple[str, float]] = field(default_factory=list)  # stage, seconds
    recipe: str = ""


def seed_note(data: ReportData) -> str:
    """What results of arms that were trained with one seed cannot say; empty where there is no such arm."""
    trained = {row.arm for row in data.costs}
    arms = list(dict.fromkeys(row.arm for row in data.results if row.arm in trained and row.seeds == 1))
    if not arms:
        return ""
    return (
        f"{listed(arms, 6)}: one training seed. A difference smaller than the spread between seeds means nothing; 'seeds: 3' in "
        "the recipe measures the spread."
    )


def to_json(data: ReportData) -> dict[str, Any]:
    """The report as plain values, pictures left out (a strip keeps clip id, times and the number of frames)."""
    return _without_bytes(asdict(data))


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        plain = {key: _without_bytes(item) for key, item in value.items() if key != "jpegs"}
        if "jpegs" in value:
            plain["frames"] = len(value["jpegs"])
        return plain
    if isinstance(value, list | tuple):
        return [_without_bytes(item) for item in value]
    return value
