"""LossNotDecreasing: does the loss fall?  (spec/sagemaker.md D3, spec/trace.md §6)

Checked points: the first one at least ``num_steps`` after the first point, then each first one at least
``num_steps`` after the last check.  A checked value is compared with the newest value at least ``num_steps``
steps older; the rule fires unless it is lower by ``diff_percent`` or more.  A rise is never a fall, so it fires
as well; ``increase_threshold_percent`` decides only whether the sentence calls it a rise.
"""

from __future__ import annotations

import bisect
import math
import re
from dataclasses import dataclass
from typing import Any

from smhf_native.profiler.rules.base import ISSUES, JobData, RuleResult, too_few

__all__ = ["LOSS_DEFAULTS", "Check", "loss_checks", "loss_not_decreasing"]

LOSS_DEFAULTS: dict[str, Any] = {
    "collection_names": None,
    "tensor_regex": None,
    "use_losses_collection": True,
    "num_steps": 10,
    "diff_percent": 0.1,
    "increase_threshold_percent": 5,
    "mode": None,
}


@dataclass(frozen=True)
class Check:
    """One comparison; ``change`` in percent of the base value (negative: the loss fell)."""

    step: int
    value: float
    base_step: int
    base: float
    change: float
    fired: bool


def loss_checks(
    steps: list[int], values: list[float], num_steps: int = 10, diff_percent: float = 0.1
) -> list[Check]:
    """Compare losses over steps.

    Parameters
    ----------
    steps : list of int
        Ascending.
    values : list of float
        Same length.
    num_steps : int
        Fewest steps between checks, and between a value and its base.
    diff_percent : float
        Least fall, in percent of the base.

    Returns
    -------
    list of Check
        Empty when the steps span less than ``num_steps``.
    """
    checks: list[Check] = []
    if not steps:
        return checks
    due = steps[0] + num_steps
    for index, (step, value) in enumerate(zip(steps, values, strict=True)):
        if step < due:
            continue
        base_index = bisect.bisect_right(steps, step - num_steps, 0, index) - 1
        if base_index < 0:
            continue
        base = values[base_index]
        change = 100 * (value - base) / abs(base) if base != 0 else math.copysign(math.inf, value)
        # Not (fell enough) rather than (fell too little): a NaN loss fires too.
        fired = not (base - value >= abs(base) * diff_percent / 100 and value < base)
        checks.append(Check(step, value, steps[base_index], base, change, fired))
        due = step + num_steps
    return checks


def loss_not_decreasing(job: JobData, parameters: dict[str, Any]) -> RuleResult:
    """Evaluate the rule on the per-step scalars, else on the metric lines (each counted as one step)."""
    result = RuleResult("LossNotDecreasing", parameters=dict(parameters))
    num_steps = max(1, int(parameters["num_steps"]))
    series = _series(job.scalars, parameters, "IterationNumber")
    source = "per-step losses"
    if not series:
        series = _series(job.metrics, parameters, None)
        source = "metric lines, each counted as one step"
    if not series:
        result.message = "no loss recorded: not evaluated"
        return result
    checks: list[tuple[str, Check]] = []
    for name, segments in series.items():
        for steps, values in segments:
            result.datapoints += len(steps)
            checks += [
                (name, c) for c in loss_checks(steps, values, num_steps, float(parameters["diff_percent"]))
            ]
    fired = [(name, c) for name, c in checks if c.fired]
    result.details = {
        "source": source,
        "checks": len(checks),
        "fired": [
            {
                "name": name,
                "step": c.step,
                "loss": c.value,
                "base_step": c.base_step,
                "base_loss": c.base,
                "change_percent": c.change,
            }
            for name, c in fired[:1000]
        ],
    }
    if not checks:
        longest = max(steps[-1] - steps[0] + 1 for segments in series.values() for steps, _ in segments)
        found = too_few(result, longest, num_steps + 1)
        return found
    result.violations = len(fired)
    result.triggered = len(fired)
    if fired:
        name, first = fired[0]
        rise = first.change > float(parameters["increase_threshold_percent"])
        how = "rose by" if first.change > 0 else "fell by only"
        result.status = ISSUES
        result.message = (
            f"{name} {how} {abs(first.change):.2f} % from step {first.base_step} ({first.base:.4g}) to step "
            f"{first.step} ({first.value:.4g}); "
            + (
                f"a rise of more than {parameters['increase_threshold_percent']} %"
                if rise
                else f"expected a fall of {parameters['diff_percent']} % or more"
            )
            + f"; {len(fired)} of {len(checks)} checks fired ({source})"
        )
        result.advice = (
            "Losses of single batches are noisy: if the curve falls overall, raise num_steps. Else try a lower "
            "learning rate or a longer warm-up."
        )
    else:
        result.message = f"all {len(checks)} checks saw the loss fall by {parameters['diff_percent']} % or more"
    return result


_Segments = list[tuple[list[int], list[float]]]


def _series(
    lines: list[dict[str, Any]], parameters: dict[str, Any], step_key: str | None
) -> dict[str, _Segments]:
    """Collect the chosen losses; a step number that goes back starts a new segment."""
    result: dict[str, _Segments] = {}
    for item in lines:
        name = str(item.get("MetricName", ""))
        if not _chosen(name, parameters) or not isinstance(item.get("Value"), (int, float)):
            continue
        segments = result.setdefault(name, [])
        if step_key is None:
            step = segments[-1][0][-1] + 1 if segments else 0
        else:
            step = int(item.get(step_key, -1))
        if not segments or (segments[-1][0] and step < segments[-1][0][-1]):
            segments.append(([], []))
        steps, values = segments[-1]
        if steps and steps[-1] == step:
            values[-1] = float(item["Value"])  # the newest value of a step counts
        else:
            steps.append(step)
            values.append(float(item["Value"]))
    return result


def _chosen(name: str, parameters: dict[str, Any]) -> bool:
    if not _in_mode(name, parameters["mode"]):
        return False
    pattern = parameters["tensor_regex"]
    if pattern and any(re.search(part.strip(), name) for part in str(pattern).split(",")):
        return True
    collections = parameters["collection_names"]
    wants_losses = parameters["use_losses_collection"] or (collections and "losses" in str(collections))
    return bool(wants_losses) and re.search(r"(^|[^a-z])loss([^a-z]|$)", name.lower()) is not None


def _in_mode(name: str, mode: Any) -> bool:
    if mode is None or str(mode).upper() == "GLOBAL":
        return True
    is_eval = re.search(r"(^|[^a-z])(eval|val|test)([^a-z]|$)", name.lower()) is not None
    return is_eval == (str(mode).upper() == "EVAL")
