"""Readers, frames and columns against Python's json on the same files."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native.profiler import columns as cols
from smhf_native.profiler.frames import PandasFrame
from smhf_native.profiler.readers import (
    LocalAlgorithmMetricsReader,
    LocalSystemMetricsReader,
    S3SystemMetricsReader,
    TimeUnits,
)
from smhf_native.profiler.series import decimate, tick_matrix

START = 1783653720


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line, parse_float=Decimal)
        for path in sorted(folder.rglob("*.json"))
        for line in path.read_text().splitlines()
    ]


def test_events_are_the_rows(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(130)
    reader = LocalSystemMetricsReader(folder)
    rows = rows_of(folder)
    assert len(rows) == 130 * 18
    events = reader.get_events(0, reader.get_timestamp_of_latest_available_file())
    assert [(e.type, e.name, e.dimension, e.node_id) for e in events] == [
        (r["Type"], r["Name"], r["Dimension"], r["NodeId"]) for r in rows
    ]
    assert [e.value for e in events] == [float(r["Value"]) for r in rows]
    assert np.allclose([e.timestamp for e in events], [float(r["Timestamp"]) for r in rows], rtol=0, atol=1e-6)
    assert np.array_equal(reader.columns().time, [int(r["Timestamp"] * 10**9) for r in rows])


def test_time_ranges_are_inclusive_in_every_unit(make_profile: Callable[..., Path]) -> None:
    reader = LocalSystemMetricsReader(make_profile(20))
    moments = sorted({e.timestamp for e in reader.get_events()})
    low, high = moments[3], moments[9]
    microseconds = (round(low * 1e6), round(high * 1e6))
    counts = set()
    for unit, factor in (
        (TimeUnits.MICROSECONDS, 1),
        (TimeUnits.NANOSECONDS, 1000),
        (TimeUnits.SECONDS, 1e-6),
        (TimeUnits.MILLISECONDS, 1e-3),
    ):
        found = reader.get_events(microseconds[0] * factor, microseconds[1] * factor, unit)
        if factor >= 1:
            assert {e.timestamp for e in found} >= {low, high}
        counts.add(len(found) if factor >= 1 else len(reader.get_events(*microseconds)))
    assert len(counts) == 1
    assert {e.type for e in reader.get_events(event_type="gpu")} == {"gpu"}


def test_newest_file_is_not_lost(shared_data: Path) -> None:
    """smdebug gets 32 of 64 events this way (spec C5)."""
    reader = LocalSystemMetricsReader(shared_data / "traces" / "sagemaker" / "test_traces")
    latest = reader.get_timestamp_of_latest_available_file()
    real = [e for e in reader.get_events(1591748000 * 10**6, latest) if e.timestamp < 1591748200]
    assert len(real) == 64


def test_torn_file_keeps_whole_rows(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "traces" / "sagemaker" / "1591160699.algo-1.json.corrupt"
    target = tmp_path / "system" / "incremental" / "2020060304" / "1591160699.algo-1.json"
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    reader = LocalSystemMetricsReader(tmp_path)
    assert len(reader.get_events()) == 13
    assert len(reader.faults) == 1 and "line 14" in reader.faults[0]


def test_a_foreign_file_costs_only_itself(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(130)
    foreign = folder / "system" / "incremental" / "2026071003" / f"{START + 600}.algo-1.json"
    foreign.write_text("[1, 2, 3]")
    (foreign.parent / "notes.txt").write_text("no metrics")
    (foreign.parent / f"{START}.algo-1.json.tmp").write_text("{")
    reader = LocalSystemMetricsReader(folder)
    assert len(reader.get_events()) == 130 * 18
    assert any(foreign.name in fault for fault in reader.faults)


def test_refresh_sees_growth(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(10)
    reader = LocalSystemMetricsReader(folder)
    first = reader.columns()
    assert reader.columns() is first  # kept while nothing changes
    make_profile(25, folder=folder)
    reader.refresh_event_file_list()
    assert len(reader.columns()) == 25 * 18
    assert reader.get_timestamp_of_first_available_file() == START * 10**6


def test_empty_folder(tmp_path: Path) -> None:
    reader = LocalSystemMetricsReader(tmp_path)
    assert reader.get_events() == [] and reader.faults == []
    assert reader.get_timestamp_of_first_available_file() == 0
    assert reader.get_timestamp_of_latest_available_file() == 0


def test_s3_address_is_the_local_store(home: Path, make_profile: Callable[..., Path]) -> None:
    make_profile(4, folder=home / "store" / "bucket" / "p" / "job" / "profiler-output")
    reader = S3SystemMetricsReader("s3://bucket/p/job/profiler-output")
    assert len(reader.get_events()) == 4 * 18


@pytest.mark.parametrize(
    "folder", ["merge_traces", "model_timeline_traces", "horovod_timeline_traces", "test_traces"]
)
def test_framework_events_against_json(shared_data: Path, folder: str) -> None:
    root = shared_data / "traces" / "sagemaker" / folder
    reader = LocalAlgorithmMetricsReader(root)
    expected = []
    for path in (root / "framework").rglob("*.json"):
        items = json.loads(path.read_text(), parse_float=Decimal)
        base = next(
            i["args"]["start_time_since_epoch_in_micros"]
            for i in items
            if i["ph"] == "M" and "start_time_since_epoch_in_micros" in i.get("args", {})
        )
        names = {i["pid"]: i["args"]["name"] for i in items if i["ph"] == "M" and "name" in i.get("args", {})}
        for item in items:
            if item["ph"] == "X":
                start = int((Decimal(base) + Decimal(item["ts"])) * 1000)
                name = names.get(item["pid"], "")
                expected.append((start, int(Decimal(item.get("dur", 0)) * 1000), item["name"], name))
    found = [e for e in reader.get_events()]
    if folder == "horovod_timeline_traces":
        # B/E pairs as well: smdebug's own count and bounds (spec/trace.md 1.2)
        assert len(found) == 19
        assert found[0].start_time == 1592860696000713 * 1000
        assert max(e.end_time for e in found) == 1593673051473228 * 1000
        return
    assert sorted((e.start_time, e.duration, e.event_name, e.phase) for e in found) == sorted(expected)
    assert [e.start_time for e in found] == sorted(e.start_time for e in found)


def test_events_by_step(shared_data: Path) -> None:
    reader = LocalAlgorithmMetricsReader(shared_data / "traces" / "sagemaker" / "merge_traces")
    whole = reader.get_events()
    steps = [e for e in whole if e.event_name == "Step:ModeKeys.TRAIN"]
    assert steps and all(e.step == int(e.event_args["step_num"]) for e in steps)
    chosen = reader.get_events_by_step(1, 2)
    inside = [e for e in whole if e.step in (1, 2)]  # of every mode
    low, high = min(e.start_time for e in inside), max(e.end_time for e in inside)
    assert chosen == [e for e in whole if e.start_time >= low and e.end_time <= high]
    assert reader.get_events_by_step(10**6, 10**6 + 1) == []
    python_only = reader.get_events(file_suffix_filter=["pythontimeline"])
    assert 0 < len(python_only) < len(whole)


def test_pandas_frame(make_profile: Callable[..., Path], shared_data: Path, peer: Any) -> None:
    peer("pandas")
    folder = make_profile(20)
    frame = PandasFrame(folder)
    table = frame.get_all_system_metrics()
    rows = rows_of(folder)
    assert list(table.columns) == [
        "timestamp", "timestamp_us", "value", "system_metric", "dimension", "nodeID", "type",
    ]  # fmt: skip
    assert table["value"].tolist() == [float(r["Value"]) for r in rows]
    assert table["timestamp_us"].tolist() == [int(r["Timestamp"] * 10**6) - START * 10**6 for r in rows]
    assert table["timestamp"][0].startswith("2026-07-10T03:22:00:")
    assert set(frame.get_all_system_metrics(["cpu1", "IOPS"])["system_metric"]) == {"cpu1", "IOPS"}
    system, framework = frame.get_profiler_data_by_time((START + 2) * 10**6, (START + 4) * 10**6)
    assert len(system) == 4 * 18 and len(framework) == 0

    traced = PandasFrame(shared_data / "traces" / "sagemaker" / "merge_traces")
    events = traced.get_all_framework_metrics()
    assert list(events.columns) == [
        "start_time", "end_time", "start_time_us", "end_time_us", "tid", "pid", "framework_metric", "step",
        "bytes", "process", "nodeID",
    ]  # fmt: skip
    assert len(events) == len(LocalAlgorithmMetricsReader(shared_data / "traces/sagemaker/merge_traces").get_events())
    assert set(events["nodeID"]) == {"905-b88ab1bb8259"}
    by_step = traced.get_profiler_data_by_step(1, 3)[1]
    assert 0 < len(by_step) < len(events)
    with pytest.raises(ValueError, match="999999"):
        traced.get_profiler_data_by_step(999999, 999999)
    loaders = traced.get_all_dataloader_metrics()
    assert len(loaders) == sum(e.startswith(("DataLoader", "DataIterator")) for e in events["framework_metric"])


def test_decimate_keeps_extremes_and_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 9000))
        x = np.sort(rng.uniform(0, 1000, n))
        y = rng.normal(0, 1, n)
        y[rng.random(n) < 0.05] = np.nan
        limit = int(rng.integers(10, 500))
        chosen = decimate(x, y, limit)
        good = np.flatnonzero(~np.isnan(y))
        assert np.all(np.diff(chosen) > 0) and not np.isnan(y[chosen]).any()
        assert len(chosen) <= max(limit, 0) or len(chosen) == len(good) <= limit
        if len(good):
            assert y[chosen].max() == np.nanmax(y) and y[chosen].min() == np.nanmin(y)
            assert chosen[0] == good[0] and chosen[-1] == good[-1]
        # each bucket keeps its own extremes
        if len(good) > limit:
            buckets = max(1, limit // 2 - 1)
            place = np.minimum(((x[good] - x[good[0]]) / (x[good[-1]] - x[good[0]]) * buckets).astype(int), buckets - 1)
            for b in np.unique(place):
                members = y[good[place == b]]
                kept = y[np.intersect1d(chosen, good[place == b])]
                assert kept.max() == members.max() and kept.min() == members.min()


def test_tick_matrix_against_known_ticks() -> None:
    """Rows are dropped at random; the tick of each row is known from how it was made."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        count, ticks = int(rng.integers(1, 6)), int(rng.integers(2, 60))
        interval = int(rng.choice([100, 500, 1000])) * 10**6
        streams, truth = [], np.full((ticks, count), np.nan)
        for i in range(count):
            keep = rng.random(ticks) > 0.1
            keep[:2] = True
            time = START * 10**9 + np.arange(ticks) * interval + rng.integers(0, 4 * 10**6, ticks)
            value = rng.uniform(0, 100, ticks)
            truth[keep, i] = value[keep]
            streams.append(cols.Stream("algo-1", "cpu", f"cpu{i}", "CPUUtilization", time[keep], value[keep]))
        truth = truth[~np.isnan(truth).all(axis=1)]
        time, matrix = tick_matrix(streams)
        assert np.array_equal(matrix, truth, equal_nan=True)
        assert np.all(np.diff(time) > 0)


def test_natural_order() -> None:
    names = ["cpu10", "cpu2", "cpu1", "gpu0", "algo-12", "algo-3"]
    assert sorted(names, key=cols.natural_key) == ["algo-3", "algo-12", "cpu1", "cpu2", "cpu10", "gpu0"]
