"""The libraries load a model without log output, without waiting for an unreachable hub and without code of the model."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.parse
import warnings
from collections.abc import Iterator

from m2raap.core.errors import M2raapError, UsageError
from m2raap.models.foreign_code import no_foreign_code


@contextlib.contextmanager
def loading(subject: str, name: str, logger: str) -> Iterator[None]:
    """Inside, a library may load the model `name`: a name on a hub, or local-dir:/folder.

    `logger` is the name of the library's logger. `subject` begins the message of the M2raapError that is raised where
    the model cannot be loaded without running code that comes with it.
    """
    quiet = _quiet_loggers(logger, "huggingface_hub")
    with warnings.catch_warnings(), quiet, _no_waiting_for_a_hub(name), no_foreign_code(subject):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _quiet_loggers(*names: str) -> Iterator[None]:
    """Inside, these loggers are silent: they would log every retry, and errors that are raised as an M2raapError anyway."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def from_cache_alone(named_by: str) -> Iterator[None]:
    """Inside, models are loaded from this machine alone: a name that a folder contains does not cause a download.

    `named_by`: a sentence saying which file names the model, added to the M2raapError where it cannot be loaded.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    except UsageError:  # what the command line lacks is not about downloads
        raise
    except M2raapError as error:
        raise M2raapError(f"{error} {named_by}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _no_waiting_for_a_hub(name: str) -> Iterator[None]:
    """Inside, the hub's client uses its cache alone where the hub cannot be reached; it would retry each file for a minute.

    Whether the hub can be reached is tried once. For a local-dir the cache alone is used.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    proxied = any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    if name.startswith("local-dir:"):
        constants.HF_HUB_OFFLINE = True
    elif not before and not proxied:
        url = urllib.parse.urlsplit(constants.ENDPOINT)
        try:
            socket.create_connection((url.hostname or "", url.port or 443), timeout=5).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
