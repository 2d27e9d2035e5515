"""Generated profiler files in the layout of spec/sagemaker.md C1, C2, and jobs in a home of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

START = 1783653720  # a full minute: 2026-07-10 03:22:00 UTC


def minute_rows(
    ticks: int, cores: int = 4, gpus: int = 1, seed: int = 0, node: str = "algo-1", interval: float = 0.5
) -> dict[int, list[dict[str, Any]]]:
    """Rows by minute: 18 a tick for 4 cores and 1 GPU, groups and cores in random order."""
    rng = np.random.default_rng(seed)
    minutes: dict[int, list[dict[str, Any]]] = {}
    for tick in range(ticks):
        base = START + tick * interval + 0.001699
        groups: list[list[tuple[str, str, str, float, float]]] = [
            [
                ("gpu", f"gpu{g}", dimension, rng.uniform(0, 100), 0.0)
                for g in range(gpus)
                for dimension in ("GPUUtilization", "GPUMemoryUtilization")
            ],
            [
                ("cpu", f"cpu{c}", dimension, rng.uniform(0, 100 if dimension[0] == "C" else 5), 0.0004)
                for c in rng.permutation(cores)
                for dimension in ("CPUUtilization", "I/OWaitPercentage")
            ],
            [
                ("i/o", "IOPS", "", rng.uniform(0, 1e5), 0.0002),
                ("i/o", "ReadThroughputInBytesPerSecond", "", rng.uniform(0, 1e9), 0.0002),
                ("i/o", "WriteThroughputInBytesPerSecond", "", rng.uniform(0, 6e9), 0.0002),
                ("memory", "MemoryUsedPercent", "", rng.uniform(20, 30), 0.0003),
            ],
            [
                ("network", f"{way}BytesPerSecond", dimension, rng.uniform(0, 1e6), 0.004)
                for dimension in ("Algorithm", "Platform")
                for way in ("Receive", "Transmit")
            ],
        ]
        for index in rng.permutation(len(groups)):
            for kind, name, dimension, value, delay in groups[index]:
                row = {
                    "Type": kind,
                    "Name": name,
                    "Dimension": dimension,
                    "Value": round(float(value), 2),
                    "NodeId": node,
                    "Timestamp": round(base + delay, 6),
                }
                minutes.setdefault(int(base) // 60 * 60, []).append(row)
    return minutes


def write_minutes(folder: Path, minutes: dict[int, list[dict[str, Any]]], node: str = "algo-1") -> list[Path]:
    paths = []
    for minute, rows in minutes.items():
        hour = datetime.fromtimestamp(minute, UTC).strftime("%Y%m%d%H")
        path = folder / "system" / "incremental" / hour / f"{minute:010d}.{node}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
        paths.append(path)
    return paths


@pytest.fixture
def make_profile(tmp_path: Path) -> Callable[..., Path]:
    """``make_profile(ticks, cores=…, gpus=…)`` → a profiler-output folder."""

    def make(ticks: int, folder: Path | None = None, node: str = "algo-1", **options: Any) -> Path:
        folder = folder if folder is not None else tmp_path / "profiler-output"
        write_minutes(folder, minute_rows(ticks, node=node, **options), node)
        return folder

    return make


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $SMHF_HOME in local mode."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SMHF_HOME", str(folder))
    monkeypatch.delenv("SMHF_MODE", raising=False)
    return folder


@pytest.fixture
def make_job(home: Path) -> Callable[..., Any]:
    """``make_job(name, status=…, metrics=…, scalars=…, rules…)`` → a JobRecord written by hand."""

    def make(
        name: str = "job-1",
        status: str = "Completed",
        definitions: tuple[str, ...] = ("loss", "eval_loss"),
        metrics: list[dict[str, Any]] | None = None,
        scalars: list[dict[str, Any]] | None = None,
        profiler: bool = True,
        debug_rules: list[dict[str, Any]] | None = None,
        profiler_rules: list[dict[str, Any]] | None = None,
        **description: Any,
    ) -> Any:
        from smhf_native.jobs.records import JobRecord

        folder = home / "jobs" / name
        folder.mkdir(parents=True)
        config = {"S3OutputPath": "s3://bucket/training_jobs/", "ProfilingIntervalInMilliseconds": 500}
        request = {
            "TrainingJobName": name,
            "AlgorithmSpecification": {"MetricDefinitions": [{"Name": n, "Regex": "x"} for n in definitions]},
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/training_jobs/"},
            "DebugRuleConfigurations": debug_rules or [],
            "ProfilerRuleConfigurations": profiler_rules or [],
        }
        described = {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-west-2:000000000000:training-job/{name}",
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            "TrainingStartTime": START - 2.0,
            "TrainingEndTime": START + 130.0,
            **description,
        }
        if profiler:
            request["ProfilerConfig"] = config
            described["ProfilerConfig"] = config
        (folder / "request.json").write_text(json.dumps(request))
        (folder / "describe.json").write_text(json.dumps(described))
        for file, lines in (("metrics.ndjson", metrics), ("scalars.ndjson", scalars)):
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines or []))
        return JobRecord.load(name)

    return make
