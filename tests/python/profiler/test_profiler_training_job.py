"""TrainingJob: printed lines of spec C4, and waits that end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smhf_native.exceptions import JobNotFoundError
from smhf_native.profiler.training_job import TrainingJob


def profile_folder(home: Path, name: str = "job-1") -> Path:
    return home / "store" / "bucket" / "training_jobs" / name / "profiler-output"


def test_the_notebook_cells(
    make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path, capsys: Any
) -> None:
    record = make_job()
    make_profile(130, folder=profile_folder(home))
    job = TrainingJob("job-1", "us-west-2")
    assert job.get_systems_metrics_reader() is None
    job.wait_for_sys_profiling_data_to_be_available()
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == f"ProfilerConfig:{record.describe()['ProfilerConfig']}"
    assert lines[1] == "s3 path:s3://bucket/training_jobs/job-1/profiler-output"
    assert lines[2:5] == ["", "", "Profiler data from system is available"]
    reader = job.get_systems_metrics_reader()
    assert reader is job.system_metrics_reader
    assert reader is not None
    reader.refresh_event_file_list()
    assert len(reader.get_events()) == 130 * 18
    assert job.profiler_s3_output_path == "s3://bucket/training_jobs/job-1/profiler-output"
    assert job.describe_training_job()["TrainingJobStatus"] == "Completed"


@pytest.mark.parametrize(
    ("status", "reason"), [("Failed", "AlgorithmError: boom"), ("Completed", ""), ("Stopped", "")]
)
def test_an_ended_job_without_data_raises(
    make_job: Callable[..., Any], status: str, reason: str, capsys: Any
) -> None:
    make_job(status=status, **({"FailureReason": reason} if reason else {}))
    job = TrainingJob("job-1")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=status) as raised:
        job.wait_for_sys_profiling_data_to_be_available()
    assert time.monotonic() - start < 5
    assert reason in str(raised.value) and "job-1" in str(raised.value)
    with pytest.raises(RuntimeError, match="framework"):
        job.wait_for_framework_profiling_data_to_be_available()
    out = capsys.readouterr().out
    assert "Profiler data from system not available yet" in out
    assert f"TrainingJobStatus:{status} TrainingJobSecondaryStatus:{status}" in out


def running(make_job: Callable[..., Any]) -> Any:
    """A job in progress whose supervisor is this test's own process."""
    import os

    from smhf_native.jobs import processes

    record = make_job(status="InProgress")
    owner = {"pid": os.getpid(), "identity": processes.identity(os.getpid())}
    (record.folder / "supervisor.json").write_text(json.dumps(owner))
    return record


def test_a_running_job_without_data_times_out(make_job: Callable[..., Any]) -> None:
    running(make_job)
    job = TrainingJob("job-1")
    with pytest.raises(TimeoutError, match=r"within 0\.3 s"):
        job.wait_for_sys_profiling_data_to_be_available(timeout=0.3, poll=0.05)


def test_a_running_job_is_waited_for(
    make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path
) -> None:
    running(make_job)
    job = TrainingJob("job-1")
    timer = threading.Timer(0.4, lambda: make_profile(3, folder=profile_folder(home)))
    timer.start()
    job.wait_for_sys_profiling_data_to_be_available(timeout=20, poll=0.05)
    timer.join()
    reader = job.get_systems_metrics_reader()
    assert reader is not None
    reader.refresh_event_file_list()
    assert len(reader.get_events()) == 3 * 18


def test_framework_data(make_job: Callable[..., Any], home: Path, shared_data: Path, capsys: Any) -> None:
    make_job()
    source = next((shared_data / "traces/sagemaker/merge_traces").rglob("*pythontimeline.json"))
    target = profile_folder(home) / "framework" / "pevents" / "2020071317" / source.name
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    job = TrainingJob("job-1")
    job.wait_for_framework_profiling_data_to_be_available()
    assert "1594662624718694 us (2020-07-13 17:50:24 UTC)" in capsys.readouterr().out
    reader = job.get_framework_metrics_reader()
    assert reader is not None and len(reader.get_events()) > 10


def test_refuses_at_once(make_job: Callable[..., Any]) -> None:
    """smdebug's constructor never returns for a job without a ProfilerConfig (spec C4)."""
    make_job("plain", profiler=False)
    with pytest.raises(ValueError, match="profiler_config=ProfilerConfig"):
        TrainingJob("plain")
    with pytest.raises(JobNotFoundError, match="nobody"):
        TrainingJob("nobody")
    make = TrainingJob
    record = make_job("off2")
    described = json.loads((record.folder / "describe.json").read_text())
    described["ProfilerConfig"]["DisableProfiler"] = True
    (record.folder / "describe.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="disabled"):
        make("off2")
