"""``requirements.txt`` of a script: what is here already, what we mirror, what is missing.

Mirrored names and torch are skipped with a line; what can be imported counts as present; the rest is
installed into a folder of the job alone when ``SMHF_ALLOW_PIP=1``, else the job is refused.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from smhf_native.exceptions import PreflightError
from smhf_native.mirrors import MIRRORS

__all__ = ["MIRRORED", "Plan", "pip_allowed", "pip_command", "plan"]

#: Packages whose names resolve to this project inside a job, and torch, which it does not need.
MIRRORED = frozenset({*MIRRORS, "torch"})

_NAME = re.compile(r"^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)$")


@dataclass
class Plan:
    """What becomes of each line."""

    #: Names that this project provides.
    skipped: list[str] = field(default_factory=list)
    #: Names that can be imported already.
    present: list[str] = field(default_factory=list)
    #: Requirement lines that would have to be installed.
    missing: list[str] = field(default_factory=list)
    #: Options such as ``--index-url`` that only pip understands.
    options: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the sentences to print about what is not installed."""
        out = []
        if self.skipped:
            out.append(f"requirements.txt: {', '.join(self.skipped)}: provided by smhf_native; not installed")
        if self.present:
            out.append(f"requirements.txt: {', '.join(self.present)}: already importable; not installed")
        if self.missing:
            out.append(
                f"requirements.txt: {', '.join(self.missing)}: to be installed into the job's own folder"
            )
        return out


def pip_allowed() -> bool:
    """Tell whether the user allowed pip for jobs (``SMHF_ALLOW_PIP=1``)."""
    return os.environ.get("SMHF_ALLOW_PIP", "").strip() == "1"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _present(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
        return True
    except importlib.metadata.PackageNotFoundError:
        pass
    module = _normal(name).replace("-", "_")
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _marker_applies(marker: str) -> bool:
    """Evaluate an environment marker when ``packaging`` is there; else assume that it applies."""
    try:
        from packaging.markers import InvalidMarker, Marker
    except ImportError:
        return True
    try:
        return bool(Marker(marker).evaluate())
    except InvalidMarker:
        return True


def plan(path: Path, _depth: int = 0) -> Plan:
    """Read ``path`` (and the files it includes with ``-r``) and sort its lines.

    Raises
    ------
    PreflightError
        A line that is no requirement, or an included file that does not exist; names file and line.
    """
    result = Plan()
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    number = 0
    pending = ""
    for raw in text.split("\n"):
        number += 1
        line = pending + re.sub(r"(^|\s)#.*$", "", raw.rstrip("\r")).strip()
        pending = ""
        if line.endswith("\\"):
            pending = line[:-1]
            continue
        if not line:
            continue
        include = re.match(r"(?:-r|--requirement)[ =]*(.+)$", line)
        if include:
            other = path.parent / include.group(1).strip()
            if _depth > 8 or not other.is_file():
                raise PreflightError(f"{path.name}, line {number}: included file {str(other)!r} not found")
            inner = plan(other, _depth + 1)
            for name in ("skipped", "present", "missing", "options"):
                getattr(result, name).extend(getattr(inner, name))
            continue
        if line.startswith("-"):
            if re.match(r"(-e|--editable)\b", line):
                result.missing.append(line)
            else:
                result.options.append(line)
            continue
        requirement, _, marker = line.partition(";")
        if marker.strip() and not _marker_applies(marker.strip()):
            continue
        match = _NAME.match(requirement.strip())
        if match is None or (match.group(3) and not re.match(r"[<>=!~(@]", match.group(3))):
            if re.match(r"(\w+\+)?\w+://|[./]", requirement.strip()):
                result.missing.append(line)
                continue
            raise PreflightError(f"{path.name}, line {number}: {raw.strip()!r} is no requirement")
        name = match.group(1)
        if _normal(name) in MIRRORED:
            result.skipped.append(name)
        elif _present(name):
            result.present.append(name)
        else:
            result.missing.append(requirement.strip())
    return result


def pip_command(found: Plan, target: Path) -> list[str]:
    """Return the pip command that puts the missing requirements into ``target``."""
    options = [part for line in found.options for part in line.split(maxsplit=1)]
    return [
        sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
        "--target", str(target), *options, *found.missing,
    ]  # fmt: skip
