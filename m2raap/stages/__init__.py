"""The stages, in the order in which a recipe runs them. The only code that opens corpus and stage folders.

STAGES is the table: recipe, plan, command line, `explain`, `status` and the reference are derived from it. A new stage is a
file with a subclass of core.stage.DataStage, a line here, and a field of its config in pipeline.recipe.Recipe.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2raap.core.records import StageManifest
    from m2raap.core.stage import DataStage, Stage

# By module and class, because a command line that only lists its commands imports none of them.
STAGES: dict[str, str] = {
    "filter": "m2raap.stages.filter:FilterStage",
    "keyframes": "m2raap.stages.keyframes:KeyframesStage",
    "align": "m2raap.stages.align:AlignStage",
    "annotate": "m2raap.stages.annotate:AnnotateStage",
    "caption": "m2raap.stages.caption:CaptionStage",
    "rewrite": "m2raap.stages.rewrite:RewriteStage",
    "cotrain": "m2raap.stages.cotrain:CotrainStage",
    "adapt": "m2raap.stages.adapt:AdaptStage",
    "embed": "m2raap.stages.embed:EmbedStage",
    "evaluate": "m2raap.stages.evaluate:EvaluateStage",
    "report": "m2raap.stages.report:ReportStage",
}


def stage_class(name: str) -> type[Stage[Any]]:
    """The class of a stage of the table."""
    module, _, cls = STAGES[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def stage_classes() -> dict[str, type[Stage[Any]]]:
    """Every stage of the table, in its order."""
    return {name: stage_class(name) for name in STAGES}


def data_stages() -> dict[str, type[DataStage[Any]]]:
    """The stages of the table that map parts, in its order."""
    from m2raap.core.stage import DataStage

    return {name: cls for name, cls in stage_classes().items() if issubclass(cls, DataStage)}


def open_stage(manifest: StageManifest, source: str) -> DataStage[Any]:
    """The data stage that made a folder, with its settings. Raises M2raapError where no data stage of the table made it."""
    from m2raap.core.errors import M2raapError

    cls = data_stages().get(manifest["stage"])
    if cls is None:
        raise M2raapError(f"{source}: was made by '{manifest['stage']}', not by a data stage of this m2raap")
    return cls.from_settings(manifest["settings"], source)


def reasons() -> dict[str, str]:
    """Reason -> sentence, for every reason that a `dropped` or `missing` table may hold."""
    from m2raap.core.errors import NO_TEXT_LEFT, UNREADABLE

    by_stage = {reason: text for cls in stage_classes().values() for reason, text in cls.reasons.items()}
    return UNREADABLE | by_stage | {NO_TEXT_LEFT: "no active text is left for the clip"}


def help_of(name: str) -> str:
    """The first line of the stage's docstring, read without importing its module, which would take seconds."""
    module, _, cls = STAGES[name].partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
    return (ast.get_docstring(node) or "").partition("\n")[0]
