"""Readers of a job's profiler files under smdebug's names.

``LocalSystemMetricsReader`` and ``LocalAlgorithmMetricsReader`` read a folder, the ``S3…`` ones an ``s3://``
address: the local store in local mode, S3 through boto3 in AWS mode.  Unlike smdebug's they parse whole files
into columns, keep them until a file changes, keep every whole row of a torn file (what was torn stands in
``faults``), and do not lose the newest minute.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from smhf_native.profiler import columns as cols
from smhf_native.profiler.columns import FrameworkColumns, SystemColumns

__all__ = [
    "AlgorithmMetricsReader",
    "LocalAlgorithmMetricsReader",
    "LocalSystemMetricsReader",
    "ProfilerSystemEvent",
    "S3AlgorithmMetricsReader",
    "S3SystemMetricsReader",
    "SystemMetricsReader",
    "TimeUnits",
    "TraceEvent",
]


class TimeUnits(Enum):
    """Units of the times that readers take."""

    SECONDS = 1
    MILLISECONDS = 2
    MICROSECONDS = 3
    NANOSECONDS = 4


_NS = {
    TimeUnits.SECONDS: 1_000_000_000,
    TimeUnits.MILLISECONDS: 1_000_000,
    TimeUnits.MICROSECONDS: 1_000,
    TimeUnits.NANOSECONDS: 1,
}


@dataclass(frozen=True)
class ProfilerSystemEvent:
    """One row of system metrics; ``timestamp`` in epoch seconds."""

    type: str
    name: str
    dimension: str
    value: float
    node_id: str
    timestamp: float


@dataclass(frozen=True)
class TraceEvent:
    """One framework event; times in nanoseconds since the epoch."""

    event_name: str
    start_time: int
    end_time: int
    duration: int
    phase: str
    pid: str
    tid: str
    event_args: dict[str, Any]
    node_id: str
    step: int


_Columns = TypeVar("_Columns", SystemColumns, FrameworkColumns)


class _Reader(Generic[_Columns]):
    """Common part: which files there are, and their columns, read when they changed."""

    _kind = ""

    def __init__(self, root: _Root) -> None:
        self._root = root
        self._files: list[tuple[int, Path]] = []
        self._read_state: Any = None
        self._columns: _Columns | None = None
        self.refresh_event_file_list()

    @property
    def faults(self) -> list[str]:
        """Sentences about damaged places in the files read."""
        return self.columns().faults

    def refresh_event_file_list(self) -> None:
        """Look for new files (in AWS mode: fetch them)."""
        self._files = self._find(self._root.refresh(self._kind))

    def get_timestamp_of_first_available_file(self) -> int:
        """Return the time in the first file's name, microseconds; 0 without files."""
        return self._name_us(0) if self._files else 0

    def columns(self) -> _Columns:
        """Return all columns of the files that the last refresh found."""
        files = [path for _, path in self._files]
        state = [(path, _size_and_time(path)) for path in files]
        if self._columns is None or state != self._read_state:
            self._columns = self._read(files)
            self._read_state = state
        return self._columns

    def _find(self, folder: Path) -> list[tuple[int, Path]]:
        raise NotImplementedError

    def _read(self, files: list[Path]) -> _Columns:
        raise NotImplementedError

    def _name_us(self, index: int) -> int:
        raise NotImplementedError


class SystemMetricsReader(_Reader[SystemColumns]):
    """Reader of ``system/incremental``; see :class:`LocalSystemMetricsReader`."""

    _kind = "system"

    def get_timestamp_of_latest_available_file(self) -> int:
        """Return the time of the newest row, in microseconds (rounded up); 0 without files.

        smdebug returns the start of the newest file's minute, and whoever asks for events until then loses
        that minute.
        """
        if not self._files:
            return 0
        found = self.columns()
        newest = int(found.time.max()) if len(found) else 0
        return max(-(-newest // 1000), self._name_us(-1))

    def get_events(
        self,
        start_time: float = 0,
        end_time: float | None = None,
        unit: TimeUnits = TimeUnits.MICROSECONDS,
        event_type: str | None = None,
        file_suffix_filter: list[str] | None = None,
    ) -> list[ProfilerSystemEvent]:
        """Return the rows of a time range, both ends inclusive.

        Parameters
        ----------
        start_time, end_time : float
            Since the epoch, in ``unit``; ``end_time`` None: everything until now.
        unit : TimeUnits
        event_type : str, optional
            ``"cpu"``, ``"gpu"``, ``"memory"``, ``"i/o"`` or ``"network"``.
        file_suffix_filter : list of str, optional
            Keeps rows of files whose name ends so (before ``.json``).

        Returns
        -------
        list of ProfilerSystemEvent
            In file order.
        """
        start_ns, end_ns = _range_ns(start_time, end_time, unit)
        if file_suffix_filter:
            chosen = [p for _, p in self._files if _stem(p).endswith(tuple(file_suffix_filter))]
            found = self._read(chosen)
        else:
            found = self.columns()
        found = found.between(start_ns, end_ns)
        word = found.words
        rows = zip(
            found.type.tolist(),
            found.name.tolist(),
            found.dimension.tolist(),
            found.value.tolist(),
            found.node.tolist(),
            (found.time / 1e9).tolist(),
            strict=True,
        )
        wanted = None if event_type is None else str(getattr(event_type, "value", event_type)).lower()
        return [
            ProfilerSystemEvent(word[t], word[n], word[d], v, word[i], s)
            for t, n, d, v, i, s in rows
            if wanted is None or word[t].lower() == wanted
        ]

    def get_current_time_range_for_event_query(self) -> tuple[int, int]:
        """Return first file's and newest row's time, microseconds."""
        return self.get_timestamp_of_first_available_file(), self.get_timestamp_of_latest_available_file()

    def _find(self, folder: Path) -> list[tuple[int, Path]]:
        return cols.system_files(folder)

    def _read(self, files: list[Path]) -> SystemColumns:
        return cols.read_system(files)

    def _name_us(self, index: int) -> int:
        return self._files[index][0] * 1_000_000


class AlgorithmMetricsReader(_Reader[FrameworkColumns]):
    """Reader of ``framework/pevents``; see :class:`LocalAlgorithmMetricsReader`."""

    _kind = "framework"

    def get_timestamp_of_latest_available_file(self) -> int:
        """Return the time in the newest file's name (end of its last event), microseconds; 0 without files."""
        return self._name_us(-1) if self._files else 0

    def get_events(
        self,
        start_time: float = 0,
        end_time: float | None = None,
        unit: TimeUnits = TimeUnits.MICROSECONDS,
        event_type: str | None = None,
        file_suffix_filter: list[str] | None = None,
    ) -> list[TraceEvent]:
        """Return the events that start and end in a time range (both ends inclusive), by start time.

        Parameters
        ----------
        start_time, end_time : float
            Since the epoch, in ``unit``; ``end_time`` None: everything until now.
        unit : TimeUnits
        event_type : str, optional
            Name of an event or of a phase.
        file_suffix_filter : list of str, optional
            E.g. ``["pythontimeline"]``.
        """
        start_ns, end_ns = _range_ns(start_time, end_time, unit)
        if file_suffix_filter:
            found = self._read([p for _, p in self._files if _stem(p).endswith(tuple(file_suffix_filter))])
        else:
            found = self.columns()
        keep = (found.start >= start_ns) & (found.start + found.duration <= end_ns)
        return [
            event
            for event in (_trace_event(found, int(i)) for i in np.flatnonzero(keep))
            if event_type is None or event_type in (event.event_name, event.phase)
        ]

    def get_events_by_step(
        self,
        start_step: int,
        end_step: int,
        event_type: str | None = None,
        file_suffix_filter: list[str] | None = None,
    ) -> list[TraceEvent]:
        """Return the events from the start of one step to the end of another.

        Parameters
        ----------
        start_step, end_step : int
            ``step_num`` of step events, ``start_step <= end_step``.
        """
        found = self.columns()
        inside = (found.step >= start_step) & (found.step <= end_step)
        if not inside.any():
            return []
        start = int(found.start[inside].min())
        end = int((found.start + found.duration)[inside].max())
        return self.get_events(start, end, TimeUnits.NANOSECONDS, event_type, file_suffix_filter)

    def get_current_time_range_for_event_query(self) -> tuple[int, int]:
        """Return first and newest file's time, microseconds."""
        return self.get_timestamp_of_first_available_file(), self.get_timestamp_of_latest_available_file()

    def _find(self, folder: Path) -> list[tuple[int, Path]]:
        return cols.framework_files(folder)

    def _read(self, files: list[Path]) -> FrameworkColumns:
        return cols.read_framework(files)

    def _name_us(self, index: int) -> int:
        return self._files[index][0]


class LocalSystemMetricsReader(SystemMetricsReader):
    """System metrics of a folder.

    Parameters
    ----------
    trace_root_folder : path
        The folder that holds ``system/``.
    use_in_memory_cache : bool
        Accepted; columns are always kept until a file changes.
    """

    def __init__(self, trace_root_folder: str | Path, use_in_memory_cache: bool = False) -> None:
        super().__init__(_LocalRoot(trace_root_folder))
        self.trace_root_folder = str(trace_root_folder)


class LocalAlgorithmMetricsReader(AlgorithmMetricsReader):
    """Framework events of a folder (the one that holds ``framework/``)."""

    def __init__(self, trace_root_folder: str | Path, use_in_memory_cache: bool = False) -> None:
        super().__init__(_LocalRoot(trace_root_folder))
        self.trace_root_folder = str(trace_root_folder)


class S3SystemMetricsReader(SystemMetricsReader):
    """System metrics below an ``s3://`` address (``…/profiler-output``).

    Parameters
    ----------
    s3_trial_path : str
    use_in_memory_cache : bool
        Accepted; columns are always kept until a file changes.
    region : str, optional
        AWS mode: region of the client.
    """

    def __init__(
        self, s3_trial_path: str, use_in_memory_cache: bool = False, region: str | None = None
    ) -> None:
        super().__init__(_s3_root(s3_trial_path, region))
        self.s3_trial_path = s3_trial_path


class S3AlgorithmMetricsReader(AlgorithmMetricsReader):
    """Framework events below an ``s3://`` address (``…/profiler-output``)."""

    def __init__(
        self, s3_trial_path: str, use_in_memory_cache: bool = False, region: str | None = None
    ) -> None:
        super().__init__(_s3_root(s3_trial_path, region))
        self.s3_trial_path = s3_trial_path


# Where the files are.


class _Root:
    def refresh(self, kind: str) -> Path:
        raise NotImplementedError


class _LocalRoot(_Root):
    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.name in ("system", "framework") and not (self.folder / self.folder.name).exists():
            self.folder = self.folder.parent

    def refresh(self, kind: str) -> Path:
        return self.folder


class _AwsRoot(_Root):
    """A local copy of the files below an S3 prefix, fetched as they appear or grow."""

    def __init__(self, uri: str, region: str | None, client: Any = None) -> None:
        from smhf_native.store import parse_uri

        self.bucket, self.prefix = parse_uri(uri.rstrip("/") + "/")
        if client is None:
            try:
                import boto3
            except ImportError:
                from smhf_native.errors import MissingExtraError

                raise MissingExtraError.of("boto3", "aws", f"reading {uri}") from None
            client = boto3.Session(region_name=region).client("s3")
        self.client = client
        self.copy = Path(tempfile.mkdtemp(prefix="smhf-profiler-"))
        weakref.finalize(self, shutil.rmtree, self.copy, True)
        self.known: dict[str, tuple[int, str]] = {}

    def refresh(self, kind: str) -> Path:
        folder = self.copy
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{kind}/"
        )
        for page in pages:
            for item in page.get("Contents", []):
                relative = item["Key"][len(self.prefix) :]
                state = (int(item["Size"]), str(item.get("ETag", "")))
                if self.known.get(relative) == state or not relative.endswith((".json", ".gz")):
                    continue
                if ".." in relative.split("/"):
                    continue
                target = folder / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                body = self.client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
                target.write_bytes(body)
                self.known[relative] = state
        return folder


def _s3_root(uri: str, region: str | None) -> _Root:
    from smhf_native.session import resolve_mode

    if resolve_mode() == "aws":
        return _AwsRoot(uri, region)
    from smhf_native.store import Store

    return _LocalRoot(Store().path(uri))


# Small helpers.


def _range_ns(start: float, end: float | None, unit: TimeUnits) -> tuple[int, int]:
    factor = _NS[unit]
    last = 2**63 - 1
    start_ns = min(int(start) * factor if start == int(start) else round(start * factor), last)
    if end is None:
        return start_ns, last
    return start_ns, min(int(end) * factor if end == int(end) else round(end * factor), last)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _trace_event(found: FrameworkColumns, index: int) -> TraceEvent:
    start, duration = int(found.start[index]), int(found.duration[index])
    return TraceEvent(
        event_name=found.name[index],
        start_time=start,
        end_time=start + duration,
        duration=duration,
        phase=found.phase[index],
        pid=found.pid[index],
        tid=found.tid[index],
        event_args=found.args[index],
        node_id=found.node[index],
        step=int(found.step[index]),
    )
