"""Trace files to columns, against Python's json and Decimal over every real file we have."""

from __future__ import annotations

import concurrent.futures
import gzip
import json
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smhf_native.errors import ParseError
from smhf_native.trace import Trace, parse_time

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
    if isinstance(value, int):
        return value * scale
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


# --- Any JSON: hypothesis against Python's json and Decimal ----------------------------------------

texts = st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
# Decimal texts up to well past int64 nanoseconds, with fractions finer than a nanosecond.
numbers = st.one_of(
    st.integers(-(10**15), 10**15).map(str),
    st.decimals(-(10**12), 10**12, allow_nan=False, places=5).map(str),
    st.floats(-1e12, 1e12).map(repr),
    st.integers(0, 10**30).map(str),
)


@st.composite
def events_as_text(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """One event as JSON text (key order, spaces and escapes drawn) and its fields."""
    fields: dict[str, Any] = {"ph": draw(st.sampled_from("BEXiIMCsf"))}
    raw: dict[str, str] = {"ph": json.dumps(fields["ph"])}
    for key in ("ts", "dur"):
        if draw(st.booleans()):
            fields[key] = draw(numbers)
            raw[key] = fields[key] if draw(st.booleans()) else json.dumps(fields[key])
    for key, values in (
        ("name", texts), ("cat", texts), ("pid", st.integers(-(2**40), 2**40) | texts),
        ("tid", st.integers(-(2**40), 2**40) | texts), ("args", st.dictionaries(texts, json_values, max_size=4)),
        ("extra", json_values),
    ):  # fmt: skip
        if draw(st.booleans()):
            fields[key] = draw(values)
            raw[key] = json.dumps(fields[key], ensure_ascii=draw(st.booleans()))
    space = draw(st.sampled_from(["", " ", "\n", " \t\r\n"]))
    keys = draw(st.permutations(list(raw)))
    text = f",{space}".join(f"{json.dumps(key)}{space}:{space}{raw[key]}" for key in keys)
    return "{" + space + text + space + "}", fields


def expected_ns(value: str) -> int | None:
    exact = ns(value, 1000)
    return exact if -(2**63) < exact < 2**63 else None


def no_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value


@settings(max_examples=150, deadline=None)
@given(st.lists(events_as_text(), max_size=5), st.sampled_from(["array", "object", "lines"]))
def test_any_events(items: list[tuple[str, dict[str, Any]]], shape: str) -> None:
    joined = ("\n" if shape == "lines" else ", ").join(text for text, _ in items)
    whole = {
        "array": f"[{joined}]",
        "object": f'{{"a": {{"b": [1]}}, "traceEvents": [{joined}], "z": "]"}}',
        "lines": joined,
    }[shape]
    trace = Trace.from_bytes(whole.encode("utf-8", "surrogatepass"))
    assert len(trace.events) == len(items)
    assert not any(fault.lost for fault in trace.faults)
    for ours, (_, fields) in zip(trace.events, items, strict=True):
        assert ours.ph == fields["ph"]
        assert ours.ts == (expected_ns(fields["ts"]) if "ts" in fields else None)
        assert ours.dur == (expected_ns(fields["dur"]) if "dur" in fields else None)
        assert ours.name == no_surrogates(fields.get("name", ""))
        assert ours.cat == no_surrogates(fields.get("cat", ""))
        assert ours.pid == no_surrogates(fields.get("pid"))
        assert ours.tid == no_surrogates(fields.get("tid"))
        assert ours.args == fields.get("args", {})


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\\ phx1e.-\n', max_size=200).map(str.encode))
def test_any_bytes(text: bytes) -> None:
    """Anything is read or refused with a sentence; nothing else happens."""
    try:
        trace = Trace.from_bytes(text)
    except ParseError as refusal:
        assert str(refusal).startswith("bytes: ")
        return
    assert trace.kind in ("events", "system", "scalars", "mixed", "empty")
    assert all(fault.offset + fault.length <= len(text) for fault in trace.faults)


@settings(max_examples=300, deadline=None)
@given(numbers, st.sampled_from([0, 3, 9]))
def test_parse_time(text: str, digits: int) -> None:
    exact = ns(text, 10**digits)
    if -(2**63) < exact < 2**63:
        assert parse_time(text, digits) == exact
    else:
        with pytest.raises(OverflowError):
            parse_time(text, digits)


# --- The Python face ---------------------------------------------------------------------------------


def test_columns_are_views(shared_data: Path) -> None:
    """Arrays share the trace's memory, are read-only and outlive the Trace object."""
    trace = Trace.open(shared_data / "traces/kineto/amd_mi250.json.gz")
    ts = trace.columns["ts"]
    assert ts.dtype == np.int64 and not ts.flags.writeable and not ts.flags.owndata
    assert np.shares_memory(ts, Trace(trace._trace).columns["ts"])
    kept = ts.tolist()
    del trace
    assert ts.tolist() == kept


def test_pandas(shared_data: Path) -> None:
    pytest.importorskip("pandas")
    folder = shared_data / "traces" / SYSTEM
    frame = Trace.open(folder / "1591748100.algo-1.json").to_pandas()
    lines = (folder / "1591748100.algo-1.json").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert frame["name"].tolist() == [row["Name"] for row in rows]
    assert frame["value"].tolist() == [row["Value"] for row in rows]
    assert frame["ts"].dtype == np.int64
    events = Trace.open(shared_data / "traces/kineto/amd_mi250.json.gz")
    data = json.loads(read(shared_data / "traces/kineto/amd_mi250.json.gz"))["traceEvents"]
    frame = events.to_pandas()
    assert frame["name"].tolist() == [event["name"] for event in data]
    assert frame["pid"].tolist() == [event["pid"] for event in data]


def test_folder_and_mixed(shared_data: Path) -> None:
    trace = Trace.open(shared_data / "traces/sagemaker/test_traces")
    assert trace.kind == "mixed"
    assert (len(trace.events), len(trace.rows)) == (20, 78)
    for attribute in (lambda: trace.columns, trace.to_pandas, trace.select):
        with pytest.raises(ValueError, match="event_columns or row_columns"):
            attribute()
    assert trace.process_names[(0, 1)] == "RotationPolicyTest_file_size"
    assert Trace.open(shared_data / "traces/sagemaker/test_traces", only="system").kind == "system"
    only = Trace.open(shared_data / "traces/sagemaker/test_traces", only="framework")
    assert only.kind == "events"
    # smdebug's own expectation of these files: event4 ends at its file's name
    assert max(filter(None, (event.end for event in only.events))) == 1589930992672308000


def test_horovod_numbers(shared_data: Path) -> None:
    """smdebug's test expects 19 complete spans in this file, with these first and last times."""
    folder = shared_data / "traces/sagemaker/horovod_timeline_traces/framework/pevents/2020070206"
    trace = Trace.open(next(folder.glob("1593673051473228_*")))
    spans = trace.spans()
    assert len(spans.event) == 19
    assert spans.ts.min() == 1592860696000713000
    assert (spans.ts + spans.dur).max() == 1593673051473228000
    raw = Trace.open(shared_data / "traces/sagemaker/horovod_raw.json").spans()
    assert (raw.unmatched_begins, raw.unmatched_ends) == (0, 0)  # 108 B, 108 nameless E
    assert len(raw.event) == 198 + 108


def test_tensorflow_numbers(shared_data: Path) -> None:
    trace = Trace.open(shared_data / "traces/sagemaker/tf_profiler.trace.json.gz")
    spans = trace.spans()
    assert len(spans.event) == 798
    assert spans.ts.min() == 21307000
    assert (spans.ts + spans.dur).max() == 293205000


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent\.json"):
        Trace.open(tmp_path / "absent.json")
    with pytest.raises(OSError, match="no trace files"):
        Trace.open(tmp_path)
    with pytest.raises(ValueError, match="at least one path"):
        Trace.open([])
    with pytest.raises(ValueError, match="only"):
        Trace.open(tmp_path, only="everything")  # type: ignore[arg-type]
    empty = tmp_path / "empty.json"
    empty.write_bytes(b"")
    trace = Trace.open(empty)
    assert trace.kind == "empty" and len(trace.events) == 0 and trace.columns["ts"].size == 0
    with pytest.raises(IndexError):
        trace.events[0]


def test_threads_share_one_trace(shared_data: Path) -> None:
    """Class I: eight threads ask the same trace and get what one gets."""
    trace = Trace.open(shared_data / "traces/kineto/amd_mi250.json.gz")

    def ask(_: int) -> tuple[Any, ...]:
        spans = trace.spans()
        return len(trace.names), int(spans.dur.sum()), trace.args_int64("External id").sum()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(64)))) == 1
