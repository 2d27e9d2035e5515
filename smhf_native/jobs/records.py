"""Records of local training jobs: where they lie, how they are read and written.

Layout below :func:`home` (``$SMHF_HOME``, default ``~/.local/share/smhf_native``)::

    jobs/NAME/request.json      the CreateTrainingJob payload
    jobs/NAME/describe.json     the DescribeTrainingJob dict, times as epoch seconds, replaced atomically
    jobs/NAME/supervisor.json   {"pid", "identity"} of the process that owns the job
    jobs/NAME/ml/               the job's own /opt/ml tree
    jobs/NAME/log.txt           output of the script, one line each: "<epoch seconds> <line>"
    jobs/NAME/metrics.ndjson    {"MetricName", "Value", "Timestamp"}, one per metric match
    jobs/NAME/scalars.ndjson    per-step scalars that the Trainer of this project writes

Any process may read a record at any time. One process writes it: the launcher until it has started
the supervisor, then the supervisor. A reader that finds the supervisor dead marks the job Failed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smhf_native.exceptions import JobNotFoundError
from smhf_native.jobs import processes

__all__ = [
    "TERMINAL",
    "JobRecord",
    "home",
    "job_names",
    "jobs_root",
    "local_profiler_folder",
    "read_ndjson",
    "write_json",
]

#: Job states that never change again.
TERMINAL = ("Completed", "Failed", "Stopped")

# How long a job may exist without a supervisor before it counts as never started.
_START_SECONDS = 30.0

_TIME_KEYS = frozenset(
    {
        "CreationTime",
        "EndTime",
        "LastModifiedTime",
        "StartTime",
        "Timestamp",
        "TrainingEndTime",
        "TrainingStartTime",
    }
)


def home() -> Path:
    """Return the folder of everything local: ``$SMHF_HOME``, else ``~/.local/share/smhf_native``.

    The variable is read at each call. The folder is not created here.
    """
    value = os.environ.get("SMHF_HOME", "").strip()
    folder = Path(value).expanduser() if value else Path.home() / ".local" / "share" / "smhf_native"
    return Path(os.path.abspath(folder))


def jobs_root() -> Path:
    """Return the folder that holds one folder per job."""
    return home() / "jobs"


def job_names() -> list[str]:
    """Return the names of all local jobs, oldest first."""
    found: list[tuple[float, str]] = []
    try:
        entries = list(os.scandir(jobs_root()))
    except FileNotFoundError:
        return []
    for entry in entries:
        request = Path(entry.path) / "request.json"
        try:
            found.append((request.stat().st_mtime, entry.name))
        except OSError:
            continue
    return [name for _, name in sorted(found)]


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Write ``value`` as JSON to ``path`` atomically: a reader sees the old or the new file, whole.

    Raises
    ------
    OSError
        The file system refused; the old file is untouched then.
    """
    # (writers never share a temporary file: the pid is in its name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", opener=_opener(mode)) as stream:
            json.dump(value, stream, indent=1, ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _opener(mode: int) -> Any:
    def open_file(path: str, flags: int) -> int:
        return os.open(path, flags, mode)

    return open_file


def read_ndjson(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line; a torn last line (still being written) is left out."""
    return list(_lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _with_datetimes(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: datetime.fromtimestamp(item, tz=UTC)
            if key in _TIME_KEYS and isinstance(item, (int, float))
            else _with_datetimes(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_datetimes(item) for item in value]
    return value


def _join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


class JobRecord:
    """One local training job, read from its folder. Use :meth:`load`.

    Attributes
    ----------
    name : str
        Name of the job.
    folder : pathlib.Path
        ``$SMHF_HOME/jobs/NAME``.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def __repr__(self) -> str:
        return f"JobRecord({self.name!r})"

    @classmethod
    def load(cls, name: str) -> JobRecord:
        """Open the record of job ``name``.

        Raises
        ------
        JobNotFoundError
            No job of that name is in ``$SMHF_HOME/jobs``.
        """
        folder = jobs_root() / name
        if not name or "/" in name or name.startswith(".") or not (folder / "request.json").is_file():
            known = job_names()
            hint = f"; the newest is {known[-1]!r}" if known else ""
            raise JobNotFoundError(
                f"no local training job is named {name!r} in {jobs_root()} ({len(known)} jobs{hint})"
            )
        return cls(name, folder)

    # Files -----------------------------------------------------------------------------------

    @property
    def ml(self) -> Path:
        """The job's own ``/opt/ml`` tree."""
        return self.folder / "ml"

    @property
    def log_path(self) -> Path:
        """Output of the script, each line after its time in epoch seconds."""
        return self.folder / "log.txt"

    @property
    def metrics_path(self) -> Path:
        """One JSON object per metric match."""
        return self.folder / "metrics.ndjson"

    @property
    def scalars_path(self) -> Path:
        """One JSON object per scalar of a training step."""
        return self.folder / "scalars.ndjson"

    # Content ---------------------------------------------------------------------------------

    def request(self) -> dict[str, Any]:
        """Return the CreateTrainingJob payload."""
        value: dict[str, Any] = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))
        return value

    def describe(self) -> dict[str, Any]:
        """Return the DescribeTrainingJob dict; times are aware ``datetime`` objects in UTC.

        When the supervisor died before it could finish, the job shows as Failed and says so.
        """
        value: dict[str, Any] = _with_datetimes(self.describe_raw())
        return value

    def describe_raw(self) -> dict[str, Any]:
        """Return the same dict with times as epoch seconds."""
        value: dict[str, Any] = json.loads((self.folder / "describe.json").read_text(encoding="utf-8"))
        if value.get("TrainingJobStatus") in TERMINAL:
            return value
        reason = self._dead_supervisor(value)
        if reason is None:
            return value
        # The supervisor may have written its last word and left between our two looks.
        value = json.loads((self.folder / "describe.json").read_text(encoding="utf-8"))
        if value.get("TrainingJobStatus") in TERMINAL:
            return value
        return self._mark_dead(value, reason)

    @property
    def status(self) -> str:
        """``TrainingJobStatus`` of the job, now."""
        return str(self.describe_raw()["TrainingJobStatus"])

    def metrics(self) -> list[dict[str, Any]]:
        """Return ``{"MetricName", "Value", "Timestamp" (epoch seconds)}`` per match, in log order."""
        return read_ndjson(self.metrics_path)

    def scalars(self) -> list[dict[str, Any]]:
        """Return ``{"MetricName", "Value", "Timestamp", "IterationNumber"}`` per step, in order."""
        return read_ndjson(self.scalars_path)

    def log_lines(self) -> list[tuple[float, str]]:
        """Return ``(epoch seconds, line)`` for each line of the script's output."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines: list[tuple[float, str]] = []
        for raw in text.split("\n"):
            stamp, _, line = raw.partition(" ")
            try:
                lines.append((float(stamp), line))
            except ValueError:
                continue
        return lines

    def pid(self) -> int | None:
        """Return the supervisor's process number while it runs, else None."""
        owner = self._supervisor()
        if owner is not None and processes.is_alive(owner[0], owner[1]):
            return owner[0]
        return None

    # Places in the store ---------------------------------------------------------------------

    @property
    def output_uri(self) -> str:
        """``{S3OutputPath}/{job}``: artifacts and rule output lie below it."""
        return _join(self.request()["OutputDataConfig"]["S3OutputPath"], self.name)

    @property
    def output_folder(self) -> Path:
        """Folder of :attr:`output_uri` in the local store."""
        from smhf_native.store import Store

        return Store().path(self.output_uri)

    @property
    def profiler_uri(self) -> str:
        """``{ProfilerConfig.S3OutputPath}/{job}/profiler-output``."""
        request = self.request()
        base = request.get("ProfilerConfig", {}).get("S3OutputPath")
        return _join(base or request["OutputDataConfig"]["S3OutputPath"], self.name, "profiler-output")

    @property
    def profiler_folder(self) -> Path:
        """Folder of :attr:`profiler_uri` in the local store; the sampler writes there directly."""
        from smhf_native.store import Store

        return Store().path(self.profiler_uri)

    # Supervisor ------------------------------------------------------------------------------

    def _supervisor(self) -> tuple[int, str | None] | None:
        try:
            value = json.loads((self.folder / "supervisor.json").read_text(encoding="utf-8"))
            return int(value["pid"]), value.get("identity")
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _dead_supervisor(self, description: dict[str, Any]) -> str | None:
        owner = self._supervisor()
        if owner is None:
            age = time.time() - float(description.get("CreationTime", 0.0))
            if age < _START_SECONDS:
                return None
            return "InternalServerError: the job's supervisor process never started"
        if processes.is_alive(*owner):
            return None
        return (
            f"InternalServerError: the job's supervisor process (pid {owner[0]}) died before the job "
            f"ended; the script's output so far is in {self.log_path}"
        )

    def _mark_dead(self, value: dict[str, Any], reason: str) -> dict[str, Any]:
        now = time.time()
        value["TrainingJobStatus"] = value["SecondaryStatus"] = "Failed"
        value["FailureReason"] = reason[:1024]
        value["LastModifiedTime"] = value["TrainingEndTime"] = now
        transitions = value.setdefault("SecondaryStatusTransitions", [])
        if transitions:
            transitions[-1].setdefault("EndTime", now)
        transitions.append(
            {"Status": "Failed", "StartTime": now, "EndTime": now, "StatusMessage": reason[:1024]}
        )
        for key in ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses"):
            for rule in value.get(key, ()):
                if rule.get("RuleEvaluationStatus") == "InProgress":
                    rule.update(
                        RuleEvaluationStatus="Error",
                        StatusDetails="the job's supervisor died",
                        LastModifiedTime=now,
                    )
        try:
            write_json(self.folder / "describe.json", value)
        except OSError:
            pass  # a record of another user can be read but not repaired
        return value


def local_profiler_folder(name: str) -> Path:
    """Return the profiler folder of local job ``name`` (see :attr:`JobRecord.profiler_folder`)."""
    return JobRecord.load(name).profiler_folder
