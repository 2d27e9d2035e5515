"""Series, means per tick, decimation, percentiles, selection: against NumPy and plain loops."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from smhf_native.trace import Trace, decimate, percentiles


def make_rows(ticks: int, cores: int, seed: int) -> list[dict[str, object]]:
    """Rows as SageMaker's agent writes them: cores shuffled, now and then one missing."""
    rng = random.Random(seed)
    rows = []
    for tick in range(ticks):
        stamp = (
            f"{1_783_653_720 + tick // 2}.{(tick % 2) * 500 + rng.randrange(5):03d}{rng.randrange(1000):03d}"
        )
        names = [f"cpu{core}" for core in range(cores) if rng.random() > 0.1]
        rng.shuffle(names)
        for dimension in ("CPUUtilization", "I/OWaitPercentage"):
            rows += [
                {"Type": "cpu", "Name": name, "Dimension": dimension, "Value": round(rng.uniform(0, 100), 2),
                 "NodeId": "algo-1", "Timestamp": stamp}
                for name in names
            ]  # fmt: skip
    return rows


def as_text(rows: list[dict[str, object]]) -> bytes:
    lines = []
    for row in rows:
        stamp = row["Timestamp"]
        lines.append(json.dumps({**row, "Timestamp": 0}).replace('"Timestamp": 0', f'"Timestamp": {stamp}'))
    return "\n".join(lines).encode()


def in_ns(stamp: object) -> int:
    seconds, fraction = str(stamp).split(".")
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))


@pytest.mark.parametrize("seed", range(4))
def test_total_is_the_mean_over_cores(seed: int) -> None:
    rows = make_rows(ticks=120, cores=6, seed=seed)
    trace = Trace.from_bytes(as_text(rows))
    expected: dict[int, list[float]] = {}
    for row in rows:
        if row["Dimension"] == "CPUUtilization":
            expected.setdefault(in_ns(row["Timestamp"]), []).append(float(str(row["Value"])))
    series = trace.series("CPUUtilization", "total")
    assert series.ts.tolist() == sorted(expected)
    means = [np.mean(expected[ts]) for ts in sorted(expected)]
    np.testing.assert_allclose(series.value, means, rtol=1e-13)


def test_one_core_and_inclusive_range() -> None:
    rows = make_rows(ticks=50, cores=3, seed=9)
    trace = Trace.from_bytes(as_text(rows))
    mine = [r for r in rows if r["Name"] == "cpu1" and r["Dimension"] == "I/OWaitPercentage"]
    series = trace.series("I/OWaitPercentage", "cpu1", node="algo-1", type="cpu")
    assert series.ts.tolist() == [in_ns(r["Timestamp"]) for r in mine]
    assert series.value.tolist() == [r["Value"] for r in mine]
    first, last = int(series.ts[3]), int(series.ts[10])
    part = trace.series("I/OWaitPercentage", "cpu1", start=first, end=last)
    assert part.ts.tolist() == series.ts[3:11].tolist()
    assert trace.series("I/OWaitPercentage", "cpu1", node="algo-2").ts.size == 0
    assert trace.series("nothing").ts.size == 0
    chosen = trace.select(dimension="I/OWaitPercentage", name="cpu1", start=first, end=last)
    assert [trace.rows[int(i)].ts for i in chosen] == part.ts.tolist()
    assert ("algo-1", "cpu", "CPUUtilization", "cpu0") in trace.series_names()


def test_rows_of_one_tick_that_differ_by_milliseconds() -> None:
    """Samplers stamp themselves separately; within the window they are one tick."""
    lines = [
        {"Type": "cpu", "Name": f"cpu{core}", "Dimension": "d", "Value": 10 * core, "NodeId": "n",
         "Timestamp": tick * 0.5 + core * 0.004}
        for tick in range(1, 9) for core in range(4)
    ]  # fmt: skip
    trace = Trace.from_bytes("\n".join(map(json.dumps, lines)).encode())
    series = trace.series("d", "total")
    assert series.value.tolist() == [15.0] * 8
    assert series.ts[0] == 506_000_000
    assert trace.series("d", "total", window_ms=1).value.tolist() == [0.0, 10.0, 20.0, 30.0] * 8


def plain_decimate(ts: np.ndarray, value: np.ndarray, buckets: int) -> list[tuple[int, float]]:
    """The definition, word for word."""
    width = (int(ts[-1]) - int(ts[0])) // buckets + 1
    kept: list[tuple[int, float]] = []
    for bucket in range(buckets):
        inside = [
            i for i in range(len(ts))
            if (int(ts[i]) - int(ts[0])) // width == bucket and not np.isnan(value[i])
        ]  # fmt: skip
        if inside:
            low = min(inside, key=lambda i: (value[i], i))
            high = min(inside, key=lambda i: (-value[i], i))
            kept += [(int(ts[i]), float(value[i])) for i in sorted({low, high})]
    return kept


@pytest.mark.parametrize("buckets", [1, 7, 50, 1000])
def test_decimate(buckets: int) -> None:
    rng = np.random.default_rng(3)
    ts = np.cumsum(rng.integers(0, 10**9, 700)) + 1_700_000_000_000_000_000
    value = rng.normal(size=700)
    value[rng.integers(0, 700, 30)] = np.nan
    thin = decimate(ts, value, buckets)
    assert list(zip(thin.ts.tolist(), thin.value.tolist(), strict=True)) == plain_decimate(ts, value, buckets)
    assert decimate(ts[:0], value[:0], buckets).ts.size == 0


def test_decimate_arguments() -> None:
    with pytest.raises(ValueError, match="as many times as values"):
        decimate([1, 2], [1.0], 5)
    with pytest.raises(ValueError, match="bucket"):
        decimate([1], [1.0], 0)


def test_percentiles_agree_with_numpy() -> None:
    rng = np.random.default_rng(5)
    q = [0, 5, 12.5, 50, 95, 99, 100]
    for size in (1, 2, 5, 1000):
        value = rng.normal(size=size) * 100
        np.testing.assert_allclose(percentiles(value, q), np.percentile(value, q), rtol=1e-14)
    value[::7] = np.nan
    np.testing.assert_allclose(percentiles(value, q), np.nanpercentile(value, q), rtol=1e-14)
    assert np.isnan(percentiles([], [50])).all()
    with pytest.raises(ValueError, match="0 to 100"):
        percentiles([1.0], [101])


def test_select_events_like_smdebug() -> None:
    """Start and end of an event must lie in the range, ends included."""
    events = [{"ph": "X", "name": "ab"[i % 2], "cat": "c", "ts": i, "dur": i % 3} for i in range(30)]
    trace = Trace.from_bytes(json.dumps(events).encode())
    expected = [i for i in range(30) if i >= 5 and i + i % 3 <= 20 and i % 2 == 0]
    assert trace.select(start=5000, end=20_000, name="a").tolist() == expected
    assert trace.select(ph="B").tolist() == []
    assert trace.select(type="c", ph="X").size == 30


def plain_spans(events: list[dict[str, object]]) -> list[tuple[int, int]]:
    """B/E by a stack per lane, in time order."""
    stacks: dict[tuple[object, object], list[int]] = {}
    found = []
    order = sorted(range(len(events)), key=lambda i: events[i]["ts"])  # type: ignore[arg-type, return-value]
    for i in order:
        event = events[i]
        stack = stacks.setdefault((event["pid"], event["tid"]), [])
        if event["ph"] == "B":
            stack.append(i)
        else:
            name = event.get("name")
            fits = [k for k in reversed(stack) if not name or events[k]["name"] == name]
            if fits:
                stack.remove(fits[0])
                found.append((fits[0], i))
    return sorted(found)


@pytest.mark.parametrize("seed", range(5))
def test_spans_against_plain_stacks(seed: int) -> None:
    rng = random.Random(seed)
    events: list[dict[str, object]] = []
    for _ in range(400):
        event: dict[str, object] = {
            "ph": rng.choice("BE"), "ts": rng.randrange(200), "pid": rng.randrange(3), "tid": rng.choice("xy")
        }  # fmt: skip
        if event["ph"] == "B" or rng.random() < 0.5:
            event["name"] = rng.choice("abc")
        events.append(event)
    spans = Trace.from_bytes(json.dumps(events).encode()).spans()
    pairs = list(zip(spans.event.tolist(), spans.end.tolist(), strict=True))
    assert pairs == plain_spans(events)
    durations = [1000 * (events[b]["ts"] - events[a]["ts"]) for a, b in pairs]  # type: ignore[operator]
    assert spans.dur.tolist() == durations and min(durations) >= 0
    assert spans.unmatched_begins == sum(e["ph"] == "B" for e in events) - len(pairs)


def test_args_of_chosen_keys() -> None:
    events = [
        {"ph": "X", "ts": 0, "args": {"step_num": "12"}},
        {"ph": "X", "ts": 0, "args": {"step_num": 7, "x": {"step_num": 1}}},
        {"ph": "X", "ts": 0, "args": {"other": 7}},
        {"ph": "X", "ts": 0},
    ]
    trace = Trace.from_bytes(json.dumps(events).encode())
    assert trace.args_int64("step_num").tolist() == [12, 7, -1, -1]
    assert trace.event_arg(1, "x") == {"step_num": 1}
    assert [event.args for event in trace.events] == [event.get("args", {}) for event in events]
