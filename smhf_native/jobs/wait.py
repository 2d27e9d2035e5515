"""Follow a job from any process: print its log, its state changes, and how it ended."""

from __future__ import annotations

import codecs
import sys
import time
import warnings
from datetime import UTC, datetime
from typing import Any, TextIO

from smhf_native.exceptions import CapacityError, UnexpectedStatusException
from smhf_native.jobs.records import TERMINAL, JobRecord

__all__ = ["JobFollower", "follow_local", "log_kind", "raise_for_status", "rule_lines", "summary_lines"]

_POLL = 0.1


def log_kind(logs: Any) -> str:
    """Return ``"All"``, ``"Training"``, ``"Rules"`` or ``"None"`` for what ``fit(logs=…)`` was given."""
    if logs is True:
        return "All"
    if logs is False or logs is None:
        return "None"
    if logs in ("All", "Training", "Rules", "None"):
        return str(logs)
    raise ValueError(f"logs must be 'All', 'None', 'Training', 'Rules', True or False, got {logs!r}")


def raise_for_status(job_name: str, description: dict[str, Any]) -> None:
    """Raise for a failed job; warn for a stopped one.

    Raises
    ------
    UnexpectedStatusException
        The job failed (:class:`CapacityError` when its reason says so).
    """
    status = description["TrainingJobStatus"]
    if status == "Completed":
        return
    reason = description.get("FailureReason", "(No reason provided)")
    if status == "Stopped":
        warnings.warn(
            f"training job {job_name} was stopped ({description.get('SecondaryStatus', 'Stopped')}): "
            "what it had written by then is kept",
            stacklevel=3,
        )
        return
    kind = CapacityError if "CapacityError" in reason else UnexpectedStatusException
    raise kind(
        f"Error for Training job {job_name}: {status}. Reason: {reason}",
        allowed_statuses=["Completed", "Stopped"],
        actual_status=status,
    )


def transition_line(transition: dict[str, Any], when: Any) -> str:
    """Return ``YYYY-MM-DD HH:MM:SS Status - message`` (UTC)."""
    stamp = when if isinstance(when, datetime) else datetime.fromtimestamp(float(when), tz=UTC)
    message = transition.get("StatusMessage") or ""
    return f"{stamp.astimezone(UTC):%Y-%m-%d %H:%M:%S} {transition['Status']} - {message}"


def rule_lines(description: dict[str, Any], seen: dict[str, str]) -> list[str]:
    """Return one line per rule whose status changed since ``seen``, which is updated."""
    lines = []
    for key in ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses"):
        for rule in description.get(key) or ():
            name, status = rule["RuleConfigurationName"], rule["RuleEvaluationStatus"]
            if seen.get(name) != status:
                seen[name] = status
                lines.append(f"{name}: {status}")
    return lines


def summary_lines(description: dict[str, Any]) -> list[str]:
    """Return the closing lines about seconds, and about savings of a spot job."""
    training, billable = description.get("TrainingTimeInSeconds"), description.get("BillableTimeInSeconds")
    lines = []
    if training is not None:
        lines.append(f"Training seconds: {training}")
    if billable is not None:
        lines.append(f"Billable seconds: {billable}")
        if description.get("EnableManagedSpotTraining") and training:
            lines.append(f"Managed Spot Training savings: {(1 - billable / training) * 100:.1f}%")
    return lines


class JobFollower:
    """Prints what a local job does; call :meth:`step` until it returns True."""

    def __init__(self, record: JobRecord, log_type: str = "All", stream: TextIO | None = None) -> None:
        self.record = record
        self.description: dict[str, Any] = {}
        self._stream = stream
        self._log = log_type in ("All", "Training")
        self._rules = log_type in ("All", "Rules")
        self._offset = 0
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._transitions = 0
        self._seen: dict[str, str] = {}
        self._signature: object = None
        self._next_check = 0.0

    def step(self) -> bool:
        """Print what is new, by time; return True when the job has ended and everything was printed."""
        lines: list[tuple[float, str]] = []
        ended = self._describe(lines)
        if self._log:
            self._read_log(lines)
        lines.sort(key=lambda item: item[0])  # stable: lines of one moment keep their order
        for _, line in lines:
            self._print(line)
        if ended:
            for line in summary_lines(self.description):
                self._print(line)
        return ended

    def _print(self, line: str) -> None:
        stream = self._stream or sys.stdout
        try:
            print(line, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            print(line.encode(encoding, "replace").decode(encoding), file=stream, flush=True)

    def _describe(self, lines: list[tuple[float, str]]) -> bool:
        path = self.record.folder / "describe.json"
        status = path.stat()
        signature = (status.st_mtime_ns, status.st_ino)
        now = time.monotonic()
        # Unchanged files are read again every two seconds only, to notice a dead supervisor.
        if signature == self._signature and now < self._next_check:
            return False
        self._signature, self._next_check = signature, now + 2.0
        self.description = self.record.describe_raw()
        transitions = self.description.get("SecondaryStatusTransitions", [])
        for transition in transitions[self._transitions :]:
            lines.append((transition["StartTime"], transition_line(transition, transition["StartTime"])))
        self._transitions = len(transitions)
        if self._rules:
            changed = self.description["LastModifiedTime"]
            lines += [(changed, line) for line in rule_lines(self.description, self._seen)]
        return self.description["TrainingJobStatus"] in TERMINAL

    def _read_log(self, lines: list[tuple[float, str]]) -> None:
        try:
            with open(self.record.log_path, "rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        *whole, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in whole:
            stamp, _, text = line.partition(" ")
            try:
                moment = float(stamp)
            except ValueError:
                continue
            lines.append((moment, text))


def follow_local(
    job_name: str,
    *,
    wait: bool = True,
    log_type: str = "All",
    timeout: float | None = None,
    stop_on_interrupt: bool = False,
) -> None:
    """Print the job's log and state changes; with ``wait`` until it ends, then raise if it failed.

    Parameters
    ----------
    timeout : float, optional
        Seconds after which to give up waiting with :class:`TimeoutError`; the job goes on.
    stop_on_interrupt : bool
        Ctrl-C stops the job (SIGTERM, 120 s, SIGKILL) and is raised again when it has ended. A second
        Ctrl-C stops waiting at once.
    """
    record = JobRecord.load(job_name)
    follower = JobFollower(record, log_type)
    begin = time.monotonic()
    interrupted = False
    while True:
        try:
            if follower.step():
                break
            if not wait:
                return
            if timeout is not None and time.monotonic() - begin > timeout:
                raise TimeoutError(f"training job {job_name} is still running after {timeout} seconds")
            time.sleep(_POLL)
        except KeyboardInterrupt:
            if not stop_on_interrupt or interrupted:
                raise
            interrupted = True
            from smhf_native.jobs import launch

            print(
                f"\nInterrupted: stopping training job {job_name} (it has 120 s to save its work)", flush=True
            )
            launch.stop(record)
    # The supervisor leaves right after its last word: who waited for a job finds no process of it.
    leave = time.monotonic() + 5.0
    while wait and record.pid() is not None and time.monotonic() < leave:
        time.sleep(0.01)
    if interrupted:
        raise KeyboardInterrupt(f"training job {job_name} was stopped")
    raise_for_status(job_name, follower.description)
