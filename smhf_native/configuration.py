"""What is built, what is missing and why: ``smhf_native.config()`` and ``smhf doctor``."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from pathlib import Path
from typing import Any

from smhf_native._version import __version__

__all__ = ["config", "format_config"]

ROOMS = ("tokenizer", "model", "invoker", "server", "trace")
EXTRAS = {
    "pandas": ("pandas",),
    "aws": ("boto3",),
    "hub": ("huggingface_hub",),
    "sklearn": ("sklearn",),
    "progress": ("tqdm",),
    "notebook": ("ipykernel", "nbclient", "nbformat", "pygments"),
}


def _room(name: str) -> dict[str, Any]:
    """Whether a compiled room loads."""
    try:
        module = importlib.import_module(f"smhf_native.{name}._{name}")
    except ImportError as error:
        return {"available": False, "reason": str(error)}
    return {"available": True, "file": str(module.__file__)}


def config() -> dict[str, Any]:
    """Describe this installation.

    Returns
    -------
    dict
        ``version``, ``python``, ``platform``, ``rooms`` (name to available/reason), ``backends``
        (as :func:`smhf_native.backends`), ``extras`` (name to missing packages), ``mode`` (local or
        aws) and ``home`` (the folder of local jobs and the store).
    """
    from smhf_native.jobs import records
    from smhf_native.session import resolve_mode

    rooms = {name: _room(name) for name in ROOMS}
    backends: dict[str, Any] = {}
    if rooms["model"]["available"]:
        backends = importlib.import_module("smhf_native.model").backends()
    missing = {
        extra: [name for name in names if importlib.util.find_spec(name) is None]
        for extra, names in EXTRAS.items()
    }
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "package": str(Path(__file__).parent),
        "rooms": rooms,
        "backends": backends,
        "extras": missing,
        "mode": resolve_mode(),
        "home": str(records.home()),
    }


def format_config(value: dict[str, Any]) -> str:
    """Lay :func:`config` out for a terminal."""
    lines = [f"smhf_native {value['version']} on Python {value['python']}, {value['platform']}"]
    lines.append(f"mode {value['mode']}, home {value['home']}")
    for name, room in value["rooms"].items():
        lines.append(f"  {'✓' if room['available'] else '✗'} room {name}{_why(room)}")
    for name, backend in value["backends"].items():
        tier = f" ({backend['tier']})" if backend.get("tier") else ""
        mark = "✓" if backend.get("available") else "✗"
        lines.append(f"  {mark} backend {name}{tier}{_why(backend)}")
    for name, absent in value["extras"].items():
        if absent:
            note = f": {', '.join(absent)} not installed (pip install 'smhf_native[{name}]')"
            lines.append(f"  ✗ extra {name}{note}")
        else:
            lines.append(f"  ✓ extra {name}")
    return "\n".join(lines)


def _why(entry: dict[str, Any]) -> str:
    return f": {entry['reason']}" if entry.get("reason") else ""
