"""What our own sampler and event writer leave, read by readers, charts and rules; and the same from S3."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smhf_native.profiler.charts import TimelineCharts
from smhf_native.profiler.readers import (
    LocalAlgorithmMetricsReader,
    LocalSystemMetricsReader,
    S3AlgorithmMetricsReader,
    S3SystemMetricsReader,
)
from smhf_native.profiler.report import build_report
from smhf_native.profiler.rules import JobData, evaluate_report_rules
from smhf_native.profiler.training_job import TrainingJob
from smhf_native.trace import EventWriter, Sampler


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of this machine at 100 ms, with 120 steps and an evaluation."""
    folder = tmp_path_factory.mktemp("capture") / "profiler-output"
    with Sampler(folder, interval_ms=100, nvml_path=""), EventWriter(folder, "algo-1") as writer:
        began = time.time_ns()
        for step in range(120):
            start = began + step * 5_000_000
            writer.span("Step:ModeKeys.TRAIN", start, start + 4_000_000, {"step_num": step + 1})
        writer.span("Step:ModeKeys.EVAL", began + 600_000_000, began + 800_000_000, {"step_num": 120})
        time.sleep(1.2)
    return folder


def test_charts_of_this_machine(captured: Path) -> None:
    reader = LocalSystemMetricsReader(captured)
    assert reader.faults == []
    charts = TimelineCharts(reader, None, select_dimensions=["CPU", "GPU"], select_events=["total"])
    assert [f.title for f in charts.figures] == ["CPUUtilization-nodeid:algo-1_total"]
    data = charts.sources["CPUUtilization-nodeid:algo-1"]["total"].data
    # 10 a second; a busy machine may drop some, never most of them
    assert 6 <= len(data["x"]) <= 16
    assert data["y"].min() >= 0 and data["y"].max() <= 100
    streams = [e for e in charts.available_events if e.startswith("cpu")]
    assert len(streams) == len([n for n in os.listdir("/sys/devices/system/cpu") if n[3:].isdigit()]) or len(
        streams
    ) == os.cpu_count()
    assert "MemoryUsedPercent" in charts.available_events


def test_steps_and_rules_of_this_machine(captured: Path) -> None:
    job = JobData.from_folder("job", captured)
    train, evaluation = sorted(job.steps(), key=lambda s: -s.duration.size)
    assert (train.phase, train.node.endswith("algo-1"), train.source) == (
        "Step:ModeKeys.TRAIN",
        True,
        "framework events",
    )
    assert train.number.tolist() == list(range(1, 121)) and set(train.duration.tolist()) == {4_000_000}
    assert evaluation.duration.tolist() == [200_000_000]
    results = {r.rule: r for r in evaluate_report_rules(job)}
    assert results["StepOutlier"].datapoints == 121
    assert results["OverallFrameworkMetrics"].details["phase_time"]["Step:ModeKeys.TRAIN"] == pytest.approx(0.48)
    assert results["OverallSystemUsage"].details["algo-1"]["CPU"]["max"] <= 100
    page = build_report(job, list(results.values()))
    assert "framework events" in page and "Time by phase" in page
    reader = LocalAlgorithmMetricsReader(captured)
    assert len(reader.get_events_by_step(1, 3, event_type="Step:ModeKeys.TRAIN")) == 3


def test_the_same_from_s3(captured: Path, peer: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    boto3, moto = peer("boto3"), peer("moto")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("SMHF_MODE", "aws")
    local = LocalSystemMetricsReader(captured)
    with moto.mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="bucket")
        files = sorted(p for p in captured.rglob("*") if p.is_file())
        prefix = "training_jobs/job-1/profiler-output"
        for path in files:
            s3.upload_file(str(path), "bucket", f"{prefix}/{path.relative_to(captured)}")
        reader = S3SystemMetricsReader(f"s3://bucket/{prefix}", region="us-east-1")
        assert reader.get_events() == local.get_events()
        events = S3AlgorithmMetricsReader(f"s3://bucket/{prefix}/", region="us-east-1").get_events()
        assert len(events) == 121
        # A file that grows is fetched again, the others are not.
        newest = sorted(captured.rglob("*.algo-1.json"))[-1]
        body = newest.read_bytes()
        first_line = body.splitlines(keepends=True)[0]
        key = f"{prefix}/{newest.relative_to(captured)}"
        s3.put_object(Bucket="bucket", Key=key, Body=body + first_line)
        fetched: list[str] = []
        client = reader._root.client  # type: ignore[attr-defined]
        plain = client.get_object
        client.get_object = lambda **k: (fetched.append(k["Key"]), plain(**k))[1]
        reader.refresh_event_file_list()
        assert fetched == [key]
        assert len(reader.get_events()) == len(local.get_events()) + 1


def test_training_job_in_aws_mode(peer: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The region given is the one that is asked (smdebug's S3 client ignored it)."""
    boto3, moto = peer("boto3"), peer("moto")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("SMHF_MODE", "aws")
    with moto.mock_aws():
        client = boto3.client("sagemaker", region_name="eu-west-1")
        client.create_training_job(
            TrainingJobName="job-1",
            AlgorithmSpecification={"TrainingInputMode": "File", "TrainingImage": "image"},
            RoleArn="arn:aws:iam::111122223333:role/any-role-here",
            OutputDataConfig={"S3OutputPath": "s3://bucket/p"},
            ResourceConfig={"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge", "VolumeSizeInGB": 30},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
        # moto keeps no ProfilerConfig: smdebug's constructor never returns here (spec F3)
        with pytest.raises(ValueError, match="no profiler data"):
            TrainingJob("job-1", "eu-west-1")
