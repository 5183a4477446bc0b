"""Model folders and hubs are not trusted: Python code that comes with a model is never run."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

from m2raap.core.errors import M2raapError

_LOCK = threading.RLock()  # two loads at the same time would restore each other's replacements
_KERNELS = "transformers.integrations.hub_kernels"


@contextlib.contextmanager
def no_foreign_code(subject: str) -> Iterator[None]:
    """Inside, transformers imports no Python of a model and never asks the user for it, whatever the configuration has.

    A configuration can set trust_remote_code itself, and open_clip calls transformers without this argument, so that
    transformers asks the user at a terminal. Passing the argument is therefore not enough. Replaced are the two functions
    that transformers calls before it reads any module of a model, and the one that fetches kernels from a hub, which
    `attn_implementation` may name. `subject` begins the message. Raises M2raapError where the model cannot be loaded
    without its code.
    """
    from transformers import dynamic_module_utils as modules

    sentence = (
        f"{subject} cannot be loaded: it needs Python code that comes with it, and m2raap never runs code of a model; take "
        "a model of a family that open_clip or transformers has itself"
    )

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise M2raapError(sentence)

    replacements: list[tuple[ModuleType, dict[str, Any]]] = [
        (modules, {"check_imports": refuse, "get_relative_import_files": refuse, "TIME_OUT_REMOTE_CODE": 0})
    ]
    with _LOCK:
        sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # None makes its import fail
        if hasattr(sys.modules.get(_KERNELS), "get_kernel"):  # imported earlier, with the package kernels
            replacements.append((sys.modules[_KERNELS], {"get_kernel": refuse}))
        originals = [(module, {name: getattr(module, name) for name in new}) for module, new in replacements]
        for module, new in replacements:
            vars(module).update(new)
        try:
            yield
        except ValueError as error:  # transformers advises to allow the code, or wraps the message above
            if "trust_remote_code" in str(error) or sentence in str(error):
                raise M2raapError(sentence) from error
            raise
        finally:
            for module, original in originals:
                vars(module).update(original)
