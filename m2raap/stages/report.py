"""report as an entry of the table of stages: the last step of a run, for `--from`, `--until` and the help. It has no
stage folder; m2raap.report, a layer above the stages, writes the report."""

from __future__ import annotations

from m2raap.core.config import Config
from m2raap.core.stage import Stage


class ReportStage(Stage[Config]):
    """Write report.html over a run."""

    name = "report"
    config = Config
    needs = ("evaluate",)
    on_training = False
    result = "report.html"
