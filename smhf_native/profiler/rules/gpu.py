"""Rules over system metrics that concern GPUs.

Written from the documented behaviour and from printed reports (spec/trace.md §6, spec/sagemaker.md D1).  Every
rule looks at the data up to the end of each scan (``scan_interval_us``) and once more at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smhf_native.profiler.columns import Float, Int, Stream
from smhf_native.profiler.rules.base import ISSUES, JobData, RuleResult, scan_ends, too_few
from smhf_native.profiler.series import five_numbers, mean_stream, tick_matrix

__all__ = ["batch_size", "bottleneck", "gpu_memory_increase", "load_balancing", "low_gpu_utilization"]

NO_GPU = "no GPU: not evaluated"
_MOST_LISTED = 1000  # snapshots listed one by one in a report file


def low_gpu_utilization(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Per GPU, over the last ``window`` values once there are ``patience``: p95 low, or p5 low (fluctuating)."""
    p95_limit, p5_limit = parameters["threshold_p95"], parameters["threshold_p5"]
    window, patience = int(parameters["window"]), int(parameters["patience"])
    shown = {key: parameters[key] for key in ("threshold_p95", "threshold_p5", "window", "patience")}
    result = RuleResult("LowGPUUtilization", parameters=shown)
    gpus = job.of("GPUUtilization")
    if not gpus:
        result.message = NO_GPU
        return result
    longest = max(gpu.value.size for gpu in gpus)
    result.datapoints = longest
    fired_scans: set[int] = set()
    worst: list[str] = []
    for gpu in gpus:
        found: dict[str, Any] = {}
        state = ""
        for number, count in enumerate(_counts(job, gpu, parameters)):
            if count < max(1, patience):
                continue
            piece = gpu.value[max(0, count - window) : count]
            p95, p5 = np.percentile(piece, [95, 5])
            found = {"gpu_max": float(piece.max()), "gpu_95": float(p95), "gpu_5": float(p5)}
            if p95 < p95_limit or p5 < p5_limit:
                fired_scans.add(number)
                result.violations += 1
                low = p95 < p95_limit
                state = (
                    f"{gpu.name} on {gpu.node}: 95 % of the values are below {p95:.1f} % (threshold {p95_limit})"
                    if low
                    else f"{gpu.name} on {gpu.node} fluctuates: p95 {p95:.1f} %, p5 {p5:.1f} % "
                    f"(threshold {p5_limit})"
                )
        if gpu.value.size:
            found |= five_numbers(gpu.value)
            result.details.setdefault(gpu.node, {})[gpu.name] = found
        if state:
            worst.append(state)
    result.details["last_timestamp"] = max(int(gpu.time[-1]) for gpu in gpus) // 1000
    if longest < patience:
        return too_few(result, longest, patience)
    result.triggered = len(fired_scans)
    if fired_scans:
        result.status = ISSUES
        result.message = "; ".join(worst)
        result.advice = (
            "Give the GPU more work at once (a larger batch), or feed it faster (more data loader workers, data "
            "prepared beforehand); else a smaller machine does."
        )
    return result


def bottleneck(job: JobData, parameters: dict[str, Any], *, disk: bool) -> RuleResult:
    """CPUBottleneck or IOBottleneck: share of snapshots in which a GPU idles while a core is busy (or waits)."""
    name = "IOBottleneck" if disk else "CPUBottleneck"
    own = "io_threshold" if disk else "cpu_threshold"
    shown = {key: parameters[key] for key in ("threshold", own, "gpu_threshold", "patience")}
    result = RuleResult(name, parameters=shown)
    if not job.of("GPUUtilization"):
        result.message = NO_GPU
        return result
    times: list[Int] = []
    lows: list[Float] = []
    hits: list[Float] = []
    listed: dict[str, Any] = {}
    for node in job.nodes:
        gpus = job.of("GPUUtilization", node)
        cores = job.of("I/OWaitPercentage" if disk else "CPUUtilization", node)
        if not gpus or not cores:
            continue
        time, matrix = tick_matrix([*gpus, *cores])
        gpu, core = matrix[:, : len(gpus)], matrix[:, len(gpus) :]
        whole = ~(np.isnan(gpu).all(axis=1) | np.isnan(core).all(axis=1))
        idle = gpu < parameters["gpu_threshold"]  # NaN compares as False
        busy = core > parameters[own]
        low = idle.any(axis=1) & whole
        hit = low & busy.any(axis=1)
        times.append(time[whole])
        lows.append(low[whole].astype(np.float64))
        hits.append(hit[whole].astype(np.float64))
        for tick in np.flatnonzero(hit)[: _MOST_LISTED - len(listed)].tolist():
            listed[f"{time[tick] / 1e9:.6f}"] = {
                "GPUs": [g.name for g, yes in zip(gpus, idle[tick], strict=True) if yes],
                "CPUs": [c.name for c, yes in zip(cores, busy[tick], strict=True) if yes],
            }
    if not times:
        result.message = f"no {'I/O wait' if disk else 'CPU'} metrics: not evaluated"
        return result
    time = np.concatenate(times)
    order = np.argsort(time, kind="stable")
    time = time[order]
    hit_sum = np.cumsum(np.concatenate(hits)[order])
    total = int(time.size)
    result.datapoints = total
    result.violations = int(hit_sum[-1]) if total else 0
    result.details = {
        "low_gpu_utilization": int(np.concatenate(lows).sum()),
        "bottlenecks": listed,
    }
    patience = int(parameters["patience"])
    if total <= patience:
        return too_few(result, total, patience + 1)
    share = 0.0
    for end in scan_ends(int(time[0]), int(time[-1]), parameters["scan_interval_us"]):
        count = int(np.searchsorted(time, end, side="right"))
        if count > patience:
            share = 100 * float(hit_sum[count - 1]) / count
            result.triggered += share > parameters["threshold"]
    if result.triggered:
        share = 100 * result.violations / total
        what = "waited for the disk" if disk else "was busy"
        result.status = ISSUES
        result.message = (
            f"in {result.violations} of {total} snapshots ({share:.0f} %) a GPU was below "
            f"{parameters['gpu_threshold']} % while a core {what} above {parameters[own]} % "
            f"(threshold {parameters['threshold']} % of the snapshots)"
        )
        result.advice = (
            "Read ahead, keep the data nearer, or use fewer and larger files."
            if disk
            else "Prepare data beforehand, use more data loader workers, or a machine with more cores per GPU."
        )
    return result


def batch_size(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Per node, over the last ``window`` values: p95 of mean CPU, of a GPU and of its memory all below."""
    names = ("cpu_threshold_p95", "gpu_threshold_p95", "gpu_memory_threshold_p95", "patience", "window")
    result = RuleResult("BatchSize", parameters={key: parameters[key] for key in names})
    gpus = job.of("GPUUtilization")
    if not gpus:
        result.message = NO_GPU
        return result
    window, patience = int(parameters["window"]), int(parameters["patience"])
    result.datapoints = max(gpu.value.size for gpu in gpus)
    fired_scans: set[int] = set()
    worst: list[str] = []
    for node in job.nodes:
        cores = job.of("CPUUtilization", node)
        memories = {s.name: s for s in job.of("GPUMemoryUtilization", node)}
        mine = job.of("GPUUtilization", node)
        if not mine or not cores:
            continue
        cpu_time, cpu = mean_stream(cores)
        details: dict[str, Any] = {"cpu": five_numbers(cpu)} if cpu.size else {}
        for gpu in mine:
            details[gpu.name] = five_numbers(gpu.value)
            memory = memories.get(gpu.name)
            if memory is None or not cpu.size:
                continue
            details[f"{gpu.name}_memory"] = five_numbers(memory.value)
            state = ""
            for number, end in enumerate(_scan_times(job, parameters)):
                values = [
                    _last(v, int(np.searchsorted(t, end, side="right")), window, patience)
                    for t, v in ((cpu_time, cpu), (gpu.time, gpu.value), (memory.time, memory.value))
                ]
                if any(v is None for v in values):
                    continue
                p95 = [float(np.percentile(v, 95)) for v in values if v is not None]
                limits = [parameters[key] for key in names[:3]]
                if all(p < limit for p, limit in zip(p95, limits, strict=True)):
                    fired_scans.add(number)
                    result.violations += 1
                    state = (
                        f"{gpu.name} on {node}: p95 of CPU {p95[0]:.1f} %, GPU {p95[1]:.1f} %, "
                        f"GPU memory {p95[2]:.1f} %, all below their thresholds"
                    )
            if state:
                worst.append(state)
        result.details[node] = details
    if result.datapoints < patience:
        return too_few(result, result.datapoints, patience)
    result.triggered = len(fired_scans)
    if fired_scans:
        result.status = ISSUES
        result.message = "; ".join(worst)
        result.advice = "The batch has room to grow; or a smaller machine does the same."
    return result


def gpu_memory_increase(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Mean of each block of ``window`` values against the block before it, once there are ``patience``."""
    names = ("increase", "patience", "window")
    result = RuleResult("GPUMemoryIncrease", parameters={key: parameters[key] for key in names})
    memories = job.of("GPUMemoryUtilization")
    if not memories:
        result.message = NO_GPU
        return result
    window, patience = max(1, int(parameters["window"])), int(parameters["patience"])
    result.datapoints = max(memory.value.size for memory in memories)
    ends = _scan_times(job, parameters)
    fired_scans: set[int] = set()
    worst: list[str] = []
    for memory in memories:
        blocks = memory.value.size // window
        means = memory.value[: blocks * window].reshape(blocks, window).mean(axis=1)
        rises = np.diff(means)
        last = (np.arange(1, blocks) + 1) * window  # values seen when the later block is whole
        hits = np.flatnonzero((rises > parameters["increase"]) & (last >= patience))
        result.violations += int(hits.size)
        moments = memory.time[last[hits] - 1]
        fired_scans |= set(np.searchsorted(ends, moments, side="left").tolist())
        late = rises[last >= patience]
        p05, p25, p50, p75, p95 = (float(p) for p in np.percentile(memory.value, [5, 25, 50, 75, 95]))
        result.details.setdefault(memory.node, {})[memory.name] = {
            "increase": float(late.max()) if late.size else 0.0,
            "gpu_max": float(memory.value.max()),
            "p05": p05,
            "p25": p25,
            "p50": p50,
            "p75": p75,
            "p95": p95,
        }
        if hits.size:
            rise = float(rises[hits].max())
            worst.append(f"memory of {memory.name} on {memory.node} rose by {rise:.1f} points within one window")
    if result.datapoints < patience:
        return too_few(result, result.datapoints, patience)
    result.triggered = len(fired_scans)
    if fired_scans:
        result.status = ISSUES
        result.message = f"{'; '.join(worst)} (threshold {parameters['increase']})"
        result.advice = "Look for tensors that are kept over steps; memory that keeps rising ends in a failure."
    return result


def load_balancing(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Distance between the GPUs' histograms of utilisation: root of the Jensen-Shannon divergence, 0 to 1."""
    names = ("threshold", "patience")
    result = RuleResult("LoadBalancing", parameters={key: parameters[key] for key in names})
    gpus = job.of("GPUUtilization")
    if not gpus:
        result.message = NO_GPU
        return result
    if len(gpus) < 2:
        result.datapoints = gpus[0].value.size
        result.message = "one GPU: not evaluated"
        return result
    patience = int(parameters["patience"])
    result.datapoints = max(gpu.value.size for gpu in gpus)
    fired_scans: set[int] = set()
    worst = (0.0, "", "")
    for node in job.nodes:
        mine = job.of("GPUUtilization", node)
        counts = {gpu.name: utilisation_histogram(gpu.value) for gpu in mine}
        distances: dict[str, dict[str, float]] = {}
        ends = _scan_times(job, parameters)
        seen = [_histograms_until(gpu, ends) for gpu in mine]
        for number in range(ends.size):
            parts = [table[number] for table in seen]
            if min((int(p.sum()) for p in parts), default=0) < max(1, patience):
                continue
            for a in range(len(mine)):
                for b in range(a + 1, len(mine)):
                    distance = histogram_distance(parts[a], parts[b])
                    distances.setdefault(mine[a].name, {})[mine[b].name] = distance
                    if distance > parameters["threshold"]:
                        fired_scans.add(number)
                        result.violations += 1
                        worst = max(worst, (distance, mine[a].name, mine[b].name))
        result.details[node] = {
            "workloads": {key: value.tolist() for key, value in counts.items()},
            "distances": distances,
        }
    if result.datapoints < patience:
        return too_few(result, result.datapoints, patience)
    result.triggered = len(fired_scans)
    if fired_scans:
        result.status = ISSUES
        result.message = (
            f"{worst[1]} and {worst[2]} do not share the work evenly: distance {worst[0]:.2f} "
            f"(threshold {parameters['threshold']})"
        )
        result.advice = "Check how batches are split over the GPUs, and whether one of them does extra work."
    return result


def utilisation_histogram(value: Float) -> Int:
    """Count utilisation in 50 bins of 2 % from 0 to 100.

    The service's bins end at 98 %, so that a fully busy GPU's samples vanish (spec/trace.md §6); the last bin
    here takes 98 to 100.
    """
    counts, _ = np.histogram(np.clip(value, 0, 100), bins=50, range=(0, 100))
    return counts.astype(np.int64)


def _histograms_until(gpu: Stream, ends: Int) -> Int:
    """Histogram of everything until the end of each scan: one row per scan."""
    place = np.minimum(np.clip(gpu.value, 0, 100) // 2, 49).astype(np.int64)
    scan = np.searchsorted(ends, gpu.time, side="left")
    inside = scan < ends.size
    flat = np.bincount(scan[inside] * 50 + place[inside], minlength=ends.size * 50)
    return np.cumsum(flat.reshape(ends.size, 50), axis=0)


def histogram_distance(a: Int, b: Int) -> float:
    """Return the root of the Jensen-Shannon divergence in bits: 0 for equal, 1 for disjoint histograms."""
    p, q = a / max(1, a.sum()), b / max(1, b.sum())
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / m), 0.0).sum()
        right = np.where(q > 0, q * np.log2(q / m), 0.0).sum()
    return float(np.sqrt(max(0.0, (left + right) / 2)))


def _scan_times(job: JobData, parameters: dict[str, Any]) -> Int:
    whole = job.sample_range
    assert whole is not None  # rules ask for scans only when there are streams
    return scan_ends(*whole, parameters["scan_interval_us"])


def _counts(job: JobData, stream: Stream, parameters: dict[str, Any]) -> list[int]:
    ends = _scan_times(job, parameters)
    return [int(c) for c in np.searchsorted(stream.time, ends, side="right")]


def _last(value: Float, count: int, window: int, patience: int) -> Float | None:
    if count < max(1, patience):
        return None
    return value[max(0, count - window) : count]
