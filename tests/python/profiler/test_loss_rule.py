"""LossNotDecreasing: the documented examples, a real curve, an independent oracle."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native.profiler.rules import ISSUES, NO_ISSUES, JobData, evaluate_rule, loss_checks


def scalars(values: list[float], every: int = 1, name: str = "loss", first: int = 0) -> list[dict[str, Any]]:
    return [
        {"MetricName": name, "Value": v, "Timestamp": 100.0 + i, "IterationNumber": first + i * every}
        for i, v in enumerate(values)
    ]


def test_documented_example_fires_at_step_12() -> None:
    """Spec D3: losses .3 .33 .31 .30 .28, saved every 4 steps."""
    job = JobData("job", scalars=scalars([0.3, 0.33, 0.31, 0.30, 0.28], every=4))
    result = evaluate_rule("LossNotDecreasing", job)
    assert result.status == ISSUES
    assert result.details["fired"][0]["step"] == 12 and result.details["fired"][0]["base_step"] == 0


def test_documented_schedule() -> None:
    """Spec trace §6: saved every 3 steps, step 21 against step 9, next check at step 33."""
    steps = list(range(9, 60, 3))
    checks = loss_checks(steps, [1.0 / s for s in steps], 10)
    assert [(c.step, c.base_step) for c in checks[:3]] == [(21, 9), (33, 21), (45, 33)]
    assert not any(c.fired for c in checks)


@pytest.mark.parametrize(
    ("end", "fires"),
    [(0.5, False), (0.998, False), (0.9995, True), (1.0, True), (1.02, True), (1.2, True), (math.nan, True)],
)
def test_limits(end: float, fires: bool) -> None:
    job = JobData("job", scalars=scalars([1.0] * 10 + [end]))
    result = evaluate_rule("LossNotDecreasing", job)
    assert result.fired is fires
    assert result.datapoints == 11 and result.details["checks"] == 1
    if end == 1.2:
        assert "rose by 20.00 %" in result.message and "more than 5 %" in result.message
    if end == 0.9995:
        assert "fell by only 0.05 %" in result.message


def oracle(steps: list[int], values: list[float], num_steps: int, diff: float) -> list[tuple[int, int, bool]]:
    out, last_check = [], steps[0]
    for i, step in enumerate(steps):
        if step - last_check < num_steps:
            continue
        older = [j for j in range(i) if steps[j] <= step - num_steps]
        j = max(older)
        fell = (values[j] - values[i]) / abs(values[j]) * 100
        out.append((step, steps[j], not (fell >= diff and fell > 0)))
        last_check = step
    return out


def test_against_oracle_on_random_curves() -> None:
    seen = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 120))
        steps = np.cumsum(rng.integers(1, 6, n)).tolist()
        values = (3 * np.exp(-np.arange(n) / rng.uniform(5, 200)) + rng.normal(0, 0.02, n) + 0.5).tolist()
        num_steps, diff = int(rng.integers(1, 25)), float(rng.choice([0.0, 0.1, 2.0, 10.0]))
        want = oracle(steps, values, num_steps, diff)
        assert [(c.step, c.base_step, c.fired) for c in loss_checks(steps, values, num_steps, diff)] == want
        lines = [
            {"MetricName": "loss", "Value": v, "Timestamp": 1.0 * s, "IterationNumber": s}
            for s, v in zip(steps, values, strict=True)
        ]
        result = evaluate_rule(
            "LossNotDecreasing", JobData("job", scalars=lines), {"num_steps": str(num_steps), "diff_percent": str(diff)}
        )
        assert result.violations == sum(f for _, _, f in want)
        assert result.fired == any(f for _, _, f in want)
        seen.add("none" if not want else result.status)
    assert seen == {"none", ISSUES, NO_ISSUES}


def test_real_curve(shared_data: Path) -> None:
    """Scalars of real jobs (smdebug's repository): six runs one after the other, two of them every two steps."""
    path = shared_data / "traces" / "sagemaker" / "loss_scalars_41850.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    runs: list[list[tuple[int, float]]] = []
    for line in lines:
        if line["MetricName"] == "loss_TRAIN":
            if not runs or line["IterationNumber"] < runs[-1][-1][0]:
                runs.append([])
            runs[-1].append((line["IterationNumber"], line["Value"]))
    assert [len(run) for run in runs] == [3, 3, 750, 750, 6, 6]
    job = JobData("job", scalars=lines)
    for num_steps in (10, 500):
        want = [check for run in runs for check in oracle([s for s, _ in run], [v for _, v in run], num_steps, 0.1)]
        result = evaluate_rule("LossNotDecreasing", job, {"mode": "TRAIN", "num_steps": str(num_steps)})
        assert result.details["checks"] == len(want)
        assert result.violations == sum(f for _, _, f in want)
        assert [(f["step"], f["base_step"]) for f in result.details["fired"]] == [
            (step, base) for step, base, fired in want if fired
        ]
        if num_steps == 10:  # the curves fall, but single batches are noisy
            assert len(want) > 200 and 0 < result.violations < len(want) // 2 + 1


def test_too_few_and_none() -> None:
    result = evaluate_rule("LossNotDecreasing", JobData("job", scalars=scalars([1.0] * 6)))
    assert (result.status, result.message) == (NO_ISSUES, "not enough data: 6 of 11")
    result = evaluate_rule("LossNotDecreasing", JobData("job"))
    assert (result.status, result.message) == (NO_ISSUES, "no loss recorded: not evaluated")
    # The notebook's one epoch: eval metrics, no 'loss' line (spec E3).
    only_eval = [{"MetricName": "eval_loss", "Value": 0.8, "Timestamp": 1.0}]
    result = evaluate_rule("LossNotDecreasing", JobData("job", metrics=only_eval))
    assert (result.status, result.message) == (NO_ISSUES, "not enough data: 1 of 11")


def test_metric_lines_stand_in_for_scalars() -> None:
    lines = [{"MetricName": "loss", "Value": 2.0 - i / 10, "Timestamp": float(i)} for i in range(15)]
    result = evaluate_rule("LossNotDecreasing", JobData("job", metrics=lines))
    assert result.status == NO_ISSUES and result.details["source"].startswith("metric lines")
    both = JobData("job", metrics=lines, scalars=scalars([1.0] * 20))
    assert evaluate_rule("LossNotDecreasing", both).details["source"] == "per-step losses"


def test_choice_of_scalars() -> None:
    lines = scalars([1.0] * 20, name="loss_TRAIN") + scalars([1 / (i + 1) for i in range(20)], name="eval_loss")
    lines += scalars([1.0] * 20, name="learning_rate") + scalars([1.0] * 20, name="glossary")
    job = JobData("job", scalars=lines)

    def names(**parameters: str) -> set[str]:
        return {f["name"] for f in evaluate_rule("LossNotDecreasing", job, parameters).details.get("fired", [])}

    assert names() == {"loss_TRAIN"}
    assert names(mode="EVAL") == set()
    assert names(mode="TRAIN") == {"loss_TRAIN"}
    assert names(tensor_regex="learn.*", use_losses_collection="False") == {"learning_rate"}
    assert names(collection_names="losses", use_losses_collection="False") == {"loss_TRAIN"}
    with pytest.raises(ValueError, match="use_losses_collection"):
        names(use_losses_collection="perhaps")
    with pytest.raises(ValueError, match="steps"):
        names(steps="3")


def test_a_restart_begins_a_new_curve() -> None:
    lines = scalars([1 / (i + 1) for i in range(12)]) + scalars([1 / (i + 1) for i in range(12)])
    result = evaluate_rule("LossNotDecreasing", JobData("job", scalars=lines))
    assert result.status == NO_ISSUES and result.details["checks"] == 2
