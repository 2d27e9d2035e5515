"""Trace room: files to columns, and what sampling costs.

    python benchmarks/bench_trace.py

Peers in the same run: Python's json (parse only; the least any Python reader does) and a plain copy of the bytes
(the memory's limit).  Texts are made here from a seed; real Kineto files of SMHF_TEST_DATA are added when there.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5
KINETO = ("df_index_resolver", "ns_resolution", "resnet50_array_toplevel")


def kineto_text(events: int) -> bytes:
    """A Kineto-like object: short events with nanosecond fractions and args."""
    rng = random.Random(7)
    items = [
        {
            "ph": "X", "cat": "kernel", "name": f"aten::op_{rng.randrange(200)}", "pid": 0, "tid": rng.randrange(9),
            "ts": 1_727_743_122_000 + i * 3 + rng.randrange(1000) / 1000, "dur": rng.randrange(10**6) / 1000,
            "args": {"External id": i, "correlation": i, "stream": 7, "Input Dims": [[16, 128], [768]]},
        }
        for i in range(events)
    ]  # fmt: skip
    return json.dumps({"schemaVersion": 1, "traceEvents": items, "traceName": "t"}, indent=1).encode()


def system_text(ticks: int, cores: int) -> bytes:
    """System metrics as the sampler writes them."""
    rng = random.Random(7)
    return "".join(
        f'{{"Type":"cpu","Name":"cpu{core}","Dimension":"CPUUtilization","Value":{rng.randrange(10_000) / 100:.2f},'
        f'"NodeId":"algo-1","Timestamp":{1_783_653_720 + tick // 2}.{tick % 2 * 500_000 + 17:06d}}}\n'
        for tick in range(ticks)
        for core in range(cores)
    ).encode()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Median seconds and spread (slowest over fastest) of five runs after a warm one."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), max(seconds) / min(seconds)


def peak_memory(path: Path) -> int:
    """Growth of a fresh process's peak resident bytes while it reads the file."""
    program = (
        "import sys\nfrom smhf_native.trace import Trace\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "Trace.from_bytes(b'[]')\nbefore = peak()\nt = Trace.open(sys.argv[1])\n"
        "print((peak() - before) * 1024)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=env, capture_output=True, text=True, check=True
    )
    return int(result.stdout)


def texts() -> dict[str, bytes]:
    found = {"made: kineto": kineto_text(60_000), "made: system rows": system_text(2400, 64)}
    folder = Path(os.environ.get("SMHF_TEST_DATA", ROOT.parent / "shared")) / "data/traces/kineto"
    for name in KINETO:
        if (folder / f"{name}.json.gz").exists():
            found[name] = gzip.decompress((folder / f"{name}.json.gz").read_bytes())
    return found


def read_all(name: str, text: bytes) -> None:
    if name == "made: system rows":
        for line in text.splitlines():
            json.loads(line)
    else:
        json.loads(text)


def bench_reading(folder: Path) -> list[dict[str, object]]:
    from smhf_native.trace import Trace

    results: list[dict[str, object]] = []
    print(f"{'text':24} {'MB':>6} {'ours MB/s':>10} {'json MB/s':>10} {'ratio':>6} {'of memcpy':>10} {'memory MB':>10}")
    for name, text in texts().items():
        path = folder / "trace.json"
        path.write_bytes(text)
        ours, spread = timed(lambda path=path: Trace.open(path))  # type: ignore[misc]
        peer, _ = timed(lambda name=name, text=text: read_all(name, text))  # type: ignore[misc]
        copy, _ = timed(lambda text=text: bytearray(text))  # type: ignore[misc]
        memory = peak_memory(path)
        megabytes = len(text) / 1e6
        print(
            f"{name:24} {megabytes:6.1f} {megabytes / ours:10.0f} {megabytes / peer:10.0f} {peer / ours:6.1f} "
            f"{copy / ours:10.1%} {memory / 1e6:10.1f}"
        )
        results.append(
            {"text": name, "bytes": len(text), "seconds": ours, "spread": spread, "json_seconds": peer,
             "memcpy_seconds": copy, "memory_bytes": memory}
        )  # fmt: skip
    return results


def bench_sampling(folder: Path) -> dict[str, float]:
    from smhf_native.trace import EventWriter, Sampler

    with Sampler(folder, interval_ms=100) as sampler:
        time.sleep(5)
    stats = sampler.stats
    tick = stats["cpu_ns"] / stats["ticks"]
    share = tick / 500e6
    writer = EventWriter(folder)
    marks = 100_000
    start = time.perf_counter_ns()
    for i in range(marks):
        writer.span("Step", 1_700_000_000_000_000_000 + i, 1_700_000_000_000_000_001 + i)
    mark = (time.perf_counter_ns() - start) / marks
    writer.close()
    print(f"sampler: {tick / 1e3:.0f} us a tick = {share:.4%} of a core at 500 ms; a span from Python: {mark:.0f} ns")
    return {"tick_ns": tick, "share_at_500ms": share, "span_ns": mark}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        reading = bench_reading(Path(folder))
        sampling = bench_sampling(Path(folder))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        "bench": "trace", "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "commit": commit, "tier": "scalar", "reading": reading, "sampling": sampling,
    }  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    main()
