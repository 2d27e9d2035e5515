"""``datasets.utils.logging``: levels of the logger ``smhf_native.datasets``."""

from __future__ import annotations

import logging
from logging import CRITICAL, DEBUG, ERROR, INFO, NOTSET, WARNING

from smhf_native.verbosity import Verbosity

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "INFO",
    "NOTSET",
    "WARNING",
    "get_logger",
    "get_verbosity",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
]

_NAME = "smhf_native.datasets"


def get_logger(name: str | None = None) -> logging.Logger:
    """Return a logger of Python's own (default: the mirror's)."""
    return logging.getLogger(name or _NAME)


_levels = Verbosity(get_logger)
get_verbosity, set_verbosity = _levels.get_verbosity, _levels.set_verbosity
set_verbosity_debug, set_verbosity_info = _levels.set_verbosity_debug, _levels.set_verbosity_info
set_verbosity_warning, set_verbosity_error = _levels.set_verbosity_warning, _levels.set_verbosity_error
