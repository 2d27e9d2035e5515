"""Reading side of the trace room: :class:`Trace` and the small objects it hands out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smhf_native.errors import MissingExtraError
from smhf_native.paths import real_path
from smhf_native.trace import _trace

if TYPE_CHECKING:
    import pandas as pd

_PATH = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_FIRST, _LAST = -(2**63), 2**63 - 1
NO_TIME = _FIRST


class Fault(NamedTuple):
    """One damaged part of a file."""

    file: str
    offset: int
    """Byte of the unpacked text where the damaged part starts."""
    line: int
    """Line of that byte, from 1."""
    length: int
    """Bytes of the damaged part; 0 when something is merely absent."""
    lost: bool
    """True when an event was lost; False when everything was kept."""
    reason: str


class File(NamedTuple):
    """One file that was read."""

    path: str
    gzip: bool
    base_ns: int
    """Nanoseconds that were added to the file's times; 0 when it states no base."""
    bytes: int
    """Size of the text after unpacking."""
    first_event: int
    event_count: int
    first_row: int
    row_count: int


class Series(NamedTuple):
    """Points of one curve in time order."""

    ts: NDArray[np.int64]
    """Nanoseconds since the epoch."""
    value: NDArray[np.float64]


class Spans(NamedTuple):
    """Complete spans: X events and matched B/E pairs, as arrays of equal length."""

    event: NDArray[np.uint64]
    """Index of the X or B event."""
    end: NDArray[np.uint64]
    """Index of the E event; the X event itself."""
    ts: NDArray[np.int64]
    dur: NDArray[np.int64]
    unmatched_begins: int
    unmatched_ends: int


class Row(NamedTuple):
    """One system metric (or scalar, with type ``"scalar"``)."""

    type: str
    name: str
    dimension: str
    value: float
    node_id: str
    ts: int
    """Nanoseconds since the epoch."""
    iteration: int
    """IterationNumber of a scalar, else -1."""

    @property
    def timestamp(self) -> float:
        """Seconds since the epoch, as smdebug gives them."""
        return self.ts / 1e9


class Event:
    """One trace event; a view of a row of the columns, with args parsed when asked for."""

    __slots__ = ("_index", "_trace")

    def __init__(self, trace: Trace, index: int) -> None:
        self._trace = trace
        self._index = index

    def _get(self, column: str) -> int:
        return int(self._trace.event_columns[column][self._index])

    def _has(self, flag: int) -> bool:
        return bool(self._get("flags") & flag)

    @property
    def index(self) -> int:
        """Position in the columns."""
        return self._index

    @property
    def ph(self) -> str:
        """Phase letter."""
        return chr(self._get("ph"))

    @property
    def name(self) -> str:
        """Name; "" when the event has none."""
        return self._trace.names[self._get("name")]

    @property
    def cat(self) -> str:
        """Category; "" when the event has none."""
        return self._trace.names[self._get("cat")]

    @property
    def ts(self) -> int | None:
        """Start in nanoseconds, or None."""
        return int(self._get("ts")) if self._has(_trace.HAS_TS) else None

    @property
    def dur(self) -> int | None:
        """Duration in nanoseconds, or None."""
        return int(self._get("dur")) if self._has(_trace.HAS_DUR) else None

    @property
    def end(self) -> int | None:
        """End in nanoseconds: ts + dur, ts without a duration, None without ts."""
        return None if self.ts is None else self.ts + (self.dur or 0)

    def _identity(self, column: str, has: int, code: int, text: int) -> int | str | None:
        flags = self._get("flags")
        if not flags & has:
            return None
        value = self._get(column)
        if not flags & code:
            return int(value)
        name = self._trace.names[value]
        return name if flags & text else _number(name)

    @property
    def pid(self) -> int | str | None:
        """Process: number, text or None."""
        return self._identity("pid", _trace.HAS_PID, _trace.PID_CODE, _trace.PID_TEXT)

    @property
    def tid(self) -> int | str | None:
        """Thread: number, text or None."""
        return self._identity("tid", _trace.HAS_TID, _trace.TID_CODE, _trace.TID_TEXT)

    @property
    def id(self) -> int | str | None:
        """Flow or async id: number (hex texts as numbers), other text or None."""
        if not self._has(_trace.HAS_ID):
            return None
        value = self._get("id")
        return self._trace.names[value] if self._has(_trace.ID_CODE) else int(value)

    @property
    def args(self) -> dict[str, Any]:
        """Arguments, parsed now; {} when there are none."""
        return self._trace.event_args(self._index)

    @property
    def file(self) -> str:
        """Path of the file it came from."""
        return self._trace.files[self._get("file")].path

    def to_dict(self) -> dict[str, Any]:
        """All fields as a dict; times in nanoseconds."""
        names = ("ph", "name", "cat", "ts", "dur", "pid", "tid", "id", "args")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"Event(ph={self.ph!r}, name={self.name!r}, ts={self.ts}, dur={self.dur}, pid={self.pid!r})"


def _number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


_T = TypeVar("_T")


class _Items(Sequence[_T]):
    """Sequence that makes its items when asked for them."""

    def __init__(self, count: int, make: Any) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> list[_T]: ...
    def __getitem__(self, index: int | slice) -> _T | list[_T]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._count))]
        position = index + self._count if index < 0 else index
        if not 0 <= position < self._count:
            raise IndexError(f"index {index} is out of range for {self._count} items")
        item: _T = self._make(position)
        return item

    def __iter__(self) -> Iterator[_T]:
        return (self._make(i) for i in range(self._count))


def _array(column: Any) -> NDArray[Any]:
    """Wrap a Column (a buffer) without a copy; the array keeps the trace alive."""
    return np.asarray(column)


def _ns(bound: int | None, default: int) -> int:
    return default if bound is None else int(bound)


class Trace:
    """A trace read into columns.  Immutable; any number of threads may use it.

    Make one with :meth:`open`.  ``trace.columns["ts"]`` is an int64 array of nanoseconds,
    ``trace.names[trace.columns["name"][i]]`` a text, ``trace.events[i]`` one event as an object.

    Attributes
    ----------
    kind : str
        ``"events"`` (timelines), ``"system"`` (system metrics), ``"scalars"`` (training scalars),
        ``"mixed"`` (a folder with both tables) or ``"empty"``.
    """

    def __init__(self, handle: _trace.Trace) -> None:
        self._trace = handle
        self.kind: str = handle.kind

    @classmethod
    def open(
        cls,
        source: _PATH | Iterable[_PATH],
        *,
        strict: bool = False,
        only: Literal["system", "framework"] | None = None,
        keep_args: bool = True,
    ) -> Trace:
        """Read a file, a gzip file, a folder or a list of these.

        Parameters
        ----------
        source : path or iterable of paths
            A folder is read as a SageMaker ``profiler-output`` (``system/``, ``framework/``) when it
            looks like one, else all its ``*.json`` and ``*.json.gz``.
        strict : bool
            Raise at the first fault instead of listing it in :attr:`faults`.
        only : "system" or "framework", optional
            Which part of a ``profiler-output`` folder to read.
        keep_args : bool
            Keep the text of the events' args, for :attr:`Event.args` and :meth:`args_int64`.

        Raises
        ------
        smhf_native.errors.ParseError
            A file that is no trace (named), or the first fault when strict; ``offset`` is set.
        OSError
            A file or folder that cannot be read, or a folder without traces.
        ValueError
            An empty list, or an unknown value of ``only``.
        """
        paths = [source] if isinstance(source, (str, bytes, os.PathLike)) else list(source)
        parts = {None: 3, "system": _trace.SYSTEM, "framework": _trace.FRAMEWORK}
        if only not in parts:
            raise ValueError(f"only: expected 'system', 'framework' or None, got {only!r}")
        encoded = tuple(os.fsencode(real_path(path)) for path in paths)
        return cls(_trace.Trace.open(encoded, strict, keep_args, parts[only]))

    @classmethod
    def from_bytes(cls, text: bytes, *, name: str = "bytes", strict: bool = False) -> Trace:
        """Read a plain (not compressed) text from memory; `name` stands in sentences."""
        return cls(_trace.Trace.open_memory(text, name, strict, True))

    def __repr__(self) -> str:
        return (
            f"<Trace {self.kind}: {len(self.files)} files, {self._count('event')} events, "
            f"{self._count('row')} rows, {self.fault_total} faults>"
        )

    def _count(self, what: str) -> int:
        return len((self.event_columns if what == "event" else self.row_columns)["ts"])

    @cached_property
    def event_columns(self) -> dict[str, NDArray[Any]]:
        """Timeline events as arrays of equal length, without copies.

        ``ph`` uint8, ``flags`` uint16, ``ts`` and ``dur`` int64 ns (absent: int64 minimum, -1),
        ``pid`` and ``tid`` int32 (value, or dictionary code where flags say so), ``name`` and
        ``cat`` uint32 codes of :attr:`names`, ``id`` uint64, ``args_offset`` uint64,
        ``args_length`` uint32, ``file`` uint32 index of :attr:`files`.
        """
        return {name: _array(column) for name, column in self._trace.columns(0).items()}

    @cached_property
    def row_columns(self) -> dict[str, NDArray[Any]]:
        """System metrics and scalars as arrays of equal length, without copies.

        ``type``, ``name``, ``dimension``, ``node`` uint32 codes of :attr:`names`, ``value``
        float64, ``ts`` int64 ns, ``iteration`` int64 (-1: none), ``file`` uint32.
        """
        return {name: _array(column) for name, column in self._trace.columns(1).items()}

    def _table(self, what: str) -> Literal["event", "row"]:
        if self.kind == "mixed":
            raise ValueError(
                f"{what}: this trace holds timeline events and system rows; "
                "use event_columns or row_columns, or open it with only='system' or 'framework'"
            )
        return "row" if self.kind in ("system", "scalars") else "event"

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """:attr:`row_columns` of system metrics and scalars, :attr:`event_columns` of timelines."""
        return self.row_columns if self._table("columns") == "row" else self.event_columns

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The dictionary: texts by code; code 0 is ""."""
        return self._trace.names()

    @cached_property
    def files(self) -> list[File]:
        """The files read, in order."""
        return [File(*entry) for entry in self._trace.files()]

    @cached_property
    def faults(self) -> list[Fault]:
        """Damaged parts in file order (the first 1,000)."""
        return [
            Fault(self.files[file].path, offset, line, length, lost, reason)
            for offset, line, length, file, lost, reason in self._trace.faults()
        ]

    @property
    def fault_total(self) -> int:
        """Number of faults, listed or not."""
        return self._trace.fault_total

    @property
    def events(self) -> Sequence[Event]:
        """The timeline events as a sequence of :class:`Event`."""
        return _Items(self._count("event"), lambda index: Event(self, index))

    @property
    def rows(self) -> Sequence[Row]:
        """System metrics and scalars as a sequence of :class:`Row`."""
        return _Items(self._count("row"), self._row)

    def _row(self, index: int) -> Row:
        columns, names = self.row_columns, self.names
        return Row(
            names[columns["type"][index]],
            names[columns["name"][index]],
            names[columns["dimension"][index]],
            float(columns["value"][index]),
            names[columns["node"][index]],
            int(columns["ts"][index]),
            int(columns["iteration"][index]),
        )

    def event_args(self, index: int) -> dict[str, Any]:
        """Args of one event as a dict; {} when it has none (tokens such as N/A become None)."""
        text = self._trace.args(index)
        if not text:
            return {}
        try:
            value = json.loads(text)
        except ValueError:
            value = _loose_json(text)
        return value if isinstance(value, dict) else {}

    def event_arg(self, index: int, key: str) -> Any:
        """One value of an event's args, parsed alone, or None."""
        text = self._trace.args_value(index, key)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError:
            return _loose_json(b'{"v":' + text + b"}").get("v")

    def args_int64(self, key: str, missing: int = -1) -> NDArray[np.int64]:
        """The integer under `key` in every event's args (numeric texts too), else `missing`."""
        return _array(self._trace.args_int64(key, missing))

    @cached_property
    def process_names(self) -> dict[tuple[int, int | str | None], str]:
        """(file index, pid) -> name given by a process_name event; smdebug calls it the phase."""
        found: dict[tuple[int, int | str | None], str] = {}
        for index in np.flatnonzero(self.event_columns["ph"] == ord("M")):
            event = Event(self, int(index))
            if event.name == "process_name":
                name = event.args.get("name")
                if isinstance(name, str):
                    found[int(event._get("file")), event.pid] = name
        return found

    def select(
        self,
        *,
        start: int | None = None,
        end: int | None = None,
        type: str | None = None,
        name: str | None = None,
        dimension: str | None = None,
        node: str | None = None,
        ph: str | None = None,
        table: Literal["event", "row"] | None = None,
    ) -> NDArray[np.uint64]:
        """Indices of the matching events or rows, in file order.

        `start` and `end` are nanoseconds, both inclusive; an event matches when its start and its
        end lie in the range.  `type` means the category when events are asked.
        """
        table = table or self._table("select")
        found = self._trace.select(
            0 if table == "event" else 1,
            _ns(start, _FIRST),
            _ns(end, _LAST),
            type,
            name,
            dimension,
            node,
            ph or "\0",
        )
        return _array(found)

    def series(
        self,
        dimension: str | None = None,
        name: str | None = None,
        *,
        node: str | None = None,
        type: str | None = None,
        start: int | None = None,
        end: int | None = None,
        window_ms: float = 20.0,
    ) -> Series:
        """One curve of the system metrics.

        Parameters
        ----------
        dimension : str, optional
            For example ``"CPUUtilization"``; None takes all.
        name : str, optional
            One core, GPU or metric; ``"total"`` for the mean over the names at each tick (a tick may
            lack some of them; its time is the mean of its rows' times); None for all rows.
        node, type : str, optional
            Restrict to one node (``"algo-1"``) or type (``"cpu"``).
        start, end : int, optional
            Nanoseconds, both inclusive.
        window_ms : float
            For ``"total"``: rows at most this far apart belong to one tick.

        Returns
        -------
        Series
            ``ts`` int64 ns ascending, ``value`` float64.
        """
        total = name == "total"
        ts, value = self._trace.series(
            total,
            round(window_ms * 1e6),
            _ns(start, _FIRST),
            _ns(end, _LAST),
            type,
            None if total else name,
            dimension,
            node,
        )
        return Series(_array(ts), _array(value))

    def series_names(self) -> list[tuple[str, str, str, str]]:
        """Distinct (node, type, dimension, name) of the system metrics, sorted."""
        keys = ("node", "type", "dimension", "name")
        columns = [self.row_columns[key] for key in keys]
        if not len(columns[0]):
            return []
        distinct = np.unique(np.stack(columns, axis=1), axis=0)
        names = self.names
        return sorted((names[a], names[b], names[c], names[d]) for a, b, c, d in distinct)

    def decimate(
        self,
        dimension: str | None = None,
        name: str | None = "total",
        *,
        buckets: int = 1000,
        node: str | None = None,
        type: str | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> Series:
        """A curve (see :meth:`series`) thinned to at most ``2 * buckets`` points for drawing.

        Each of `buckets` equal spans of time keeps its least and its greatest value.
        """
        series = self.series(dimension, name, node=node, type=type, start=start, end=end)
        return decimate(series.ts, series.value, buckets)

    def percentiles(
        self,
        q: ArrayLike,
        dimension: str | None = None,
        name: str | None = None,
        *,
        node: str | None = None,
        type: str | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> NDArray[np.float64]:
        """Percentiles (0 to 100) of a curve's values; NaN when there are none."""
        series = self.series(dimension, name, node=node, type=type, start=start, end=end)
        return percentiles(series.value, q)

    def spans(self) -> Spans:
        """Complete spans: X events and matched B/E pairs (per file, pid and tid, in time order)."""
        event, end, ts, dur, begins, ends = self._trace.spans()
        return Spans(_array(event), _array(end), _array(ts), _array(dur), begins, ends)

    def to_pandas(self, table: Literal["event", "row"] | None = None) -> pd.DataFrame:
        """The table as a DataFrame; texts as categories, times as int64 nanoseconds.

        Columns of rows: type, name, dimension, value, node_id, ts, iteration, file; of events: ph,
        name, cat, ts, dur, pid, tid, id, file.

        Raises
        ------
        smhf_native.errors.MissingExtraError
            pandas is not installed.
        ValueError
            The trace holds both tables and `table` says neither.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError.of("pandas", "pandas", "Trace.to_pandas") from error
        files = np.array([file.path for file in self.files], dtype=object)

        def texts(codes: NDArray[Any]) -> pd.Categorical:
            used, inverse = np.unique(codes, return_inverse=True)
            return pd.Categorical.from_codes(inverse, [self.names[code] for code in used])

        if (table or self._table("to_pandas")) == "row":
            c = self.row_columns
            data = {
                "type": texts(c["type"]),
                "name": texts(c["name"]),
                "dimension": texts(c["dimension"]),
                "value": c["value"],
                "node_id": texts(c["node"]),
                "ts": c["ts"],
                "iteration": c["iteration"],
            }
        else:
            c = self.event_columns
            phases, inverse = np.unique(c["ph"], return_inverse=True)
            data = {
                "ph": pd.Categorical.from_codes(inverse, [chr(phase) for phase in phases]),
                "name": texts(c["name"]),
                "cat": texts(c["cat"]),
                "ts": c["ts"],
                "dur": c["dur"],
                "pid": self._identities("pid", _trace.HAS_PID, _trace.PID_CODE),
                "tid": self._identities("tid", _trace.HAS_TID, _trace.TID_CODE),
                "id": self._identities("id", _trace.HAS_ID, _trace.ID_CODE),
            }
        frame = pd.DataFrame(data)
        frame["file"] = pd.Categorical.from_codes(c["file"].astype(np.int64), files)
        return frame

    def _identities(self, column: str, has: int, code: int) -> NDArray[Any]:
        """Numbers where all are numbers, else objects (int, str, None)."""
        values, flags = self.event_columns[column], self.event_columns["flags"]
        if len(values) and bool(np.all(flags & has)) and not bool(np.any(flags & code)):
            return values
        attribute = column
        return np.array([getattr(event, attribute) for event in self.events], dtype=object)


def _loose_json(text: bytes) -> dict[str, Any]:
    """Args with what profilers print against JSON, as a dict; {} when even that fails.

    The scanner kept such an event and listed the fault; here its values are read as far as they
    can be: bare tokens as None, a backslash that starts no escape as itself.
    """
    import re

    source = text.decode("utf-8", "replace")
    token = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,:{}\[\]"]+', re.DOTALL)
    escape = re.compile(r'\\(?!["\\/bfnrt]|u[0-9a-fA-F]{4})|\\.', re.DOTALL)

    def repair(match: re.Match[str]) -> str:
        part = match.group()
        if part.startswith('"'):
            return escape.sub(lambda m: m.group() if len(m.group()) == 2 else "\\\\", part)
        try:
            json.loads(part)
        except ValueError:
            return "null"
        return part

    try:
        value = json.loads(token.sub(repair, source), strict=False)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def decimate(ts: ArrayLike, value: ArrayLike, buckets: int = 1000) -> Series:
    """Thin a curve: least and greatest value of each of `buckets` equal spans of time.

    Parameters
    ----------
    ts : int64 array
        Ascending nanoseconds.
    value : float64 array
        As many values; NaN is passed over.
    buckets : int
        At least 1; the result has at most ``2 * buckets`` points.
    """
    times = np.ascontiguousarray(ts, dtype=np.int64)
    values = np.ascontiguousarray(value, dtype=np.float64)
    thin_ts, thin_value = _trace.decimate(times, values, buckets)
    return Series(_array(thin_ts), _array(thin_value))


def percentiles(value: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Percentiles `q` (0 to 100) of `value`, linear between neighbours, NaN left out.

    Agrees with ``numpy.nanpercentile``; NaN when no value is left.
    """
    values = np.ascontiguousarray(value, dtype=np.float64)
    asked = np.ascontiguousarray(np.atleast_1d(np.asarray(q, dtype=np.float64)))
    return _array(_trace.percentiles(values, asked))


def parse_time(text: str, digits: int = 9) -> int:
    """Decimal text to an exact integer of ``10**-digits`` units, half to even.

    ``parse_time("1591748109.2321954")`` is 1591748109232195400 (seconds to nanoseconds).

    Raises
    ------
    ValueError
        Not a decimal number.
    OverflowError
        The result does not fit 64 bits.
    """
    return _trace.parse_time(text, digits)
