"""Damaged traces: cut anywhere, bad bytes inside, damaged gzip; whole events are always kept."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path

import pytest

from smhf_native.errors import ParseError
from smhf_native.trace import Trace

GOOD = '{"ph":"X","name":"good","ts":9,"dur":1}'


def ends_of_items(data: bytes) -> list[int]:
    """Byte offsets after each whole event or row, by Python's own decoder."""
    text = data.decode("latin-1")  # one character a byte; JSON's structure is ASCII
    decoder = json.JSONDecoder()
    at = text.find('"traceEvents"')
    lines = text.lstrip().startswith("{") and at < 0
    at = 0 if lines else text.index("[", max(at, 0)) + 1
    ends = []
    while True:
        start = text.find("{", at)
        between = text[at:start] if start >= 0 else ""
        if start < 0 or (not lines and between.strip() not in ("", ",")):
            return ends
        try:
            item, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError:  # the corrupt sample's own cut
            return ends
        if item:
            ends.append(at)


def count(trace: Trace) -> int:
    return len(trace.events) + len(trace.rows)


@pytest.mark.parametrize(
    "pattern", ["chrome/s*.json", "chrome/[a-r]*.json", "sagemaker/**/*.json*", "tf"], ids=str
)
def test_cut_anywhere(shared_data: Path, pattern: str) -> None:
    """For every cut point, the events kept are those whose last byte lies before the cut."""
    root = shared_data / "traces"
    if pattern == "tf":
        texts = [gzip.decompress((root / "sagemaker/tf_profiler.trace.json.gz").read_bytes())]
    else:
        texts = [p.read_bytes() for p in sorted(root.glob(pattern)) if p.suffix != ".gz"]
    assert texts
    for data in texts:
        if len(data) > 200_000:
            continue
        ends = ends_of_items(data)
        assert count(Trace.from_bytes(data)) == len(ends)
        chosen = range(len(data) + 1)
        if len(data) > 4000:
            chosen = sorted(random.Random(5).sample(chosen, 300))  # type: ignore[assignment]
        for cut in chosen:
            trace = Trace.from_bytes(data[:cut])
            expected = sum(end <= cut for end in ends)
            assert count(trace) == expected, cut
            for fault in trace.faults:
                assert 0 <= fault.offset <= cut and fault.offset + fault.length <= cut and fault.reason


def gzip_prefix(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


def test_cut_gzip(shared_data: Path, tmp_path: Path) -> None:
    """A cut gzip file keeps what its whole bytes hold, and says where it ends."""
    packed = (shared_data / "traces/sagemaker/tf_profiler.trace.json.gz").read_bytes()
    path = tmp_path / "cut.json.gz"
    for cut in (200, 1000, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        path.write_bytes(packed[:cut])
        trace = Trace.open(path)
        expected = len(Trace.from_bytes(gzip_prefix(packed[:cut])).events)
        assert len(trace.events) == expected
        assert any("gzip" in fault.reason and fault.lost for fault in trace.faults), trace.faults
        with pytest.raises(ParseError, match=r"cut\.json\.gz"):
            Trace.open(path, strict=True)


def test_gzip_members_and_names(tmp_path: Path) -> None:
    """Several members read as one text; what a file is called does not matter, its magic does."""
    half = f"[{GOOD},{GOOD}]"
    path = tmp_path / "plain_name.json"
    path.write_bytes(gzip.compress(half[:30].encode()) + gzip.compress(half[30:].encode()))
    trace = Trace.open(path, strict=True)
    assert len(trace.events) == 2 and trace.files[0].gzip
    other = tmp_path / "not_packed.json.gz"
    other.write_text(half)
    assert len(Trace.open(other, strict=True).events) == 2


CASES = {
    "windows path": rf'[{{"ph":"X","name":"C:\Users\me\x.py","ts":1}},{GOOD}]',
    "raw control byte": f'[{{"ph":"X","name":"a\x01\x02","ts":1}},{GOOD}]',
    "N/A and nan": f'[{{"ph":"X","name":"a","ts":1,"args":{{"x":N/A,"y":[nan,-inf]}}}},{GOOD}]',
    "leading comma": f"[,{GOOD},{GOOD}]",
    "trailing comma in object": f'{{"traceEvents":[{GOOD},{GOOD},]}}',
    "no end": f"[{GOOD},{GOOD}",
}
LOSSES = {
    "inner quotes": f'[{{"ph":"X","name":"foo "bar" baz","ts":1}},{GOOD}]',
    "quote before key missing": f'[{{"ph":"X",name":"x","ts":1}},{GOOD}]',
    "backslash before the end quote": f'[{{"ph":"X","name":"C:\\dir\\","ts":1}},{GOOD}]',
}


@pytest.mark.parametrize("name", CASES)
def test_kept_with_a_note(name: str) -> None:
    """Breaches that leave the event readable: nothing is lost, one fault, strict raises."""
    text = CASES[name].encode()
    trace = Trace.from_bytes(text)
    assert len(trace.events) == 2
    assert [fault.lost for fault in trace.faults] == [False]
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    with pytest.raises(ParseError) as caught:
        Trace.from_bytes(text, strict=True)
    assert caught.value.offset is not None and 0 <= caught.value.offset <= len(text)


@pytest.mark.parametrize("name", LOSSES)
def test_costs_one_event(name: str) -> None:
    trace = Trace.from_bytes(LOSSES[name].encode())
    assert [event.name for event in trace.events] == ["good"]
    assert [fault.lost for fault in trace.faults] == [True]
    assert trace.faults[0].offset == 1


def test_not_utf8() -> None:
    trace = Trace.from_bytes(b'[{"ph":"X","name":"a\xff\xc3(b","ts":1}]')
    assert trace.events[0].name == b"a\xff\xc3(b".decode("utf-8", "replace")
    assert not trace.faults[0].lost


def test_loose_args() -> None:
    """Args against JSON are read as far as they go."""
    trace = Trace.from_bytes(CASES["N/A and nan"].encode())
    assert trace.events[0].args == {"x": None, "y": [None, None]}
    path = Trace.from_bytes(rb'[{"ph":"X","args":{"file":"C:\Users\me","n":3}}]')
    assert path.events[0].args == {"file": r"C:\Users\me", "n": 3}
    assert path.event_arg(0, "n") == 3 and path.event_arg(0, "absent") is None


def test_many_bad_events() -> None:
    """Each of 200 damaged events costs itself alone, wherever the damage falls."""
    rng = random.Random(11)
    kept = []
    parts = []
    for index in range(1000):
        text = json.dumps(
            {"ph": "X", "name": f"op {index}", "ts": index, "dur": 1, "args": {"l": [1, {"a": index}]}}
        )
        if index % 5 == 0:
            at = rng.randrange(1, len(text) - 1)
            while text[at] not in '"{}:,':
                at = rng.randrange(1, len(text) - 1)
            broken = text[:at] + text[at + 1 :]
            try:
                json.loads(broken)
            except ValueError:
                text = broken
            else:
                kept.append(index)
        else:
            kept.append(index)
        parts.append(text)
    trace = Trace.from_bytes(("[" + ",\n".join(parts) + "]").encode())
    names = [event.name for event in trace.events]
    assert names == [f"op {index}" for index in kept]
    assert trace.fault_total == 1000 - len(kept) >= 150
