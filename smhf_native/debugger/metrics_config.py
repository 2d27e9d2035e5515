"""What to profile inside the framework, and when: step ranges, time ranges and the five kinds of metrics."""

from __future__ import annotations

from typing import Any, ClassVar

from smhf_native.debugger.utils import (
    PythonProfiler,
    cProfileTimer,
    is_valid_regex,
    is_valid_unix_time,
    to_pseudo_json,
)

__all__ = [
    "DataloaderProfilingConfig",
    "DetailedProfilingConfig",
    "HorovodProfilingConfig",
    "MetricsConfigBase",
    "PythonProfilingConfig",
    "SMDataParallelProfilingConfig",
    "StepRange",
    "TimeRange",
]


class StepRange:
    """A range of training steps.

    Parameters
    ----------
    start_step : int or None
        First step; None means 0.
    num_steps : int or None
        How many steps; None means 1.
    """

    def __init__(self, start_step: int | None, num_steps: int | None) -> None:
        self.start_step = 0 if start_step is None else start_step
        self.num_steps = 1 if num_steps is None else num_steps

    def to_json(self) -> dict[str, Any]:
        """Return ``{"StartStep": …, "NumSteps": …}``."""
        return {"StartStep": self.start_step, "NumSteps": self.num_steps}


class TimeRange:
    """A range of wall-clock time.

    The key ``Duration`` is what the SDK sends; the profiler in the published containers reads another key
    and so ignores it (spec A4).  The payload stays the SDK's.

    Parameters
    ----------
    start_unix_time : int or None
        Epoch seconds; None: from the first step.
    duration : float or None
        Seconds; None: one step.
    """

    def __init__(self, start_unix_time: int | None, duration: float | None) -> None:
        self.start_unix_time = start_unix_time
        self.duration = duration

    def to_json(self) -> dict[str, Any]:
        """Return the keys that were given."""
        result: dict[str, Any] = {}
        if self.start_unix_time is not None:
            result["StartTimeInSecSinceEpoch"] = self.start_unix_time
        if self.duration is not None:
            result["Duration"] = self.duration
        return result


class MetricsConfigBase:
    """Common part of the five profiling configurations: a step range or a time range.

    Parameters
    ----------
    start_step, num_steps : int, optional
        Range in steps (``start_step >= 0``, ``num_steps > 0``).
    start_unix_time : int, optional
        Epoch seconds.
    duration : float, optional
        Seconds, positive.
    profile_default_steps : bool
        Use the default steps of this kind of metrics.  They are also used when no range is given.

    Raises
    ------
    AssertionError
        A value is of the wrong type or out of range, or steps and time are given together (as in SDK v2).
    """

    name: ClassVar[str] = ""
    default_start_step: ClassVar[int] = 0
    default_num_steps: ClassVar[int] = 1

    def __init__(
        self,
        start_step: int | None = None,
        num_steps: int | None = None,
        start_unix_time: int | None = None,
        duration: float | None = None,
        profile_default_steps: bool = False,
    ) -> None:
        assert isinstance(profile_default_steps, bool), (
            f"profile_default_steps must be True or False, not {profile_default_steps!r}"
        )
        given = [v for v in (start_step, num_steps, start_unix_time, duration) if v is not None]
        if profile_default_steps or not given:
            start_step, num_steps = self.default_start_step, self.default_num_steps
        assert start_step is None or (_is_int(start_step) and start_step >= 0), (
            f"start_step must be an integer of 0 or more, not {start_step!r}"
        )
        assert num_steps is None or (_is_int(num_steps) and num_steps > 0), (
            f"num_steps must be an integer above 0, not {num_steps!r}"
        )
        assert start_unix_time is None or (
            _is_int(start_unix_time) and is_valid_unix_time(start_unix_time)
        ), f"start_unix_time must be whole epoch seconds, not {start_unix_time!r}"
        assert duration is None or (
            isinstance(duration, (int, float)) and not isinstance(duration, bool) and duration > 0
        ), f"duration must be a number of seconds above 0, not {duration!r}"
        by_steps = start_step is not None or num_steps is not None
        by_time = start_unix_time is not None or duration is not None
        assert not (by_steps and by_time), (
            "give either steps (start_step, num_steps) or time (start_unix_time, duration), not both"
        )
        self.range: StepRange | TimeRange = (
            StepRange(start_step, num_steps) if by_steps else TimeRange(start_unix_time, duration)
        )

    def _to_json(self) -> dict[str, Any]:
        """Return this configuration as a flat dict."""
        return self.range.to_json()

    def to_json_string(self) -> str:
        """Return the pseudo-JSON text that goes into ``ProfilingParameters``."""
        return to_pseudo_json(self._to_json())


class DetailedProfilingConfig(MetricsConfigBase):
    """Framework operators of single steps; default: step 5."""

    name = "DetailedProfilingConfig"
    default_start_step = 5


class DataloaderProfilingConfig(MetricsConfigBase):
    """Data loading; default: step 7.

    Parameters
    ----------
    metrics_regex : str
        Which metrics to keep; a valid regular expression.
    """

    name = "DataloaderProfilingConfig"
    default_start_step = 7

    def __init__(
        self,
        start_step: int | None = None,
        num_steps: int | None = None,
        start_unix_time: int | None = None,
        duration: float | None = None,
        profile_default_steps: bool = False,
        metrics_regex: str = ".*",
    ) -> None:
        super().__init__(start_step, num_steps, start_unix_time, duration, profile_default_steps)
        assert is_valid_regex(metrics_regex), f"metrics_regex {metrics_regex!r} is no regular expression"
        self.metrics_regex = metrics_regex

    def _to_json(self) -> dict[str, Any]:
        return {**super()._to_json(), "MetricsRegex": self.metrics_regex}


class PythonProfilingConfig(MetricsConfigBase):
    """Python functions; default: steps 9 to 11.

    Parameters
    ----------
    python_profiler : PythonProfiler
        cProfile or Pyinstrument.
    cprofile_timer : cProfileTimer
        Ignored with Pyinstrument; ``profile_default_steps`` uses each timer in turn.
    """

    name = "PythonProfilingConfig"
    default_start_step = 9
    default_num_steps = 3

    def __init__(
        self,
        start_step: int | None = None,
        num_steps: int | None = None,
        start_unix_time: int | None = None,
        duration: float | None = None,
        profile_default_steps: bool = False,
        python_profiler: PythonProfiler = PythonProfiler.CPROFILE,
        cprofile_timer: cProfileTimer = cProfileTimer.TOTAL_TIME,
    ) -> None:
        super().__init__(start_step, num_steps, start_unix_time, duration, profile_default_steps)
        assert isinstance(python_profiler, PythonProfiler), (
            f"python_profiler must be a PythonProfiler, not {python_profiler!r}"
        )
        assert isinstance(cprofile_timer, cProfileTimer), (
            f"cprofile_timer must be a cProfileTimer, not {cprofile_timer!r}"
        )
        self.python_profiler = python_profiler
        self.cprofile_timer: cProfileTimer | None = (
            cProfileTimer.DEFAULT if profile_default_steps else cprofile_timer
        )
        if python_profiler is PythonProfiler.PYINSTRUMENT:
            self.cprofile_timer = None

    def _to_json(self) -> dict[str, Any]:
        result = {**super()._to_json(), "ProfilerName": self.python_profiler.value}
        if self.cprofile_timer is not None:
            result["cProfileTimer"] = self.cprofile_timer.value
        return result


class HorovodProfilingConfig(MetricsConfigBase):
    """Horovod; default: step 13."""

    name = "HorovodProfilingConfig"
    default_start_step = 13


class SMDataParallelProfilingConfig(MetricsConfigBase):
    """SageMaker data parallelism; default: step 15."""

    name = "SMDataParallelProfilingConfig"
    default_start_step = 15


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
