"""report as a stage: it ends a run and has no folder of the table's kind. What it shows is in m2raap.report."""

from __future__ import annotations

from m2raap.core.config import Config
from m2raap.core.stage import Stage


class ReportStage(Stage[Config]):
    """Write report.html over a run."""

    name = "report"
    config = Config
    needs = ("evaluate",)
    on_training = False
    per_step = False
