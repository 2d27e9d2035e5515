"""What can compute here, and why the rest cannot."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
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


_NVIDIA = Path("/dev/nvidiactl")  # there when an NVIDIA driver is


def warn_of_fallback(device: str, backend: str) -> None:
    """Warn when ``"auto"`` fell back to the CPU although the machine has an NVIDIA device.

    Parameters
    ----------
    device : str
        What was asked for.
    backend : str
        What was opened.
    """
    if device != "auto" or backend != "cpu" or os.environ.get("SMHF_DEVICE") or not _NVIDIA.exists():
        return
    reason = backends().get("cuda", {}).get("reason")
    if reason:
        warnings.warn(f'device="auto" computes on the CPU: {reason}', RuntimeWarning, stacklevel=3)
