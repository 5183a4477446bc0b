"""Models come from strangers: a folder or a hub may hold Python of its own, and none of it is ever run."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

from m2raap.core.errors import M2raapError

_LOCK = threading.RLock()  # two loads at once would put back each other's functions
_KERNELS = "transformers.integrations.hub_kernels"


@contextlib.contextmanager
def no_foreign_code(subject: str) -> Iterator[None]:
    """Inside, transformers imports no module of a model and asks nobody whether it may, whatever a configuration says.

    A configuration can bring trust_remote_code itself, and open_clip calls transformers without it, which at a terminal
    asks the user. So the argument alone is not enough: what is closed are the two functions that every way to a
    model's module goes through, before the module is read, and the one that fetches kernels of a hub, which
    `attn_implementation` may name. `subject` begins the sentence. Raises M2raapError where the model cannot be had without its
    code.
    """
    from transformers import dynamic_module_utils as modules

    sentence = (
        f"{subject} cannot be loaded: it wants to run Python of its own, and m2raap never runs code that comes with a "
        "model; take one of a family that open_clip or transformers knows"
    )

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise M2raapError(sentence)

    closed: list[tuple[ModuleType, dict[str, Any]]] = [
        (modules, {"check_imports": refuse, "get_relative_import_files": refuse, "TIME_OUT_REMOTE_CODE": 0})
    ]
    with _LOCK:
        sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # Python's own mark of what cannot be imported
        if hasattr(sys.modules.get(_KERNELS), "get_kernel"):  # imported before, with that package
            closed.append((sys.modules[_KERNELS], {"get_kernel": refuse}))
        before = [(module, {name: getattr(module, name) for name in names}) for module, names in closed]
        for module, names in closed:
            vars(module).update(names)
        try:
            yield
        except ValueError as error:  # transformers' own refusal, whose advice is to allow it, or ours in its words
            if "trust_remote_code" in str(error) or sentence in str(error):
                raise M2raapError(sentence) from error
            raise
        finally:
            for module, names in before:
                vars(module).update(names)
