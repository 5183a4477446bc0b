"""The rows of a report about the tags of clips: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TagRow:
    """One tag: number of clips that have it with p >= 0.5, and of clips of which a text names it.

    `ap`, `ap_low`, `ap_high`: its average precision by the tagger, from 0 to 1, with its middle 95 %; None where the tagger or
    unseen clips with the tag are lacking. `unseen_clips`: of the tag, on which the AP was measured.
    """

    tag: str
    clips: int
    named: int
    ap: float | None = None
    ap_low: float | None = None
    ap_high: float | None = None
    unseen_clips: int | None = None


@dataclass(frozen=True)
class TaggerFigures:
    """The figures of a tagger on clips that it has not seen, as shares from 0 to 1; None: not measured.

    `gap`: GAP@20, with its middle 95 % `gap_95`. `mean_ap`: over `mean_ap_labels` labels.
    """

    labels: int
    fitted_on: int  # clips
    unseen_clips: int
    gap: float | None
    gap_95: list[float] | None
    mean_ap: float | None
    mean_ap_labels: int
    hit_at_1: float | None
    perr: float | None
    calibration_error: float | None


@dataclass(frozen=True)
class TagTable:
    """The tags of one annotate folder: of all `clips` that the stage read, and of the arms that share it.

    `figures` is None where the tagger is not at its place any more. `notes`: sentences on where tags and figures come from.
    `warning`: why they mean nothing, "" where they do.
    """

    arms: list[str]
    clips: int
    clips_with_tags: int
    figures: TaggerFigures | None
    notes: list[str]
    warning: str = ""
    rows: list[TagRow] = field(default_factory=list)
    rows_left_out: int = 0  # tags beside those of `rows` that a clip has or a text names
