"""Identify a process beyond its number, so that a reused pid is never taken for the old process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["identity", "is_alive"]


def identity(pid: int) -> str | None:
    """Return a string that names this very process, or None when it does not run.

    It joins the machine's boot id with the process's start time (field 22 of ``/proc/PID/stat``);
    a zombie counts as not running. Where there is no ``/proc`` the pid alone is used.
    """
    if pid <= 0:
        return None
    if not Path("/proc/self/stat").exists():  # pragma: no cover - not Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return f"pid-{pid}"
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command name stands in parentheses and may hold spaces: fields are counted after it.
    fields = text[text.rfind(")") + 2 :].split()
    if len(fields) < 20 or fields[0] in ("Z", "X", "x"):
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "boot"
    return f"{boot}:{fields[19]}"


def is_alive(pid: int, name: str | None) -> bool:
    """Tell whether process ``pid`` still is the one that :func:`identity` named ``name``."""
    current = identity(pid)
    return current is not None and (name is None or current == name)
