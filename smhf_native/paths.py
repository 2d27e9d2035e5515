"""Where a path really lies: the one question that every room asks before it hands a path to C.

Inside a local training job ``/opt/ml/…`` means the job's own tree. Python's ``open`` and ``os`` are told
so by :mod:`smhf_native.jobs.opt_ml`; compiled code opens files itself and needs the real path::

    from smhf_native.paths import real_path
    core = _room.open(real_path(path))

Outside a job the function returns its argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["real_path", "set_mapper"]

_mapper: Callable[[Any], Any] | None = None


def real_path(path: Any) -> Any:
    """Return the real place of ``path`` (str, bytes or path-like); other values come back unchanged."""
    return path if _mapper is None else _mapper(path)


def set_mapper(mapper: Callable[[Any], Any] | None) -> None:
    """Install or remove what :func:`real_path` asks; for :mod:`smhf_native.jobs.opt_ml` alone."""
    global _mapper
    _mapper = mapper
