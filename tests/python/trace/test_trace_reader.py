"""Trace files to columns, against Python's json and Decimal over every real file we have."""

from __future__ import annotations

import gzip
import json
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native.errors import ParseError
from smhf_native.trace import Trace

SYSTEM = "sagemaker/test_traces/system/incremental"
LINES = {
    f"{SYSTEM}/1591160699.algo-1.json": 14,
    f"{SYSTEM}/1591748100.algo-1.json": 32,
    f"{SYSTEM}/1591748160.algo-1.json": 32,
    "sagemaker/1591160699.algo-1.json.corrupt": 13,
    "sagemaker/loss_scalars_41850.json": 8943,
}
REFUSED = {"kineto/not_events_memory_timeline.raw.gz"}
# Python's json refuses these three: no "]" at the end. Their events are whole; the reference closes them.
PARTIAL = {
    "chrome/simple-partial.json",
    "chrome/simple-partial-whitespace.json",
    "chrome/simple-partial-trailing-comma.json",
}


def read(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def reference(name: str, data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Events and base by Python's json, numbers as Decimal."""
    text = data.decode()
    if name in PARTIAL:
        text = text.rstrip().rstrip(",") + "]"
    top = json.loads(text, parse_float=Decimal)
    events = top if isinstance(top, list) else top["traceEvents"]
    base = 0 if isinstance(top, list) else int(top.get("baseTimeNanoseconds", 0))
    for event in events:
        start = event.get("args", {}).get("start_time_since_epoch_in_micros")
        if event.get("ph") == "M" and start is not None:
            base = int(start) * 1000
            break
    return [event for event in events if event], base


def ns(value: Any, scale: int) -> int:
    return int((Decimal(value) * scale).to_integral_value(ROUND_HALF_EVEN))


def check_events(name: str, trace: Trace, data: bytes) -> None:
    events, base = reference(name, data)
    columns, names = trace.event_columns, trace.names
    assert len(columns["ph"]) == len(events)
    assert bytes(columns["ph"]).decode() == "".join(event["ph"] for event in events)
    none = np.iinfo(np.int64).min
    assert columns["ts"].tolist() == [
        ns(event["ts"], 1000) + base if "ts" in event else none for event in events
    ]
    assert columns["dur"].tolist() == [ns(event["dur"], 1000) if "dur" in event else -1 for event in events]
    for field in ("name", "cat"):
        assert [names[code] for code in columns[field]] == [event.get(field, "") for event in events]
    step = max(1, len(events) // 300)
    for index in range(0, len(events), step):
        event, ours = events[index], trace.events[index]
        assert ours.pid == event.get("pid") and ours.tid == event.get("tid")
        assert json.loads(json.dumps(ours.args)) == json.loads(
            json.dumps(event.get("args", {}), default=float)
        )


def check_rows(name: str, trace: Trace, data: bytes) -> None:
    kept = [line for line in data.decode().splitlines() if line.strip()][: LINES[name]]
    rows = [json.loads(line, parse_float=Decimal) for line in kept]
    assert len(trace.rows) == LINES[name] == len(rows)
    for row, ours in zip(rows, trace.rows, strict=True):
        assert ours.ts == ns(row["Timestamp"], 10**9)
        assert ours.value == float(row["Value"])
        if "MetricName" in row:
            assert (ours.type, ours.name, ours.iteration) == (
                "scalar", row["MetricName"], row["IterationNumber"],
            )  # fmt: skip
        else:
            found = (ours.type, ours.name, ours.dimension, ours.node_id)
            assert found == (row["Type"], row["Name"], row["Dimension"], row["NodeId"])


def test_every_shared_file(shared_data: Path) -> None:
    """Each file parses with counts, texts and exact times equal to Python's, or is refused by name."""
    root = shared_data / "traces"
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(paths) >= 50
    for path in paths:
        name = path.relative_to(root).as_posix()
        if name in REFUSED:
            with pytest.raises(ParseError, match=f"{path.name}.*array of arrays"):
                Trace.open(path)
            continue
        trace, data = Trace.open(path), read(path)
        assert trace.files[0].bytes == len(data)
        if name in LINES:
            check_rows(name, trace, data)
            lost = sum(fault.lost for fault in trace.faults)
            assert lost == (1 if name.endswith(".corrupt") else 0)
        else:
            check_events(name, trace, data)
            assert not any(fault.lost for fault in trace.faults)
            assert len(trace.faults) == (1 if name in PARTIAL else 0), name
