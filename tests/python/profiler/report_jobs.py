"""Jobs for the report's tests: one with a GPU that is starved, one on the processor alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.profiler.report import build_report
from smhf_native.profiler.rules import JobData, RuleResult, evaluate_report_rules, evaluate_rule

START = 1783653720


def made_job(make_profile: Callable[..., Path], kind: str = "gpu", ticks: int = 300) -> JobData:
    rng = np.random.default_rng(5)
    gpus = {"gpu": 2, "cpu": 0}[kind]
    folder = make_profile(ticks, cores=8 if kind == "gpu" else 2, gpus=gpus)
    end = START + ticks * 0.5
    steps = int((end - START - 25) / 0.25)
    stamps = START + 15 + 0.25 * np.arange(steps) + np.cumsum(rng.exponential(0.004, steps))
    scalars = [
        {
            "MetricName": "loss",
            "Value": float(1.2 * np.exp(-k / 120) + 0.5 + rng.normal(0, 0.08)),
            "Timestamp": float(stamps[k]),
            "IterationNumber": k + 1,
        }
        for k in range(steps)
    ]
    metrics = [
        {"MetricName": name, "Value": value, "Timestamp": end - 4}
        for name, value in (("eval_loss", 0.835297), ("eval_accuracy", 0.659011), ("eval_runtime", 33.002))
    ]
    return JobData.from_folder(
        f"huggingface-spot-2026-07-10-03-21-59-{kind}",
        folder,
        scalars=scalars,
        metrics=metrics,
        description={
            "TrainingJobStatus": "Completed",
            "SecondaryStatus": "Completed",
            "TrainingStartTime": START - 1.5,
            "TrainingEndTime": end + 2.0,
        },
    )


def results_of(job: JobData, **overrides: Any) -> tuple[list[RuleResult], list[RuleResult]]:
    return evaluate_report_rules(job, overrides), [evaluate_rule("LossNotDecreasing", job, {"num_steps": "200"})]


def report_page(make_profile: Callable[..., Path], kind: str = "gpu", ticks: int = 300) -> str:
    job = made_job(make_profile, kind, ticks)
    overrides = {"LowGPUUtilization_patience": 100, "LowGPUUtilization_threshold_p5": 20} if kind == "gpu" else {}
    return build_report(job, *results_of(job, **overrides))
