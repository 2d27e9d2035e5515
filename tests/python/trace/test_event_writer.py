"""Framework events: smdebug's layout, exact times, rotation, recoverable files, threads."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smhf_native.trace import EventWriter, Trace

NAME = re.compile(r"(\d{16})_\d+-[\w.-]+_pythontimeline\.json")
START = 1_783_653_720_000_000_000


def written(folder: Path) -> list[Path]:
    return sorted(folder.glob("framework/pevents/*/*.json"))


def test_layout_and_content(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        writer.span("Step:ModeKeys.TRAIN", START, START + 1_000_250, {"step_num": "0"})
        writer.span("DataLoaderIter", START + 5, START + 17, phase="data")
        assert written(tmp_path) == []
    (path,) = written(tmp_path)
    match = NAME.fullmatch(path.name)
    assert match is not None and int(match.group(1)) == (START + 1_000_250) // 1000
    assert path.parent.name == datetime.fromtimestamp(START / 1e9, UTC).strftime("%Y%m%d%H")
    events = json.loads(path.read_text())
    base = events[0]["args"]["start_time_since_epoch_in_micros"]
    assert events[0]["ph"] == "M" and events[0]["pid"] == 0
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name" and e["pid"]}
    assert names == {1: "Step:ModeKeys.TRAIN", 2: "data"}
    spans = [event for event in events if event["ph"] == "X"]
    assert spans[0]["args"] == {"pid": os.getpid(), "step_num": "0"}
    assert spans[1]["pid"] == 2 and spans[1]["name"] == "DataLoaderIter"
    assert base + spans[0]["ts"] == START // 1000
    trace = Trace.open(tmp_path, strict=True)
    assert [(e.name, e.ts, e.dur) for e in trace.events if e.ph == "X"] == [
        ("Step:ModeKeys.TRAIN", START, 1_000_250), ("DataLoaderIter", START + 5, 12),
    ]  # fmt: skip
    assert trace.args_int64("step_num").max() == 0
    assert not list(tmp_path.glob("framework/*.tmp"))


def test_rotation_by_size_and_hour(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, max_bytes=4096)
    for i in range(200):
        writer.span("s", START + i * 1000, START + i * 1000 + 500, {"step_num": i})
    writer.span("s", START + 3600 * 10**9, START + 3600 * 10**9 + 1)
    writer.close()
    paths = written(tmp_path)
    assert len({path.parent.name for path in paths}) == 2
    assert len(paths) > 3 and max(path.stat().st_size for path in paths) < 6000
    for path in paths:
        json.loads(path.read_text())
    trace = Trace.open(tmp_path, strict=True)
    assert len(trace.select(ph="X")) == 201


def test_rotation_by_time(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, max_seconds=1)
    writer.span("a", START, START + 1)
    time.sleep(1.1)
    writer.span("b", START + 2, START + 3)
    assert len(written(tmp_path)) == 1
    writer.close()
    assert len(written(tmp_path)) == 2


def test_same_end_times_do_not_collide(tmp_path: Path) -> None:
    for _ in range(3):
        with EventWriter(tmp_path) as writer:
            writer.span("a", START, START + 1)
    assert len(written(tmp_path)) == 3


def test_killed_process_leaves_a_readable_file(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom smhf_native.trace import EventWriter\n"
        f"w = EventWriter(sys.argv[1])\nfor i in range(50): w.span('s', {START} + i, {START} + i + 1)\n"
        "w.flush()\nprint('on', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = tmp_path.glob("framework/*.json.tmp")
    trace = Trace.open(left)
    assert len(trace.select(ph="X")) == 50
    assert [fault.lost for fault in trace.faults] == [False]  # only the ] is missing


def test_threads(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, max_bytes=20_000)

    def work(number: int) -> None:
        for i in range(200):
            writer.span(f"t{number}", START + i, START + i + 1, {"step_num": i})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    trace = Trace.open(tmp_path, strict=True)
    for number in range(8):
        assert len(trace.select(name=f"t{number}", ph="X")) == 200


def test_measure_and_names(tmp_path: Path) -> None:
    with (
        EventWriter(tmp_path, node_id="algo-2") as writer,
        writer.measure('odd "name" é\n', {"k": [1, None]}),
    ):
        time.sleep(0.01)
    trace = Trace.open(tmp_path, strict=True)
    event = next(event for event in trace.events if event.ph == "X")
    assert event.name == 'odd "name" é\n' and event.args["k"] == [1, None]
    assert event.dur is not None and event.dur >= 10_000_000
    assert "-algo-2_" in trace.files[0].path


def test_errors(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    with pytest.raises(ValueError, match="start <= end"):
        writer.span("x", 5, 4)
    with pytest.raises(ValueError):
        writer.span("x", 5, 6, {"nan": float("nan")})
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.span("x", 5, 6)
    assert written(tmp_path) == []
    with pytest.raises(ValueError, match="node"):
        EventWriter(tmp_path, node_id="../up")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        EventWriter(blocked / "below").span("x", 5, 6)
