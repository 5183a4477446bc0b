"""The stages, in the order in which a recipe runs them. The only code that opens corpus and stage folders."""

DATA_STAGES = (
    "filter",
    "keyframes",
    "align",
    "caption",
    "rewrite",
)  # a training corpus; a benchmark sees `keyframes` only
STAGES = (*DATA_STAGES, "adapt", "embed", "evaluate", "report")
