"""Profiler data of a job: readers, charts, tables, rules and the report (names of smdebug's profiler).

``smhf_native.smdebug`` gives smdebug's deep import paths for what is here.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> module that defines it; loaded when first used.
_EXPORTS = {
    "AlgorithmMetricsReader": "smhf_native.profiler.readers",
    "JobData": "smhf_native.profiler.rules",
    "LocalAlgorithmMetricsReader": "smhf_native.profiler.readers",
    "LocalSystemMetricsReader": "smhf_native.profiler.readers",
    "PandasFrame": "smhf_native.profiler.frames",
    "ProfilerSystemEvent": "smhf_native.profiler.readers",
    "S3AlgorithmMetricsReader": "smhf_native.profiler.readers",
    "S3SystemMetricsReader": "smhf_native.profiler.readers",
    "SystemMetricsReader": "smhf_native.profiler.readers",
    "TimeUnits": "smhf_native.profiler.readers",
    "TimelineCharts": "smhf_native.profiler.charts",
    "TraceEvent": "smhf_native.profiler.readers",
    "TrainingJob": "smhf_native.profiler.training_job",
    "build_report": "smhf_native.profiler.report",
    "evaluate_job": "smhf_native.profiler.rules",
    "evaluate_report_rules": "smhf_native.profiler.rules",
    "evaluate_rule": "smhf_native.profiler.rules",
    "write_report": "smhf_native.profiler.report",
}

__all__ = [
    "AlgorithmMetricsReader",
    "JobData",
    "LocalAlgorithmMetricsReader",
    "LocalSystemMetricsReader",
    "PandasFrame",
    "ProfilerSystemEvent",
    "S3AlgorithmMetricsReader",
    "S3SystemMetricsReader",
    "SystemMetricsReader",
    "TimeUnits",
    "TimelineCharts",
    "TraceEvent",
    "TrainingJob",
    "build_report",
    "evaluate_job",
    "evaluate_report_rules",
    "evaluate_rule",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'smhf_native.profiler' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
