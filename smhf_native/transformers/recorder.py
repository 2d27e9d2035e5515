"""Per-step scalars and step marks of a local job, and the signals that end a run politely."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

__all__ = ["Recorder", "StopRequested", "StopSignals"]


class Recorder:
    """Append scalars to ``SMHF_SCALARS_PATH`` and step spans to ``SMHF_PROFILER_FOLDER``, where these are set.

    One JSON object a line: ``{"MetricName", "Value", "Timestamp", "IterationNumber"}``, the time in epoch
    seconds.  A full disk loses scalars, never the run.
    """

    def __init__(self) -> None:
        path = os.environ.get("SMHF_SCALARS_PATH")
        self._file: Any = None
        if path:
            try:
                self._file = open(path, "a", encoding="utf-8", buffering=1)  # closed in close()
            except OSError:
                self._file = None
        self._events: Any = None
        folder = os.environ.get("SMHF_PROFILER_FOLDER")
        if folder:
            try:
                from smhf_native.trace import EventWriter

                self._events = EventWriter(folder, os.environ.get("SM_CURRENT_HOST", "algo-1"))
            except (ImportError, OSError):
                self._events = None

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Append the finite numbers among ``values`` under step ``step``."""
        if self._file is None:
            return
        now = time.time()
        lines = [
            json.dumps({"MetricName": k, "Value": float(v), "Timestamp": now, "IterationNumber": step}) + "\n"
            for k, v in values.items()
            if isinstance(v, (int, float)) and not isinstance(v, bool)
        ]
        try:
            self._file.write("".join(lines))
        except OSError:
            self._file = None

    def span(self, name: str, start_ns: int, args: dict[str, Any] | None = None) -> None:
        """Mark something that began at ``start_ns`` (``time.time_ns()``) and ends now."""
        if self._events is not None:
            with contextlib.suppress(
                OSError, ValueError
            ):  # a full disk or a clock step loses it, not the run
                self._events.span(name, start_ns, time.time_ns(), args or {})

    def close(self) -> None:
        """Flush and close both files."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None


class StopRequested(Exception):
    """Ends an evaluation inside a training run when a signal has asked for the end of the run."""


class StopSignals:
    """Turn SIGTERM and the first Ctrl-C into a flag while the block runs (main thread only).

    The loop looks at ``received`` after each step; a second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()
