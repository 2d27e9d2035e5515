"""``transformers.utils.logging``: verbosity control over the mirror's loggers.

The mirror logs under ``smhf_native.transformers``; warnings go to stderr through an own handler, as
transformers does, and the root logger is left alone.  ``TRANSFORMERS_VERBOSITY`` sets the level.
"""

from __future__ import annotations

import logging
import os
import sys
from logging import CRITICAL, DEBUG, ERROR, FATAL, INFO, NOTSET, WARN, WARNING
from typing import Any

from smhf_native.verbosity import Verbosity

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "FATAL",
    "INFO",
    "NOTSET",
    "WARN",
    "WARNING",
    "disable_default_handler",
    "disable_progress_bar",
    "disable_propagation",
    "enable_default_handler",
    "enable_explicit_format",
    "enable_progress_bar",
    "enable_propagation",
    "get_logger",
    "get_verbosity",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
]

_NAME = "smhf_native.transformers"
_LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}


class _Stderr(logging.StreamHandler[Any]):
    """Write to whatever ``sys.stderr`` is at the time (a notebook or a test may replace it)."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Return the current stderr."""
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        return None


def _root() -> logging.Logger:
    root = logging.getLogger(_NAME)
    if not any(isinstance(handler, _Stderr) for handler in root.handlers) and root.level == NOTSET:
        root.addHandler(_Stderr())
        root.setLevel(_LEVELS.get(os.environ.get("TRANSFORMERS_VERBOSITY", "").lower(), WARNING))
        root.propagate = False
    return root


def get_logger(name: str | None = None) -> logging.Logger:
    """Return a logger; names of the mirror sit below its root, others are Python's own."""
    _root()
    if name is None or name == "transformers":
        return logging.getLogger(_NAME)
    if name.startswith("transformers."):
        name = _NAME + name[len("transformers") :]
    return logging.getLogger(name)


_levels = Verbosity(_root)
get_verbosity, set_verbosity = _levels.get_verbosity, _levels.set_verbosity
set_verbosity_debug, set_verbosity_info = _levels.set_verbosity_debug, _levels.set_verbosity_info
set_verbosity_warning, set_verbosity_error = _levels.set_verbosity_warning, _levels.set_verbosity_error


def enable_default_handler() -> None:
    """Write the mirror's records to stderr."""
    root = _root()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        root.addHandler(_Stderr())


def disable_default_handler() -> None:
    """Stop writing the mirror's records to stderr."""
    root = _root()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(handler)


def enable_propagation() -> None:
    """Let records reach the root logger's handlers."""
    _root().propagate = True


def disable_propagation() -> None:
    """Keep records from the root logger's handlers."""
    _root().propagate = False


def enable_explicit_format() -> None:
    """Prefix records with level, file and time."""
    for handler in _root().handlers:
        handler.setFormatter(
            logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s")
        )


def enable_progress_bar() -> None:
    """Do nothing: bars appear on terminals only (``disable_tqdm`` switches them off)."""


def disable_progress_bar() -> None:
    """Do nothing: bars appear on terminals only."""
