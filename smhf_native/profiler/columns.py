"""Columns of a job's profiler folder: the one place that touches :mod:`smhf_native.trace`.

Rows and events come as NumPy columns with dictionary codes; everything above works on streams (one name of one
dimension on one node) and never on one Python object per row.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FrameworkColumns",
    "Stream",
    "SystemColumns",
    "dimension_rank",
    "framework_files",
    "natural_key",
    "read_framework",
    "read_system",
    "streams_of",
    "system_files",
]

Int = NDArray[np.int64]
Float = NDArray[np.float64]

SYSTEM_FILE = re.compile(r"^(\d{10})\.(algo-\d+)\.json(\.gz)?$")
FRAMEWORK_FILE = re.compile(r"^(\d{16})_(.+)_([a-z]+(?:_[a-z]+)*)\.json(\.gz)?$")


@dataclass(frozen=True)
class SystemColumns:
    """System metrics, one row per sample.

    Attributes
    ----------
    time : int64 ndarray (n,)
        Nanoseconds since the epoch.
    value : float64 ndarray (n,)
    type, name, dimension, node : int32 ndarray (n,)
        Codes into ``words``.
    words : list of str
        The dictionary.
    faults : list of str
        One sentence for each damaged piece of a file; all whole rows are kept.
    """

    time: Int
    value: Float
    type: NDArray[np.int32]
    name: NDArray[np.int32]
    dimension: NDArray[np.int32]
    node: NDArray[np.int32]
    words: list[str]
    faults: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.time.size)

    def between(self, start_ns: int, end_ns: int) -> SystemColumns:
        """Return the rows with ``start_ns <= time <= end_ns`` (both inclusive, as in smdebug)."""
        keep = (self.time >= start_ns) & (self.time <= end_ns)
        if keep.all():
            return self
        return SystemColumns(
            self.time[keep],
            self.value[keep],
            self.type[keep],
            self.name[keep],
            self.dimension[keep],
            self.node[keep],
            self.words,
            self.faults,
        )


@dataclass(frozen=True)
class Stream:
    """The samples of one name: a core, a GPU, memory, a network counter.

    Attributes
    ----------
    node, type, name, dimension : str
        As in the file, e.g. ``"algo-1", "cpu", "cpu0", "CPUUtilization"``.
    time : int64 ndarray (n,)
        Nanoseconds since the epoch, ascending.
    value : float64 ndarray (n,)
    """

    node: str
    type: str
    name: str
    dimension: str
    time: Int
    value: Float


@dataclass(frozen=True)
class FrameworkColumns:
    """Complete framework events (``X`` and matched ``B``/``E``), by start time.

    Attributes
    ----------
    start, duration : int64 ndarray (n,)
        Nanoseconds (start: since the epoch).
    name, phase : list of str, length n
        Name of the event, and of the phase (process) that it belongs to.
    step : int64 ndarray (n,)
        ``step_num`` of the event, -1 when it has none.
    pid, tid : list of str, length n
        Process and thread that the event names.
    node : list of str, length n
        Node id out of the file name.
    args : list of dict, length n
    faults : list of str
    """

    start: Int
    duration: Int
    name: list[str]
    phase: list[str]
    step: Int
    pid: list[str]
    tid: list[str]
    node: list[str]
    args: list[dict[str, Any]]
    faults: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.start.size)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``cpu2`` comes before ``cpu10``."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(p), "") if p.isdigit() else (0, 0, p) for p in parts if p)


_DIMENSION_ORDER = (
    "CPUUtilization",
    "I/OWaitPercentage",
    "GPUUtilization",
    "GPUMemoryUtilization",
    "",
    "Algorithm",
    "Platform",
)


def dimension_rank(dimension: str) -> tuple[int, str]:
    """Sort key of dimensions: processor first, then GPU, memory and disk, network, anything else by name."""
    if dimension in _DIMENSION_ORDER:
        return _DIMENSION_ORDER.index(dimension), ""
    return len(_DIMENSION_ORDER), dimension


def system_files(folder: Path) -> list[tuple[int, Path]]:
    """List the system metric files below a profiler folder.

    Parameters
    ----------
    folder : Path
        Holds ``system/incremental/<hour>/<minute>.<node>.json``; a flat ``incremental`` folder is taken too.

    Returns
    -------
    list of (int, Path)
        Start of the file's minute in epoch seconds, and the file; by time, then name.
    """
    root = folder / "system"
    found = []
    if root.is_dir():
        for path in root.rglob("*.json*"):
            match = SYSTEM_FILE.match(path.name)
            if match:
                found.append((int(match.group(1)), path))
    return sorted(found, key=lambda item: (item[0], item[1].name))


def framework_files(folder: Path) -> list[tuple[int, Path]]:
    """List the framework event files below a profiler folder.

    Returns
    -------
    list of (int, Path)
        End of the file's last event in epoch microseconds (it is in the name), and the file; by time.
    """
    root = folder / "framework" / "pevents"
    found = []
    if root.is_dir():
        for path in root.rglob("*.json*"):
            match = FRAMEWORK_FILE.match(path.name)
            if match:
                found.append((int(match.group(1)), path))
    return sorted(found, key=lambda item: (item[0], item[1].name))


def streams_of(columns: SystemColumns) -> list[Stream]:
    """Split rows into streams.

    Returns
    -------
    list of Stream
        By node, dimension, type and name (natural order); each in time order, equal times as in the file.
    """
    if len(columns) == 0:
        return []
    base = len(columns.words) + 1
    key = columns.node.astype(np.int64)
    for part in (columns.dimension, columns.type, columns.name):
        key = key * base + part
    order = np.lexsort((np.arange(key.size), columns.time, key))
    key = key[order]
    edges = np.flatnonzero(np.diff(key)) + 1
    result = []
    for piece in np.split(order, edges):
        first = int(piece[0])
        word = columns.words
        result.append(
            Stream(
                node=word[int(columns.node[first])],
                type=word[int(columns.type[first])],
                name=word[int(columns.name[first])],
                dimension=word[int(columns.dimension[first])],
                time=columns.time[piece],
                value=columns.value[piece],
            )
        )
    result.sort(key=lambda s: (natural_key(s.node), dimension_rank(s.dimension), s.type, natural_key(s.name)))
    return result


# Until smhf_native.trace lands, the reading below is plain Python.


def read_system(files: list[Path]) -> SystemColumns:
    """Read system metric files."""
    words: dict[str, int] = {}
    rows: list[tuple[int, float, int, int, int, int]] = []
    faults: list[str] = []

    def code(text: str) -> int:
        return words.setdefault(text, len(words))

    for path in files:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
                whole, _, fraction = repr(item["Timestamp"]).partition(".")
                rows.append(
                    (
                        int(whole) * 10**9 + int((fraction + "0" * 9)[:9]),
                        float(item["Value"]),
                        code(item["Type"]),
                        code(item["Name"]),
                        code(item["Dimension"]),
                        code(item["NodeId"]),
                    )
                )
            except (ValueError, KeyError) as error:
                faults.append(f"{path.name} line {number}: {error}")
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    return SystemColumns(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.float64),
        *(np.array(c, np.int32) for c in columns[2:]),  # type: ignore[arg-type]
        words=list(words),
        faults=faults,
    )


def read_framework(files: list[Path]) -> FrameworkColumns:
    """Read framework event files."""
    raise NotImplementedError
