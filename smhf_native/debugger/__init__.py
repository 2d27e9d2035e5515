"""Debugger and profiler configuration under the names of ``sagemaker.debugger`` (SDK v2).

Everything here only builds request payloads (spec A3, A4); :mod:`smhf_native.profiler` reads what a job wrote
and evaluates rules.
"""

from __future__ import annotations

from smhf_native.debugger import rule_configs
from smhf_native.debugger.collections import CollectionConfig, DebuggerHookConfig, TensorBoardOutputConfig
from smhf_native.debugger.framework_profile import FrameworkProfile
from smhf_native.debugger.images import DEFAULT_RULE_EVALUATOR_IMAGE, get_rule_container_image_uri
from smhf_native.debugger.metrics_config import (
    DataloaderProfilingConfig,
    DetailedProfilingConfig,
    HorovodProfilingConfig,
    PythonProfilingConfig,
    SMDataParallelProfilingConfig,
)
from smhf_native.debugger.profiler_config import ProfilerConfig
from smhf_native.debugger.rules import ProfilerRule, Rule, RuleBase, get_default_profiler_rule
from smhf_native.debugger.utils import PythonProfiler, cProfileTimer

# The environment switch of the SDK's containers and the image family, as there.
DEBUGGER_FLAG = "USE_SMDEBUG"
framework_name = "debugger"

__all__ = [
    "CollectionConfig",
    "DEBUGGER_FLAG",
    "DEFAULT_RULE_EVALUATOR_IMAGE",
    "DataloaderProfilingConfig",
    "DebuggerHookConfig",
    "DetailedProfilingConfig",
    "FrameworkProfile",
    "HorovodProfilingConfig",
    "ProfilerConfig",
    "ProfilerRule",
    "PythonProfiler",
    "PythonProfilingConfig",
    "Rule",
    "RuleBase",
    "SMDataParallelProfilingConfig",
    "TensorBoardOutputConfig",
    "cProfileTimer",
    "framework_name",
    "get_default_profiler_rule",
    "get_rule_container_image_uri",
    "rule_configs",
]
