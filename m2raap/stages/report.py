"""report as a stage of the table: it ends a run, for `--from`, `--until` and the command's help. It makes no step folder;
m2raap.report, a room above the stages, writes it."""

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
