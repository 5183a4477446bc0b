"""How the libraries load a model: in silence, without waiting for a hub that is out of reach, without code of strangers."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.parse
import warnings
from collections.abc import Iterator

from m2raap.core.errors import M2raapError
from m2raap.models.foreign_code import no_foreign_code


@contextlib.contextmanager
def loading(subject: str, name: str, logger: str) -> Iterator[None]:
    """Inside, a library may load the model `name`, a name on a hub or a local-dir.

    `logger` is the name of the library's logger. `subject` begins the sentence of the M2raapError that is raised where
    the model cannot be loaded without running code of its own.
    """
    quiet = _quiet_loggers(logger, "huggingface_hub")
    with warnings.catch_warnings(), quiet, _no_waiting_for_a_hub(name), no_foreign_code(subject):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _quiet_loggers(*names: str) -> Iterator[None]:
    """Inside, these loggers are silent: they log as errors what is raised as an M2raapError, and every retry."""
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
    """Inside, no hub is asked: a model that a folder names, not the user, is loaded from this machine or not at all.

    `named_by`: a sentence saying which file names the model, added to the M2raapError where it cannot be loaded.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    except M2raapError as error:
        raise M2raapError(f"{error} {named_by}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _no_waiting_for_a_hub(name: str) -> Iterator[None]:
    """Inside, the hub's client uses only its cache where the hub cannot be reached; it would retry a minute for each file.

    Whether the hub can be reached is tried once. No hub is asked for a local-dir.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
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
