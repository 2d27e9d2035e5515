"""Rules of a training job: evaluated on its files when the script has ended.

:func:`evaluate_job` is what a local job's supervisor calls.  Built in: ``LossNotDecreasing``, the eleven profiling
rules and ``ProfilerReport``.  Any other rule gets the status ``Error`` with a sentence that names it.

Defaults are those that printed service reports show (spec/trace.md §6, column R); a rule that is configured by
itself comes with its own parameters in the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smhf_native.profiler.rules import framework, gpu
from smhf_native.profiler.rules.base import (
    ERROR,
    ISSUES,
    NO_ISSUES,
    SCAN_INTERVAL_US,
    JobData,
    RuleResult,
    Steps,
    parse_overrides,
    parse_parameters,
    valid_folder_name,
)
from smhf_native.profiler.rules.loss import LOSS_DEFAULTS, loss_checks, loss_not_decreasing

__all__ = [
    "ISSUES",
    "JobData",
    "NO_ISSUES",
    "RULES",
    "RuleResult",
    "Steps",
    "evaluate_job",
    "evaluate_report_rules",
    "evaluate_rule",
    "loss_checks",
]

_Evaluate = Callable[[JobData, dict[str, Any]], RuleResult]


@dataclass(frozen=True)
class _Rule:
    evaluate: _Evaluate
    defaults: Mapping[str, Any]
    description: str


def _cpu_bottleneck(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    return gpu.bottleneck(job, parameters, disk=False)


def _io_bottleneck(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    return gpu.bottleneck(job, parameters, disk=True)


#: Profiling rules in the order in which a ProfilerReport runs them.
RULES: dict[str, _Rule] = {
    "CPUBottleneck": _Rule(
        _cpu_bottleneck,
        {"threshold": 50, "cpu_threshold": 90, "gpu_threshold": 10, "patience": 1000},
        "Looks for a GPU that idles while a core is busy.",
    ),
    "IOBottleneck": _Rule(
        _io_bottleneck,
        {"threshold": 50, "io_threshold": 50, "gpu_threshold": 10, "patience": 1000},
        "Looks for a GPU that idles while a core waits for the disk.",
    ),
    "LowGPUUtilization": _Rule(
        gpu.low_gpu_utilization,
        {"threshold_p95": 70, "threshold_p5": 10, "window": 500, "patience": 1000},
        "Looks for a GPU that is little used, or whose use goes up and down.",
    ),
    "StepOutlier": _Rule(
        framework.step_outlier,
        {"stddev": 3, "mode": None, "n_outliers": 10},
        "Looks for steps that last far longer than the others.",
    ),
    "GPUMemoryIncrease": _Rule(
        gpu.gpu_memory_increase,
        {"increase": 5, "patience": 1000, "window": 10},
        "Looks for sudden rises of GPU memory.",
    ),
    "BatchSize": _Rule(
        gpu.batch_size,
        {
            "cpu_threshold_p95": 70,
            "gpu_threshold_p95": 70,
            "gpu_memory_threshold_p95": 70,
            "patience": 1000,
            "window": 500,
        },
        "Looks for room on CPU, GPU and in GPU memory at once: then the batch may grow.",
    ),
    "MaxInitializationTime": _Rule(
        framework.max_initialization_time, {"threshold": 20}, "Looks for a first step that comes late."
    ),
    "LoadBalancing": _Rule(
        gpu.load_balancing, {"threshold": 0.2, "patience": 1000}, "Looks for GPUs that do not share the work evenly."
    ),
    "OverallSystemUsage": _Rule(framework.overall_system_usage, {}, "Measures the use of the machine, node by node."),
    "Dataloader": _Rule(
        framework.dataloader,
        {"min_threshold": 70, "max_threshold": 200},
        "Looks for too few or too many data loader processes for the cores.",
    ),
    "OverallFrameworkMetrics": _Rule(
        framework.overall_framework_metrics, {}, "Measures where the time goes inside the framework."
    ),
}


def evaluate_rule(name: str, job: JobData, parameters: Mapping[str, Any] | None = None) -> RuleResult:
    """Evaluate one profiling rule, or ``LossNotDecreasing``.

    Parameters
    ----------
    name : str
        Name of the rule.
    job : JobData
    parameters : mapping, optional
        Changes of the defaults; texts as in a request, or values.

    Returns
    -------
    RuleResult

    Raises
    ------
    ValueError
        The rule is unknown, or one of its parameters is unknown or no value of its kind.
    """
    if name == "LossNotDecreasing":
        return loss_not_decreasing(
            job, parse_parameters(parameters or {}, LOSS_DEFAULTS, ("base_trial", "scan_interval_us"))
        )
    rule = RULES.get(name)
    if rule is None:
        raise ValueError(f"rule {name!r} is not built in; there are LossNotDecreasing, {', '.join(RULES)}")
    defaults = {**rule.defaults, "scan_interval_us": SCAN_INTERVAL_US}
    values = parse_parameters(parameters or {}, defaults)
    if values["scan_interval_us"] <= 0:
        raise ValueError(f"parameter scan_interval_us is {values['scan_interval_us']}; expected more than 0")
    return rule.evaluate(job, values)


def evaluate_report_rules(job: JobData, overrides: Mapping[str, Any] | None = None) -> list[RuleResult]:
    """Evaluate every rule of a ProfilerReport, in its order.

    Parameters
    ----------
    job : JobData
    overrides : mapping, optional
        ``<Rule>_<parameter>`` → value, rule names in any case.

    Raises
    ------
    ValueError
        A key names no rule, no parameter, or a bad value.
    """
    by_rule: dict[str, dict[str, Any]] = {}
    words = {name.lower(): name for name in RULES}
    for key, value in (overrides or {}).items():
        rule_word, _, parameter = str(key).partition("_")
        name = words.get(rule_word.lower())
        if name is None or not parameter:
            raise ValueError(f"{key!r} does not have the form <Rule>_<parameter>; rules: {', '.join(RULES)}")
        by_rule.setdefault(name, {})[parameter.lower()] = value
    return [evaluate_rule(name, job, by_rule.get(name)) for name in RULES]


def evaluate_job(record: Any) -> dict[str, list[dict[str, Any]]]:
    """Evaluate the rules that a job's request asks for and write their output.

    Each rule writes ``profiler-reports/<Rule>.json`` below ``rule-output/<name>/profiler-output``; a
    ProfilerReport writes one file per sub-rule and ``profiler-report.html``.  (The service also leaves the
    notebook that its report was made from; there is none here.)

    Parameters
    ----------
    record : smhf_native.jobs.records.JobRecord
        ``name``, ``request()``, ``describe()``, ``scalars()``, ``metrics()``, ``profiler_folder`` and
        ``output_folder`` are used.

    Returns
    -------
    dict
        ``DebugRuleEvaluationStatuses`` and ``ProfilerRuleEvaluationStatuses`` of DescribeTrainingJob, times as
        epoch seconds.  A rule that fails has the status ``Error`` and its reason; nothing is raised for it.
    """
    request = record.request()
    debug_configs = request.get("DebugRuleConfigurations") or []
    profiler_configs = request.get("ProfilerRuleConfigurations") or []
    if not debug_configs and not profiler_configs:
        return {"DebugRuleEvaluationStatuses": [], "ProfilerRuleEvaluationStatuses": []}
    job = JobData.from_record(record)
    outcomes: list[tuple[str, RuleResult]] = []
    debug = [_run(record, job, config, outcomes, debugger=True) for config in debug_configs]
    # The report goes last: it also shows what the other rules found.
    order = sorted(range(len(profiler_configs)), key=lambda i: _invoked(profiler_configs[i]) == "ProfilerReport")
    statuses: dict[int, dict[str, Any]] = {}
    for i in order:
        statuses[i] = _run(record, job, profiler_configs[i], outcomes, debugger=False)
    return {
        "DebugRuleEvaluationStatuses": debug,
        "ProfilerRuleEvaluationStatuses": [statuses[i] for i in range(len(profiler_configs))],
    }


def _invoked(config: Mapping[str, Any]) -> str:
    parameters = config.get("RuleParameters") or {}
    return str(parameters.get("rule_to_invoke") or config.get("RuleConfigurationName", ""))


def _run(
    record: Any,
    job: JobData,
    config: Mapping[str, Any],
    outcomes: list[tuple[str, RuleResult]],
    *,
    debugger: bool,
) -> dict[str, Any]:
    name = str(config.get("RuleConfigurationName", ""))
    try:
        status, details = _evaluate(record, job, config, name, outcomes, debugger)
    except Exception as error:  # one rule must not cost the others, nor the job
        status, details = ERROR, f"{name}: {error}" if isinstance(error, ValueError) else (
            f"{name}: {type(error).__name__}: {error}"
        )
    arn = str(job.description.get("TrainingJobArn", ""))
    head = arn.partition(":training-job/")[0] or "arn:aws:sagemaker:us-west-2:000000000000"
    result: dict[str, Any] = {
        "RuleConfigurationName": name,
        "RuleEvaluationJobArn": f"{head}:processing-job/{record.name}-{name}"[:256],
        "RuleEvaluationStatus": status,
        "LastModifiedTime": time.time(),
    }
    if details:
        result["StatusDetails"] = details[:1024]
    return result


def _evaluate(
    record: Any,
    job: JobData,
    config: Mapping[str, Any],
    name: str,
    outcomes: list[tuple[str, RuleResult]],
    debugger: bool,
) -> tuple[str, str]:
    if not valid_folder_name(name):
        raise ValueError(f"rule name {name!r} cannot be a folder: use letters, digits, blank, dot, dash, underline")
    invoked = _invoked(config)
    parameters = dict(config.get("RuleParameters") or {})
    folder = _output_folder(record, config, name)
    if not debugger and invoked == "ProfilerReport":
        return _report(job, name, parameters, folder, outcomes)
    if "source_s3_uri" in parameters:
        raise ValueError(f"custom rule {invoked!r} is not run by local jobs")
    if debugger != (invoked == "LossNotDecreasing"):
        kind = "debugging" if debugger else "profiling"
        known = "LossNotDecreasing" if debugger else ", ".join([*RULES, "ProfilerReport"])
        raise ValueError(f"{kind} rule {invoked!r} is not evaluated by local jobs; there are {known}")
    actions = "" if "action_json" not in parameters else " Actions are not carried out by local jobs."
    result = evaluate_rule(invoked, job, parameters)
    result.write(folder / "profiler-reports")
    outcomes.append((name, result))
    return result.status, f"{result.message}{'.' if actions and result.message else ''}{actions}".strip()


def _report(
    job: JobData,
    name: str,
    parameters: dict[str, Any],
    folder: Path,
    outcomes: list[tuple[str, RuleResult]],
) -> tuple[str, str]:
    from smhf_native.profiler.report import write_report

    known = ("rule_to_invoke", "custom_rule_parameters", "opt_out_telemetry", "scan_interval_us", "action_json")
    unknown = [key for key in parameters if key not in known]
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r} of ProfilerReport")
    overrides = parse_overrides(str(parameters.get("custom_rule_parameters") or "{}"))
    results = evaluate_report_rules(job, overrides)
    for result in results:
        result.write(folder / "profiler-reports")
    others = [result for _, result in outcomes if result.rule == "LossNotDecreasing"]
    write_report(folder / "profiler-report.html", job, results, others)
    fired = [result.rule for result in results if result.fired]
    if fired:
        return ISSUES, f"rules that fired: {', '.join(fired)}"
    waiting = [result for result in results if not result.evaluated]
    if not waiting:
        return NO_ISSUES, ""
    short = [r for r in waiting if r.message.startswith("not enough data")]
    text = f"{len(results) - len(waiting)} of {len(results)} rules evaluated"
    if short:
        text += f"; {short[0].rule}: {short[0].message}"
    elif any(r.message == gpu.NO_GPU for r in waiting):
        text += f"; {gpu.NO_GPU}"
    return NO_ISSUES, text


def _output_folder(record: Any, config: Mapping[str, Any], name: str) -> Path:
    uri = config.get("S3OutputPath")
    if uri:
        from smhf_native.store import Store

        base = Store().path(f"{str(uri).rstrip('/')}/{record.name}")
    else:
        base = Path(record.output_folder)
    return base / "rule-output" / name / "profiler-output"
