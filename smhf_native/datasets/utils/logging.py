"""``datasets.utils.logging``: levels of the logger ``smhf_native.datasets``."""

from __future__ import annotations

import logging
from logging import CRITICAL, DEBUG, ERROR, INFO, NOTSET, WARNING

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


def get_verbosity() -> int:
    """Return the level of the mirror's logger."""
    return logging.getLogger(_NAME).getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Set the level of the mirror's logger."""
    logging.getLogger(_NAME).setLevel(verbosity)


def set_verbosity_info() -> None:
    """Show INFO and above."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Show WARNING and above."""
    set_verbosity(WARNING)


def set_verbosity_debug() -> None:
    """Show everything."""
    set_verbosity(DEBUG)


def set_verbosity_error() -> None:
    """Show ERROR and above."""
    set_verbosity(ERROR)
