"""What can compute here, and why the rest cannot."""

from __future__ import annotations

from typing import Any

from smhf_native.model import _model

__all__ = ["backends"]


def backends() -> dict[str, dict[str, Any]]:
    """List the compute backends of this build.

    Returns
    -------
    dict
        Name (``"cpu"``, ``"cuda"``) to a dict with ``available`` (bool), ``reason`` (why not, else
        empty) and, where available, ``name`` of the hardware, ``tier`` of kernels that run,
        ``detail``, ``units`` (threads or multiprocessors), ``memory_bytes``, ``memory_free``
        (bytes, 0: unknown) and ``capabilities`` (of ``"bf16"``, ``"int8"``, ``"graph"`` ...).

    Examples
    --------
    >>> backends()["cpu"]["available"]
    True
    """
    return _model.backends()
