"""Writing side of the trace room: :class:`Sampler` and :class:`EventWriter`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from smhf_native.paths import real_path
from smhf_native.trace import _trace

_PATH = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Sampler:
    """Samples the whole machine in a C thread and writes SageMaker's system-metrics files.

    ``<folder>/system/incremental/YYYYMMDDHH/<minute>.<node_id>.json`` (UTC; the 10 digits are the
    start of the minute), one JSON object a line; rows of one tick appear together.  Per tick: busy
    and I/O-wait percentage of every core, utilisation and memory footprint of every NVIDIA GPU
    (when NVML is there), memory in use, IOPS and throughput of the disks, bytes per second of the
    network.  Network rows come twice: Dimension ``Algorithm`` counts every interface but loopback,
    ``Platform`` the hardware interfaces (the same when none is known to be hardware).

    Parameters
    ----------
    folder : path
        The ``profiler-output`` folder; made when absent.
    interval_ms : int
        100 to 60,000 milliseconds between samples, on absolute deadlines.
    node_id : str
        ``algo-1`` in SageMaker's file names and rows.
    nvml_path : str, optional
        NVIDIA's management library; "" leaves GPUs out.  Default ``libnvidia-ml.so.1``.
    proc_folder, sys_folder : str
        Where the kernel's files are (tests give their own).

    Raises
    ------
    ValueError
        A bad interval or node id (when started).
    OSError
        The folder cannot be written, or /proc cannot be read (when started).
    """

    def __init__(
        self,
        folder: _PATH,
        interval_ms: int = 500,
        node_id: str = "algo-1",
        *,
        nvml_path: str = "libnvidia-ml.so.1",
        proc_folder: str = "/proc",
        sys_folder: str = "/sys",
    ) -> None:
        self.folder = folder
        self._options = (interval_ms, node_id, proc_folder, sys_folder, nvml_path)
        self._sampler: _trace.Sampler | None = None

    def start(self) -> Sampler:
        """Start the thread; returns self.  Starting twice raises RuntimeError."""
        if self._sampler is not None:
            raise RuntimeError("this Sampler was started before; make another one")
        self._sampler = _trace.Sampler(real_path(self.folder), *self._options)
        return self

    def stop(self) -> None:
        """Take a last sample, end the thread and write ``system/training_job_end.ts``.

        A second call, and a call before :meth:`start`, do nothing.
        """
        if self._sampler is not None:
            self._sampler.stop()

    @property
    def stats(self) -> dict[str, Any]:
        """Counters: ticks, rows, bytes, late_ticks, write_errors, cpu_ns, gpus, no_gpu_reason, last_error.

        ``cpu_ns`` is the processor time of the sampling thread; empty before :meth:`start`.
        """
        return {} if self._sampler is None else self._sampler.stats()

    def __enter__(self) -> Sampler:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class EventWriter:
    """Writes framework events (spans) in SageMaker Debugger's timeline files.

    Files appear as ``<folder>/framework/pevents/YYYYMMDDHH/<end us>_<pid>-<node_id>_<suffix>.json``
    when they are rotated (10 MB, 60 s, a new hour) or closed; until then a ``.json.tmp`` grows by
    whole lines.  Any thread may write; after ``fork`` the child goes on in a file of its own.

    Parameters
    ----------
    folder : path
        The ``profiler-output`` folder.
    node_id : str
        Second part of the file names' ``<pid>-<node_id>``.
    suffix : str
        ``pythontimeline``, ``model_timeline`` or another kind.
    """

    def __init__(
        self,
        folder: _PATH,
        node_id: str = "algo-1",
        *,
        suffix: str = "pythontimeline",
        max_bytes: int = 10_000_000,
        max_seconds: int = 60,
    ) -> None:
        self._writer = _trace.EventWriter(real_path(folder), node_id, suffix, max_bytes, max_seconds)

    def span(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        args: Mapping[str, Any] | None = None,
        *,
        phase: str | None = None,
    ) -> None:
        """Write one complete span.

        Parameters
        ----------
        name : str
            For example ``Step:ModeKeys.TRAIN``.
        start_ns, end_ns : int
            Nanoseconds since the epoch (:func:`time.time_ns`).
        args : mapping, optional
            JSON values; ``step_num`` marks the step.  The process id is added as ``pid``.
        phase : str, optional
            Groups spans into one lane; default: the name.

        Raises
        ------
        ValueError
            end before start, args that are no JSON, or a closed writer.
        OSError
            The file cannot be written; the span is kept and tried again with the next one.
        """
        text = None if args is None else json.dumps(dict(args), allow_nan=False)
        self._writer.span(name, phase, int(start_ns), int(end_ns), text)

    @contextmanager
    def measure(
        self, name: str, args: Mapping[str, Any] | None = None, *, phase: str | None = None
    ) -> Iterator[None]:
        """Context manager: a span around its body."""
        wall, start = time.time_ns(), time.perf_counter_ns()
        try:
            yield
        finally:
            self.span(name, wall, wall + time.perf_counter_ns() - start, args, phase=phase)

    def flush(self) -> None:
        """Hand buffered lines (at most half a second's) to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the current file; further spans raise.  A second call does nothing."""
        self._writer.close()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
