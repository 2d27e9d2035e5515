"""The HTML report as text: structure, escaping, size, determinism, numbers."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_jobs import made_job, report_page, results_of

from smhf_native.profiler.columns import Stream
from smhf_native.profiler.report import build_report, job_report, verdict, write_report
from smhf_native.profiler.rules import JobData, RuleResult, evaluate_report_rules
from smhf_native.profiler.svg import format_value, heatmap, histogram, nice_ticks, share_bar

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Structure(HTMLParser):
    """Checks nesting and collects what pages may not have."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href", "action", "xlink:href", "data", "poster", "srcset"):
                self.addresses.append(str(value))
            if name == "id":
                self.ids.append(str(value))
            if name.startswith("on"):
                self.problems.append(f"{tag} {name}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Structure:
    structure = Structure()
    structure.feed(page)
    structure.close()
    assert structure.problems == [] and structure.open == []
    return structure


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_structure_and_nothing_from_outside(make_profile: Callable[..., Path], kind: str) -> None:
    page = report_page(make_profile, kind)
    found = parsed(page)
    assert found.tags.get("script", 0) == 0 and found.tags["h1"] == 1 and found.tags["main"] == 1
    assert all(a.startswith("#") or a == "data:," for a in found.addresses), found.addresses
    assert len(set(found.ids)) == len(found.ids)
    targets = {a[1:] for a in found.addresses if a.startswith("#")}
    assert targets == set(found.ids)
    assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page and 'charset="utf-8"' in page
    for block in re.findall(r"<svg xmlns.*?</svg>\s*(?=</figure>|<details>)", page, re.S):
        ElementTree.fromstring(block)
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg" class="smhf-chart"') >= 8
    assert "@media print" in page and "prefers-color-scheme:dark" in page
    assert page.count('scope="col"') > 20 and page.count('scope="row"') > 20
    # The verdict comes before everything else.
    assert page.index('class="verdict') < page.index("<h2")


def test_sizes(make_profile: Callable[..., Path]) -> None:
    page = report_page(make_profile, "gpu", ticks=1300)  # the workshop's ten minutes and a bit
    assert len(page.encode()) <= 400_000
    assert all(len(svg) <= 200_000 for svg in re.findall(r"<svg xmlns.*?</svg></svg>", page, re.S))


def test_an_hour_of_many_cores(make_profile: Callable[..., Path]) -> None:
    """1 h, 64 cores and 8 GPUs (goal 19 of spec/trace.md: at most 1 MB)."""
    rng = np.random.default_rng(0)
    time = 1783653720 * 10**9 + np.arange(7200) * 500 * 10**6
    streams = []
    for dimension, names in (
        ("CPUUtilization", [f"cpu{i}" for i in range(64)]),
        ("GPUUtilization", [f"gpu{i}" for i in range(8)]),
        ("GPUMemoryUtilization", [f"gpu{i}" for i in range(8)]),
    ):
        kind = dimension[:3].lower()
        streams += [Stream("algo-1", kind, n, dimension, time, rng.uniform(0, 100, 7200)) for n in names]
    job = JobData("job", streams)
    page = build_report(job, evaluate_report_rules(job))
    assert len(page.encode()) <= 400_000
    parsed(page)


def test_same_job_same_bytes(make_profile: Callable[..., Path], tmp_path: Path) -> None:
    job = made_job(make_profile)
    results, others = results_of(job)
    first = write_report(tmp_path / "a" / "profiler-report.html", job, results, others).read_bytes()
    again = made_job(make_profile)
    second = write_report(tmp_path / "b" / "profiler-report.html", again, *results_of(again)).read_bytes()
    assert first == second
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["profiler-report.html"]


def test_names_are_escaped(make_profile: Callable[..., Path]) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    time = 1783653720 * 10**9 + np.arange(30) * 500 * 10**6
    streams = [
        Stream(evil, evil, evil, "CPUUtilization", time, np.linspace(0, 90, 30)),
        Stream(evil, "cpu", "cpu1", "CPUUtilization", time, np.linspace(0, 90, 30)),
        Stream(evil, "gpu", evil, "GPUUtilization", time, np.linspace(0, 90, 30)),
    ]
    job = JobData(
        evil,
        streams,
        scalars=[
            {"MetricName": "loss", "Value": 1 / (k + 1), "Timestamp": 1.0 * k, "IterationNumber": k}
            for k in range(30)
        ],
        metrics=[{"MetricName": evil, "Value": 1.0, "Timestamp": 1783653730.0}],
        description={"TrainingJobStatus": "Failed", "SecondaryStatus": evil, "FailureReason": evil},
        faults=[evil],
    )
    fired = RuleResult(evil, message=evil, status="IssuesFound", triggered=1)
    page = build_report(job, [*evaluate_report_rules(job), fired])
    found = parsed(page)
    assert found.tags.get("script", 0) == 0 and found.tags.get("img", 0) == 0
    assert sum(evil in text for text in found.text) >= 4
    assert re.sub(r"\s+", " ", evil) in "".join(found.text)


def test_numbers_on_the_page(make_profile: Callable[..., Path]) -> None:
    job = made_job(make_profile, "cpu")
    results, others = results_of(job)
    text = " ".join(" ".join(parsed(build_report(job, results, others)).text).split())
    usage = next(r for r in results if r.rule == "OverallSystemUsage").details["algo-1"]["CPU"]
    assert " ".join(format_value(usage[k], "%") for k in ("max", "p99", "p95", "p50", "min")) in text
    assert "initialisation" in text and "finalisation" in text
    assert "eval_accuracy 1 0.659011" in text
    assert "no GPU: not evaluated" in text.replace("No GPU", "no GPU")
    assert "2 cores, no GPU" in text
    for word in ("Completed", "2026-07-10 03:21:58 UTC", "2 min 34 s"):
        assert word in text, word


def test_verdicts() -> None:
    ok = RuleResult("A", datapoints=5)
    waiting = RuleResult("B", message="not enough data: 1 of 2")
    bad = RuleResult("C", status="IssuesFound", triggered=2, message="it is slow", advice="Do less.")
    job = JobData("job")
    assert verdict(job, [ok])[:2] == (False, "No rule found an issue.")
    assert verdict(job, [waiting])[:2] == (False, "No rule could be evaluated.")
    wrong, first, second = verdict(job, [ok, waiting, bad])
    assert (wrong, first) == (True, "C: it is slow.") and second.startswith("Do less.")
    failed = JobData("job", description={"TrainingJobStatus": "Failed", "FailureReason": "out of\nmemory"})
    assert verdict(failed, [ok])[:2] == (True, "The job failed: out of memory")
    assert "1 of 2 rules had nothing to evaluate" in verdict(job, [ok, waiting])[2]
    time = np.arange(10) * 10**9
    busy = JobData("job", [Stream("algo-1", "cpu", "cpu0", "CPUUtilization", time, np.full(10, 97.0))])
    assert "so it is what limits this job" in verdict(busy, [ok])[2]
    starved = JobData("job", [Stream("algo-1", "gpu", "gpu0", "GPUUtilization", time, np.full(10, 4.0))])
    assert "stood below 10 % for 100 % of the time" in verdict(starved, [ok])[2]


def test_report_of_a_record(make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path) -> None:
    record = make_job("job-7")
    make_profile(20, folder=home / "store/bucket/training_jobs/job-7/profiler-output")
    page = job_report(record)
    assert "<title>Profiler report: job-7</title>" in page
    parsed(page)


def test_torn_files_are_named(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(30)
    path = next(folder.rglob("*.json"))
    path.write_bytes(path.read_bytes()[:-20])
    job = JobData.from_folder("job", folder)
    assert len(job.faults) == 1
    assert path.name in build_report(job, evaluate_report_rules(job))


def test_drawing_helpers() -> None:
    assert nice_ticks(0, 100, 4) == [0, 50, 100]
    assert nice_ticks(0, 0.7, 4) == [0, 0.25, 0.5]
    assert nice_ticks(3, 3, 4) == [3]
    for low, high, most in ((0, 9, 5), (-4, 17, 6), (0.001, 0.0042, 7), (1e9, 7e9, 4)):
        ticks = nice_ticks(low, high, most)
        assert 1 <= len(ticks) <= most and all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    texts = [
        (43.21, "%", "43.2 %"), (0, "%", "0 %"), (100, "%", "100 %"), (1.953e9, "B/s", "1.95 GB/s"),
        (999, "B/s", "999 B/s"), (0.0125, "s", "12.5 ms"), (3e-6, "s", "3 µs"), (61.0, "s", "61 s"),
        (15000, "/s", "15 k/s"), (0.835297, "", "0.8353"),
    ]  # fmt: skip
    for value, unit, text in texts:
        assert format_value(value, unit) == text
    for svg in (
        histogram([0, 3, 1], [0.0, 1.0, 2.0, 3.0], title="h", unit="s"),
        heatmap(np.array([[1.0, np.nan, 99.0]]), ["cpu0"], 0, 3, title="m"),
        share_bar([("a", 1.0), ("b", 0.0)], title="s"),
    ):
        ElementTree.fromstring(svg)
    for call in (
        lambda: histogram([0, 0], [0.0, 1.0, 2.0], title="h", unit="s"),
        lambda: histogram([1], [0.0], title="h", unit="s"),
        lambda: heatmap(np.zeros((2, 2)), ["cpu0"], 0, 1, title="m"),
        lambda: share_bar([("a", 0.0)], title="s"),
    ):
        with pytest.raises(ValueError, match="chart"):
            call()


def odd_job(seed: int) -> JobData:
    """Jobs as they should not be: one sample, no samples, equal times, NaN losses, negative values, gaps."""
    rng = np.random.default_rng(seed)
    streams = []
    for node in ["algo-1", "algo-2"][: int(rng.integers(0, 3))]:
        for dimension, name in (
            ("CPUUtilization", "cpu0"),
            ("CPUUtilization", "cpu1"),
            ("I/OWaitPercentage", "cpu0"),
            ("GPUUtilization", "gpu0"),
            ("GPUMemoryUtilization", "gpu0"),
            ("", "MemoryUsedPercent"),
            ("", "ReadThroughputInBytesPerSecond"),
            ("Algorithm", "ReceiveBytesPerSecond"),
            ("Own thing", "what?"),
        ):
            if rng.random() < 0.3:
                continue
            n = int(rng.choice([1, 2, 3, 40, 1500]))
            time = 1783653720 * 10**9 + np.sort(rng.integers(0, int(rng.choice([1, 10, 10**9, 10**13])), n))
            value = rng.choice([-1e9, 0.0, 1e-9, 50.0, 100.0, 1e15]) * rng.uniform(0, 1, n)
            streams.append(Stream(node, "x", name, dimension, time, value))
    count = int(rng.choice([0, 1, 2, 30, 400]))
    losses = [
        {
            "MetricName": "loss",
            "Value": float(rng.choice([1.0, float("nan"), float("inf"), -2.0, 0.0])),
            "Timestamp": 1783653720.0 + (0.0 if seed % 3 else float(k)),
            "IterationNumber": int(rng.integers(0, 5)) if seed % 2 else k,
        }
        for k in range(count)
    ]
    description = {} if seed % 4 else {"TrainingStartTime": 1783653720.0, "TrainingEndTime": 1783653720.0 + seed}
    return JobData("odd", streams, None, losses, losses, description)


def test_odd_jobs_get_a_whole_report(tmp_path: Path) -> None:
    for seed in range(60):
        job = odd_job(seed)
        results, others = results_of(job)
        for result in [*results, *others]:
            result.write(tmp_path)  # strict JSON: no NaN
        page = build_report(job, results, others)
        parsed(page)
        assert not re.search(r'd="[^"]*(nan|inf)', page), seed
        for block in re.findall(r"<figure>(<svg.*?</svg>)(?=</figure>|<details>)", page, re.S):
            ElementTree.fromstring(block)


def test_not_a_number_rows_are_left_out(tmp_path: Path) -> None:
    from smhf_native.profiler.columns import SystemColumns, streams_of

    value = np.array([1.0, np.nan, 3.0, np.inf])
    code = np.zeros(4, np.int32)
    (stream,) = streams_of(SystemColumns(np.arange(4), value, code, code, code, code, ["a"]))
    assert stream.value.tolist() == [1.0, 3.0] and stream.time.tolist() == [0, 2]
