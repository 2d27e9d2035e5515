"""Rules over steps, data loading and the whole job; none of them needs a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from smhf_native.profiler.columns import Float, FrameworkColumns, Int
from smhf_native.profiler.rules.base import ISSUES, JobData, RuleResult, histogram_of, scan_ends, too_few
from smhf_native.profiler.series import mean_stream, tick_matrix, usage_row

__all__ = [
    "dataloader",
    "max_initialization_time",
    "overall_framework_metrics",
    "overall_system_usage",
    "step_outlier",
]

_FEWEST_STEPS = 100
_LOADER_NAMES = ("DataLoaderIter", "DataLoaderWorker", "DataIterator")


def step_outlier(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Count steps longer than mean + ``stddev`` standard deviations; fire above ``n_outliers``."""
    result = RuleResult(
        "StepOutlier",
        parameters={
            "threshold": parameters["stddev"],
            "mode": parameters["mode"],
            "n_outliers": parameters["n_outliers"],
            "stddev": parameters["stddev"],
        },
    )
    mode = parameters["mode"]
    kinds = [s for s in job.steps() if mode is None or str(mode).upper() in s.phase.upper()]
    if not kinds:
        result.message = "no steps recorded: not evaluated"
        return result
    most = max(s.duration.size for s in kinds)
    result.datapoints = sum(s.duration.size for s in kinds)
    result.details["step_details"] = {}
    for steps in kinds:
        seconds = steps.duration / 1e9
        if not seconds.size:
            continue
        outliers = _outliers(seconds, parameters["stddev"])
        counts, edges = histogram_of(seconds[~outliers] if not outliers.all() else seconds)
        entry = {
            "phase": steps.phase,
            "step_stats": {
                "mean": float(seconds.mean()),
                "max": float(seconds.max()),
                "p99": float(np.percentile(seconds, 99)),
                "p95": float(np.percentile(seconds, 95)),
                "p50": float(np.percentile(seconds, 50)),
                "min": float(seconds.min()),
            },
            "number_of_outliers": int(outliers.sum()),
            "stddev": float(seconds.std()),
            "probs": counts,
            "binedges": edges,
            "step_numbers": steps.number[outliers].tolist()[:1000],
        }
        kept = result.details["step_details"].get(steps.node)
        if kept is None or steps.duration.size > kept["_size"]:
            result.details["step_details"][steps.node] = {**entry, "_size": steps.duration.size}
        if steps.duration.size < _FEWEST_STEPS:
            continue
        result.violations += int(outliers.sum())
        ends = steps.start + steps.duration
        for end in scan_ends(int(steps.start[0]), int(ends.max()), parameters["scan_interval_us"]):
            seen = seconds[ends <= end]
            if seen.size >= _FEWEST_STEPS:
                found = int(_outliers(seen, parameters["stddev"]).sum())
                result.triggered += found > parameters["n_outliers"]
    for entry in result.details["step_details"].values():
        entry.pop("_size")
    if most < _FEWEST_STEPS:
        return too_few(result, most, _FEWEST_STEPS)
    if result.triggered:
        result.status = ISSUES
        result.message = (
            f"{result.violations} of {result.datapoints} steps lasted longer than the mean plus "
            f"{parameters['stddev']} standard deviations (up to {parameters['n_outliers']} are ignored)"
        )
        result.advice = "Look at what happens in the steps listed: evaluation, saving, or a slow batch."
    return result


def max_initialization_time(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Fire when the first step starts later than ``threshold`` minutes after the job (or never, by then)."""
    result = RuleResult("MaxInitializationTime", parameters={"threshold": parameters["threshold"]})
    kinds = job.steps()
    start, end = job.start_s, job.end_s
    if start is None or end is None:
        result.message = "no times recorded: not evaluated"
        return result
    limit = parameters["threshold"] * 60.0
    result.details = {"job_start": start, "job_end": end}
    if kinds:
        first = min(int(s.start[0]) for s in kinds if s.start.size)
        last = max(int((s.start + s.duration).max()) for s in kinds if s.start.size)
        result.datapoints = sum(s.start.size for s in kinds)
        result.details["step_num"] = {"first": first // 1000, "last": last // 1000}
        waited, what = first / 1e9 - start, "the first step began"
    else:
        result.details["step_num"] = {}
        waited, what = end - start, "no step had begun"
    if waited > limit:
        result.status, result.triggered, result.violations = ISSUES, 1, 1
        result.message = f"{what} {waited / 60:.1f} minutes after the job (threshold {parameters['threshold']})"
        result.advice = "Shorten downloads and preparation: fewer, larger files, or data prepared beforehand."
    elif not kinds:
        result.message = "no steps recorded: not evaluated"
    return result


def dataloader(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Compare the median number of data loader processes per second with the number of cores."""
    names = ("min_threshold", "max_threshold")
    result = RuleResult("Dataloader", parameters={key: parameters[key] for key in names})
    found = job.framework
    chosen = [] if found is None else [i for i, n in enumerate(found.name) if n.startswith(_LOADER_NAMES)]
    if found is None or not chosen:
        result.message = "no data loader events: not evaluated"
        return result
    cores = max((len(job.of("CPUUtilization", node)) for node in job.nodes), default=0)
    index = np.array(chosen)
    seconds = found.duration[index] / 1e9
    counts, edges = histogram_of(seconds)
    per_second: dict[int, set[str]] = {}
    for i in chosen:
        first, last = int(found.start[i]), int(found.start[i] + found.duration[i])
        for second in range(first // 10**9, min(last // 10**9, first // 10**9 + 3600) + 1):
            per_second.setdefault(second, set()).add(f"{found.node[i]}/{_worker(found, i)}")
    loaders = float(np.median([len(pids) for pids in per_second.values()]))
    arguments = [found.args[i] for i in chosen]
    result.datapoints = len(chosen)
    result.details = {
        "cores": cores,
        "dataloaders": loaders,
        "pin_memory": _first(arguments, "pin_memory"),
        "num_workers": _first(arguments, "num_workers"),
        "prefetch": _first(arguments, "prefetch_factor"),
        "dataloading_time": {
            "p25": float(np.percentile(seconds, 25)),
            "p50": float(np.percentile(seconds, 50)),
            "p95": float(np.percentile(seconds, 95)),
            "probs": counts,
            "binedges": edges,
        },
    }
    if not cores:
        result.message = "no CPU metrics: not evaluated"
        return result
    share = 100 * loaders / cores
    if share < parameters["min_threshold"] or share > parameters["max_threshold"]:
        few = share < parameters["min_threshold"]
        result.status, result.triggered, result.violations = ISSUES, 1, 1
        result.message = (
            f"{loaders:g} data loader processes for {cores} cores ({share:.0f} %; "
            f"{'below ' + str(parameters['min_threshold']) if few else 'above ' + str(parameters['max_threshold'])} %)"
        )
        result.advice = f"Set num_workers to {'more' if few else 'fewer'}, near the number of cores."
    return result


def overall_system_usage(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Usage per node: max, p99, p95, p50 and min; never fires.

    CPU, GPU, their memory and I/O wait are percentages of the means over cores or GPUs; Network is the sum of
    received and sent bytes per second of the job's own traffic (dimension ``Algorithm``).
    """
    result = RuleResult("OverallSystemUsage")
    for node in job.nodes:
        table: dict[str, dict[str, float]] = {}
        network = job.of("Algorithm", node)
        if network:
            table["Network"] = usage_row(np.nansum(tick_matrix(network)[1], axis=1))
        for word, dimension in (
            ("GPU", "GPUUtilization"),
            ("CPU", "CPUUtilization"),
            ("CPU memory", None),
            ("GPU memory", "GPUMemoryUtilization"),
            ("I/O", "I/OWaitPercentage"),
        ):
            streams = (
                [s for s in job.streams if s.node == node and s.name == "MemoryUsedPercent"]
                if dimension is None
                else job.of(dimension, node)
            )
            if streams:
                table[word] = usage_row(mean_stream(streams)[1])
        result.details[node] = table
        result.datapoints = max(result.datapoints, *(s.value.size for s in job.streams if s.node == node))
    if not result.details:
        result.message = "no system metrics: not evaluated"
    return result


def overall_framework_metrics(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Time shares inside the framework, in percent; never fires."""
    result = RuleResult("OverallFrameworkMetrics")
    found = job.framework
    if found is None or not len(found):
        result.message = "no framework events: not evaluated"
        return result
    seconds = found.duration / 1e9
    result.datapoints = len(found)

    def total(pick: Any) -> dict[str, float]:
        sums: dict[str, float] = {}
        for i, second in enumerate(seconds.tolist()):
            word = pick(i)
            if word:
                sums[word] = sums.get(word, 0.0) + second
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    phases = total(lambda i: found.name[i] if found.name[i].startswith("Step:") else "")
    whole = (int((found.start + found.duration).max()) - int(found.start.min())) / 1e9
    covered = _covered(found, [i for i, n in enumerate(found.name) if n.startswith("Step:")])
    phase_time = {**phases, "others": max(0.0, whole - covered)}
    cpu = total(lambda i: found.name[i] if found.phase[i] == "cpu_functions" else "")
    gpu = total(lambda i: found.name[i] if found.phase[i].startswith("gpu_functions") else "")
    general = total(
        lambda i: found.name[i]
        if found.name[i].startswith(_LOADER_NAMES) or found.name[i].startswith(("Forward", "Backward"))
        else ""
    )
    halves = total(
        lambda i: "Forward" if found.name[i].startswith("Forward-node")
        else "Backward" if found.name[i].startswith("Backward(post-forward)")
        else ""
    )  # fmt: skip
    horovod = total(lambda i: found.name[i] if found.name[i].startswith(("NCCL", "ALLREDUCE", "Nccl")) else "")
    cpu_sum, gpu_sum = sum(cpu.values()), sum(gpu.values())
    result.details = {
        "phase": _shares(phase_time),
        "phase_time": phase_time,
        "ratio": _shares({"CPU_events": cpu_sum, "GPU_events": gpu_sum}),
        "CPU": {name: share for name, share in _shares(cpu).items() if share > 2},
        "CPU_total": cpu_sum,
        "GPU": {name: share for name, share in _shares(gpu).items() if share > 2},
        "GPU_total": gpu_sum,
        "general": _shares(general),
        "forward_backward": _shares(halves),
        "horovod": _shares(horovod),
    }
    return result


def _outliers(seconds: Float, factor: float) -> Any:
    return seconds > seconds.mean() + factor * seconds.std()


def _worker(found: FrameworkColumns, index: int) -> str:
    args = found.args[index]
    return str(args.get("pid", args.get("worker_id", found.pid[index])))


def _first(arguments: list[dict[str, Any]], key: str) -> Any:
    return next((a[key] for a in arguments if key in a), None)


def _shares(sums: dict[str, float]) -> dict[str, float]:
    whole = sum(sums.values())
    return {name: 100 * value / whole for name, value in sums.items()} if whole > 0 else {}


def _covered(found: FrameworkColumns, chosen: list[int]) -> float:
    """Seconds of the union of events."""
    if not chosen:
        return 0.0
    index = np.array(chosen)
    start: Int = found.start[index]
    stop: Int = start + found.duration[index]
    order = np.argsort(start, kind="stable")
    start, stop = start[order], np.maximum.accumulate(stop[order])
    gaps = np.maximum(0, start[1:] - stop[:-1]).sum()
    return float((int(stop[-1]) - int(start[0]) - int(gaps)) / 1e9)
