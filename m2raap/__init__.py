"""m2raap: from a raw heap of videos and captions to a zero-shot video-text retrieval model, in English and Chinese.

`m2raap.load(folder)` gives a model with `encode_video` and `encode_text`; `m2raap.run(recipe, data=..., out=...)` carries
out a recipe; `m2raap.evaluate(model, benchmark)` scores any model (all in `m2raap.api`). Nothing heavy is imported before one
of them is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_API = ("evaluate", "load", "run")


def __getattr__(name: str) -> Any:
    if name in _API:
        # By name, because every module of the package imports the package: it may not import them back.
        return getattr(importlib.import_module("m2raap.api"), name)
    raise AttributeError(f"module 'm2raap' has no attribute '{name}'")
