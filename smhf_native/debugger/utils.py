"""Small shared pieces of the debugger configuration: enumerations, checks, the pseudo-JSON writer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

__all__ = ["PythonProfiler", "cProfileTimer", "is_valid_regex", "is_valid_unix_time", "to_pseudo_json"]


class PythonProfiler(Enum):
    """Which Python profiler a training job runs (SDK v2 names and values)."""

    CPROFILE = "cprofile"
    PYINSTRUMENT = "pyinstrument"


class cProfileTimer(Enum):
    """What cProfile counts; ``DEFAULT`` cycles through the other three."""

    TOTAL_TIME = "total_time"
    CPU_TIME = "cpu_time"
    OFF_CPU_TIME = "off_cpu_time"
    DEFAULT = "default"


def is_valid_regex(pattern: object) -> bool:
    """Tell whether ``pattern`` is a str that Python's ``re`` compiles."""
    if not isinstance(pattern, str):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def is_valid_unix_time(seconds: int) -> bool:
    """Tell whether ``seconds`` is an epoch time of ten digits or fewer (until the year 2286)."""
    return 0 <= seconds < 10_000_000_000


def to_pseudo_json(config: Mapping[str, Any]) -> str:
    """Write a flat mapping the way the training container expects it.

    Each item is followed by a comma and a blank, the last one too (spec A3):
    ``{"StartStep": 0, "NumSteps": 10, }``.

    Parameters
    ----------
    config : mapping
        Flat; str values are quoted, everything else is written with ``str``.

    Returns
    -------
    str
    """
    items = []
    for key, value in config.items():
        text = f'"{value}"' if isinstance(value, str) else str(value)
        items.append(f'"{key}": {text}, ')
    return "{" + "".join(items) + "}"
