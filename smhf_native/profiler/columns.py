"""Columns of a job's profiler folder: the one place that touches :mod:`smhf_native.trace`.

Rows and events come as NumPy columns with dictionary codes; everything above works on streams (one name of
one dimension on one node) and never on one Python object per row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from smhf_native.errors import ParseError
from smhf_native.trace import Trace

# Flag of an event that has a time (the trace room's SMHF_TRACE_HAS_TS).
HAS_TS = 1

__all__ = [
    "Float",
    "FrameworkColumns",
    "Int",
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
FRAMEWORK_FILE = re.compile(r"^(\d{16})_(.+?)_([a-z]+_timeline|[a-z]*timeline)\.json(\.gz)?$")


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
        return self if keep.all() else self.where(keep)

    def where(self, keep: NDArray[np.bool_]) -> SystemColumns:
        """Return the rows for which ``keep`` is True."""
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
    args : sequence of dict, length n
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
    args: Sequence[dict[str, Any]]
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
    finite = np.isfinite(columns.value)
    if not finite.all():  # no sampler measures NaN or infinity; one such row must not blank a whole chart
        columns = columns.where(finite)
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


def read_system(files: Sequence[Path]) -> SystemColumns:
    """Read system metric files.

    Damaged rows, files that are no system metrics and files that cannot be read cost only themselves and are
    named in ``faults``.
    """
    parts, faults = _open_all(files, "row_columns")
    words: dict[str, int] = {}
    pieces: dict[str, list[NDArray[Any]]] = {key: [] for key in _ROW_KEYS}
    for trace in parts:
        table = trace.row_columns
        recode = np.array([words.setdefault(name, len(words)) for name in trace.names] or [0], np.int32)
        # Scalars share the table; they are no system metrics.
        keep = table["iteration"] == -1
        for key in ("type", "name", "dimension", "node"):
            pieces[key].append(recode[table[key][keep]])
        pieces["ts"].append(table["ts"][keep])
        pieces["value"].append(table["value"][keep])

    def column(key: str, dtype: type) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *pieces[key]]).astype(dtype, copy=False)

    return SystemColumns(
        time=column("ts", np.int64),
        value=column("value", np.float64),
        type=column("type", np.int32),
        name=column("name", np.int32),
        dimension=column("dimension", np.int32),
        node=column("node", np.int32),
        words=list(words),
        faults=faults,
    )


def read_framework(files: Sequence[Path]) -> FrameworkColumns:
    """Read framework event files: complete events, with the names of their processes as phases.

    Damaged events and files that cannot be read cost only themselves and are named in ``faults``.
    """
    parts, faults = _open_all(files, "event_columns")
    start: list[Int] = []
    duration: list[Int] = []
    step: list[Int] = []
    name: list[str] = []
    phase: list[str] = []
    pid: list[str] = []
    tid: list[str] = []
    node: list[str] = []
    places: list[tuple[Trace, int]] = []
    for trace in parts:
        table, names = trace.event_columns, trace.names
        processes: dict[tuple[int, int], str] = {}
        for i in np.flatnonzero(table["ph"] == ord("M")).tolist():
            if names[table["name"][i]] == "process_name":
                label = trace.event_args(i).get("name")
                if label is not None:
                    processes[int(table["file"][i]), int(table["pid"][i])] = str(label)
        nodes = [_node_of(file.path) for file in trace.files]
        spans = trace.spans()
        index = spans.event.astype(np.int64)
        good = (table["flags"][index] & HAS_TS) != 0
        index = index[good]
        start.append(spans.ts[good])
        duration.append(spans.dur[good])
        step.append(trace.args_int64("step_num", -1)[index])
        for i in index.tolist():
            file, process = int(table["file"][i]), int(table["pid"][i])
            name.append(names[table["name"][i]])
            phase.append(processes.get((file, process), ""))
            pid.append(str(process))
            tid.append(str(int(table["tid"][i])))
            node.append(nodes[file])
            places.append((trace, i))
    starts = np.concatenate([np.empty(0, np.int64), *start])
    order = np.argsort(starts, kind="stable")
    chosen = order.tolist()
    return FrameworkColumns(
        start=starts[order],
        duration=np.concatenate([np.empty(0, np.int64), *duration])[order],
        name=[name[i] for i in chosen],
        phase=[phase[i] for i in chosen],
        step=np.concatenate([np.empty(0, np.int64), *step])[order],
        pid=[pid[i] for i in chosen],
        tid=[tid[i] for i in chosen],
        node=[node[i] for i in chosen],
        args=_Arguments([places[i] for i in chosen]),
        faults=faults,
    )


_ROW_KEYS = ("type", "name", "dimension", "node", "ts", "value")


class _Arguments(Sequence[dict[str, Any]]):
    """The arguments of events, parsed when asked for."""

    def __init__(self, places: list[tuple[Trace, int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [trace.event_args(i) for trace, i in self._places[index]]
        trace, i = self._places[index]
        return trace.event_args(i)


def _open_all(files: Sequence[Path], table: str) -> tuple[list[Trace], list[str]]:
    """Open all files at once; where one of them is refused, one by one without those that are."""
    if not files:
        return [], []
    traces: list[Trace] = []
    faults: list[str] = []
    try:
        traces.append(Trace.open(list(files)))
    except (ParseError, OSError):
        for path in files:
            try:
                traces.append(Trace.open(path))
            except (ParseError, OSError) as error:
                faults.append(f"{path.name}: {error}")
    for trace in traces:
        for fault in trace.faults:
            where = f"{Path(fault.file).name}, line {fault.line}, byte {fault.offset}"
            faults.append(f"{where}: {fault.reason}")
        if trace.fault_total > len(trace.faults):
            faults.append(f"{trace.fault_total - len(trace.faults)} more")
    return [trace for trace in traces if len(getattr(trace, table)["ts"])], faults


def _node_of(path: str) -> str:
    match = FRAMEWORK_FILE.match(Path(path).name)
    return match.group(2) if match else ""
