"""What rules share: the data of a job, parameters, results."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.profiler import columns as cols
from smhf_native.profiler.columns import Float, FrameworkColumns, Int, Stream

__all__ = [
    "ISSUES",
    "NO_ISSUES",
    "JobData",
    "RuleResult",
    "Steps",
    "parse_overrides",
    "parse_parameters",
    "scan_ends",
    "too_few",
]

ISSUES = "IssuesFound"
NO_ISSUES = "NoIssuesFound"
ERROR = "Error"

SCAN_INTERVAL_US = 60_000_000
_MOST_SCANS = 20_000


@dataclass(frozen=True)
class Steps:
    """Training steps of one kind on one node.

    Attributes
    ----------
    phase : str
        Name of the step events, e.g. ``"Step:ModeKeys.TRAIN"``.
    node : str
    start, duration : int64 ndarray (n,)
        Nanoseconds, by start.
    number : int64 ndarray (n,)
        Step numbers; -1 where unknown.
    source : str
        Where they come from, for the report.
    """

    phase: str
    node: str
    start: Int
    duration: Int
    number: Int
    source: str


@dataclass
class JobData:
    """Everything that rules look at.

    Attributes
    ----------
    name : str
        Of the job.
    streams : list of Stream
        System metrics.
    framework : FrameworkColumns or None
    scalars, metrics : list of dict
        Lines of ``scalars.ndjson`` and ``metrics.ndjson``.
    description : dict
        DescribeTrainingJob, times as epoch seconds.
    faults : list of str
        Damaged places found while reading.
    """

    name: str
    streams: list[Stream] = field(default_factory=list)
    framework: FrameworkColumns | None = None
    scalars: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def from_folder(cls, name: str, folder: Path, **other: Any) -> JobData:
        """Read a profiler folder (the one that holds ``system/`` and ``framework/``)."""
        system = cols.read_system([path for _, path in cols.system_files(folder)])
        files = [path for _, path in cols.framework_files(folder)]
        framework = cols.read_framework(files) if files else None
        faults = list(system.faults) + (list(framework.faults) if framework is not None else [])
        return cls(name, cols.streams_of(system), framework, faults=faults, **other)

    @classmethod
    def from_record(cls, record: Any) -> JobData:
        """Read everything of a local job; what cannot be read is named in ``faults``."""
        description = {key: _epoch(value) for key, value in record.describe().items()}
        _foresee_end(description, Path(record.folder) / "ml" / "output")
        other = {"scalars": record.scalars(), "metrics": record.metrics(), "description": description}
        try:
            return cls.from_folder(record.name, Path(record.profiler_folder), **other)
        except Exception as error:  # a rule may not end the job
            return cls(record.name, faults=[f"{type(error).__name__}: {error}"], **other)

    def of(self, dimension: str, node: str | None = None) -> list[Stream]:
        """Return the streams of a dimension (of one node)."""
        return [s for s in self.streams if s.dimension == dimension and node in (None, s.node)]

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes, in natural order."""
        return sorted({s.node for s in self.streams}, key=cols.natural_key)

    @property
    def sample_range(self) -> tuple[int, int] | None:
        """First and last sample time, nanoseconds; None without samples."""
        if not self.streams:
            return None
        return min(int(s.time[0]) for s in self.streams), max(int(s.time[-1]) for s in self.streams)

    def moment(self, key: str) -> float | None:
        """Return a time of the description as epoch seconds."""
        value = self.description.get(key)
        if value is None:
            return None
        return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)

    @property
    def start_s(self) -> float | None:
        """When training started: TrainingStartTime, else the first sample."""
        found = self.moment("TrainingStartTime")
        if found is None and self.sample_range is not None:
            found = self.sample_range[0] / 1e9
        return found

    @property
    def end_s(self) -> float | None:
        """When training ended: TrainingEndTime, else the last sample."""
        found = self.moment("TrainingEndTime")
        if found is None and self.sample_range is not None:
            found = self.sample_range[1] / 1e9
        return found

    def steps(self) -> list[Steps]:
        """Return the training steps.

        They come from framework events whose phase starts with ``Step:``; without any, from the times of
        the per-step scalars (a step then lasts from one scalar to the next, evaluation included).
        """
        return _steps_of_events(self.framework) or _steps_of_scalars(self.scalars)


def _steps_of_events(found: FrameworkColumns | None) -> list[Steps]:
    if found is None or not len(found):
        return []
    groups: dict[tuple[str, str], list[int]] = {}
    for index, name in enumerate(found.name):
        if name.startswith("Step:"):
            groups.setdefault((found.node[index], name), []).append(index)
    result = []
    for (node, name), indices in sorted(groups.items()):
        chosen = np.array(indices)
        result.append(
            Steps(name, node, found.start[chosen], found.duration[chosen], found.step[chosen], "framework events")
        )
    return result


def _steps_of_scalars(scalars: list[dict[str, Any]]) -> list[Steps]:
    points = [
        (float(item["Timestamp"]), int(item["IterationNumber"]))
        for item in scalars
        if item.get("MetricName") == "loss" and "IterationNumber" in item
    ]
    if len(points) < 2:
        return []
    time = np.array([round(moment * 1e9) for moment, _ in points], np.int64)
    number = np.array([step for _, step in points], np.int64)
    forward = np.flatnonzero((np.diff(time) >= 0) & (np.diff(number) > 0))
    if not forward.size:
        return []
    return [
        Steps(
            "Step:ModeKeys.TRAIN",
            "algo-1",
            time[forward],
            (time[forward + 1] - time[forward]),
            number[forward + 1],
            "times of the per-step scalars",
        )
    ]


@dataclass
class RuleResult:
    """Outcome of one rule.

    Attributes
    ----------
    rule : str
    status : str
        ``IssuesFound``, ``NoIssuesFound`` or ``Error``.
    triggered : int
        Scans (one per ``scan_interval_us``, and one at the end) in which the rule fired.
    violations : int
        What the rule counts: samples, snapshots, steps, windows.
    datapoints : int
    details : dict
        JSON-ready; the shape of spec D1.
    parameters : dict
        In the order of the report's ``RuleParameters`` text.
    message : str
        One sentence: why it fired, or why it could not be evaluated.
    advice : str
        What to change when it fired.
    """

    rule: str
    status: str = NO_ISSUES
    triggered: int = 0
    violations: int = 0
    datapoints: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    advice: str = ""

    @property
    def fired(self) -> bool:
        """Whether the rule found an issue."""
        return self.status == ISSUES

    @property
    def evaluated(self) -> bool:
        """Whether there was enough to look at."""
        return not (self.message.startswith("not enough data") or self.message.endswith("not evaluated"))

    def parameter_text(self) -> str:
        """Return the parameters as ``key:value`` lines, as reports print them."""
        return "\n".join(f"{key}:{_plain(value)}" for key, value in self.parameters.items())

    def report_json(self) -> dict[str, Any]:
        """Return the content of ``profiler-reports/<Rule>.json``."""
        return {
            "RuleTriggered": self.triggered,
            "Violations": self.violations,
            "Details": _json_ready(self.details),
            "Datapoints": self.datapoints,
            "RuleParameters": self.parameter_text(),
        }

    def write(self, folder: Path) -> Path:
        """Write ``<Rule>.json`` into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.rule}.json"
        path.write_text(json.dumps(self.report_json(), allow_nan=False) + "\n", encoding="utf-8")
        return path


def too_few(result: RuleResult, found: int, needed: int) -> RuleResult:
    """Mark a result as not evaluated for lack of data."""
    result.datapoints = found
    result.message = f"not enough data: {found} of {needed}"
    return result


def scan_ends(first_ns: int, last_ns: int, interval_us: float) -> Int:
    """Return the ends of the scans of a time range: every interval, and the end itself.

    At most 20,000 (two weeks of minutes): one wrong clock must not cost an hour.
    """
    step = max(1, round(interval_us * 1000), (last_ns - first_ns) // _MOST_SCANS)
    ends = np.arange(first_ns + step, last_ns, step, dtype=np.int64)
    return np.append(ends, np.int64(last_ns))


def parse_parameters(
    given: Mapping[str, str], defaults: Mapping[str, Any], known_others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Turn ``RuleParameters`` texts into values of the defaults' types.

    Parameters
    ----------
    given : mapping of str to str
        As in the request; ``rule_to_invoke`` and ``action_json`` are passed over.
    defaults : mapping
        Parameter → default value.
    known_others : tuple of str
        Names that are accepted and ignored.

    Raises
    ------
    ValueError
        An unknown name, or a text of another type.
    """
    result = dict(defaults)
    for key, text in given.items():
        if key in ("rule_to_invoke", "action_json", *known_others):
            continue
        if key not in defaults:
            raise ValueError(f"unknown parameter {key!r}; it has {', '.join(defaults)}")
        result[key] = _convert(key, text, defaults[key])
    return result


def parse_overrides(text: str) -> dict[str, Any]:
    """Read ``custom_rule_parameters`` of a ProfilerReport: a JSON or a Python dict, as text.

    Raises
    ------
    ValueError
        Neither.
    """
    for read in (json.loads, ast.literal_eval):
        reader: Callable[[str], Any] = read
        try:
            value = reader(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, dict):
            return value
    raise ValueError(f"custom_rule_parameters is no JSON object: {text[:80]!r}")


def _convert(key: str, text: Any, default: Any) -> Any:
    word = str(text).strip()
    if isinstance(default, bool):
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        raise ValueError(f"parameter {key} is {word!r}; expected True or False")
    if isinstance(default, (int, float)):
        try:
            value = float(word)
        except ValueError:
            raise ValueError(f"parameter {key} is {word!r}; expected a number") from None
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"parameter {key} is {word!r}; expected a number of 0 or more")
        return int(value) if value == int(value) else value
    return None if word in ("None", "") else word


def _plain(value: Any) -> str:
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, np.ndarray):
        return [_json_ready(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _foresee_end(description: dict[str, Any], output: Path) -> None:
    """Rules run before the last state is recorded; the script's marks already tell which it will be."""
    if description.get("TrainingJobStatus") != "InProgress" or "TrainingEndTime" not in description:
        return
    failure = output / "failure"
    if failure.is_file():
        description["TrainingJobStatus"] = description["SecondaryStatus"] = "Failed"
        description["FailureReason"] = failure.read_text(encoding="utf-8", errors="replace")[:1024]
    elif (output / "success").is_file():
        description["TrainingJobStatus"] = description["SecondaryStatus"] = "Completed"


def _epoch(value: Any) -> Any:
    return float(value.timestamp()) if hasattr(value, "timestamp") else value


def histogram_of(value: Float, bins: int = 50) -> tuple[list[int], list[float]]:
    """Count ``value`` in equal bins over its range; constant values get one bin around them."""
    low, high = float(value.min()), float(value.max())
    if high <= low:
        pad = abs(low) * 0.05 or 0.5
        low, high, bins = low - pad, high + pad, 1
    counts, edges = np.histogram(value, bins=bins, range=(low, high))
    return [int(c) for c in counts], [float(e) for e in edges]


def valid_folder_name(name: str) -> bool:
    """Tell whether a rule's name can be a folder of its own."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,254}", name) is not None
