"""TimelineCharts: selection, totals, printed lines and drawings, against a restatement of spec C6."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native.profiler.charts import TimelineCharts
from smhf_native.profiler.readers import LocalSystemMetricsReader
from smhf_native.profiler.svg import CHART_CSS


def all_rows(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.rglob("*.json")):
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def oracle(folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """C6's data model with plain dicts: name streams by dimension id, and the mean by position as total."""
    model: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in all_rows(folder):
        dim = f"{row['Dimension']}-nodeid:{row['NodeId']}"
        model.setdefault(dim, {}).setdefault(row["Name"], []).append((row["Timestamp"], row["Value"]))
    for streams in model.values():
        parts = list(streams.values())
        streams["total"] = [
            (sum(p[0] for p in point) / len(parts), sum(p[1] for p in point) / len(parts))
            for point in zip(*parts, strict=False)
        ]
    return model


def select(model: dict[str, Any], dimensions: list[str], events: list[str]) -> set[tuple[str, str]]:
    names = {name for streams in model.values() for name in streams}
    chosen_events = {n for n in names if any(re.compile(".*" + e).search(n) for e in events)}
    chosen_dims = {d for d in model if any(re.compile(p).search(d) for p in dimensions)}
    return {(d, e) for d in chosen_dims for e in chosen_events if e in model[d]}


SELECTIONS = [
    (["CPU", "GPU"], ["total"]),
    ([".*"], ["total"]),
    (["Utilization"], ["cpu1$", "gpu"]),
    (["^-nodeid"], ["Throughput", "Memory"]),
    (["Algorithm"], ["Receive|Transmit"]),
    (["cpu"], ["total"]),  # case-sensitive: nothing
    ([".*"], ["nothing like it"]),
]


@pytest.mark.parametrize(("dimensions", "events"), SELECTIONS)
def test_selection(
    make_profile: Callable[..., Path], dimensions: list[str], events: list[str], capsys: Any
) -> None:
    folder = make_profile(140)
    model = oracle(folder)
    # Memory beside disk throughput has no common mean here; that is this project's one deviation.
    expected = select(model, dimensions, events) - {("-nodeid:algo-1", "total")}
    charts = TimelineCharts(
        LocalSystemMetricsReader(folder), None, select_dimensions=dimensions, select_events=events
    )
    drawn = {(d, e) for d, sources in charts.sources.items() for e in sources}
    assert drawn == expected
    assert [f.title for f in charts.figures] == [f"{d}_{e}" for d in charts.sources for e in charts.sources[d]]
    for dim, event in drawn:
        want = np.array(model[dim][event])
        source = charts.sources[dim][event].data
        assert np.allclose(source["x"], want[:, 0], rtol=0, atol=1e-6)
        assert np.allclose(source["y"], want[:, 1], rtol=1e-12)
        assert np.array_equal(charts.system_metrics[dim][event][:, 1], source["y"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"select events:{events}"
    assert lines[1] == f"select dimensions:{dimensions}"
    assert lines[2].startswith("filtered_events:") and lines[3].startswith("filtered_dimensions:")
    for line, chosen in ((lines[2], charts.filtered_events), (lines[3], charts.filtered_dimensions)):
        shown = line.partition(":")[2]
        assert (eval(shown) if shown != "set()" else set()) == set(chosen)


def test_fixed_order_and_availability(make_profile: Callable[..., Path]) -> None:
    charts = TimelineCharts(LocalSystemMetricsReader(make_profile(10, cores=12, gpus=2)))
    assert charts.available_dimensions == [
        "CPUUtilization-nodeid:algo-1",
        "I/OWaitPercentage-nodeid:algo-1",
        "GPUUtilization-nodeid:algo-1",
        "GPUMemoryUtilization-nodeid:algo-1",
        "-nodeid:algo-1",
        "Algorithm-nodeid:algo-1",
        "Platform-nodeid:algo-1",
    ]
    cores = [e for e in charts.available_events if e.startswith("cpu")]
    assert cores == [f"cpu{i}" for i in range(12)]
    assert charts.available_events[-1] == "total"
    again = TimelineCharts(charts.system_metrics_reader)
    assert [f.svg for f in again.figures] == [f.svg for f in charts.figures]


def test_newest_minute_is_there_even_with_one_file(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(200)  # 100 s: one full minute and 40 s of the next
    reader = LocalSystemMetricsReader(folder)
    charts = TimelineCharts(reader, None, select_dimensions=["CPU"], select_events=["total"])
    assert len(charts.sources["CPUUtilization-nodeid:algo-1"]["total"].data["x"]) == 200
    first = sorted(folder.rglob("*.json"))[0]
    for other in sorted(folder.rglob("*.json"))[1:]:
        other.unlink()
    assert first.exists()
    one = TimelineCharts(LocalSystemMetricsReader(folder), None, select_dimensions=["CPU"], select_events=["total"])
    assert len(one.sources["CPUUtilization-nodeid:algo-1"]["total"].data["x"]) == 120


def test_width_window_and_time_range(make_profile: Callable[..., Path]) -> None:
    reader = LocalSystemMetricsReader(make_profile(140))
    selected: dict[str, Any] = {"select_dimensions": ["CPU"], "select_events": ["total"]}
    assert TimelineCharts(reader, **selected).width == 139  # shortest CPU total minus one
    small = TimelineCharts(reader, x=30, **selected)
    assert small.width == 30
    points = small.sources["CPUUtilization-nodeid:algo-1"]["total"].data["x"]
    assert len(points) == 30 and points[-1] == pytest.approx(1783653720 + 139 * 0.5 + 0.001699 + 0.0004)
    part = TimelineCharts(reader, starttime=1783653730 * 1e6, endtime=1783653740 * 1e6, **selected)
    times = part.sources["CPUUtilization-nodeid:algo-1"]["total"].data["x"]
    assert len(times) == 20 and times.min() >= 1783653730 and times.max() <= 1783653740


def test_several_nodes(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(20)
    make_profile(20, folder=folder, node="algo-2", seed=7)
    reader = LocalSystemMetricsReader(folder)
    apart = TimelineCharts(reader, select_dimensions=["^CPU"], select_events=["total"])
    assert list(apart.sources) == ["CPUUtilization-nodeid:algo-1", "CPUUtilization-nodeid:algo-2"]
    together = TimelineCharts(reader, select_dimensions=["^CPU"], select_events=["cpu0"], show_workers=False)
    assert list(together.sources) == ["CPUUtilization"]
    assert len(together.sources["CPUUtilization"]["cpu0"].data["x"]) == 40


def test_total_with_a_missing_core(make_profile: Callable[..., Path]) -> None:
    """By position the streams would slip against each other; by time only the one tick lacks a core."""
    folder = make_profile(60)
    path = next(folder.rglob("*.json"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ticks = sorted({round(r["Timestamp"] * 2) for r in rows if r["Dimension"] == "CPUUtilization"})
    gone = [r for r in rows if r["Name"] == "cpu2" and round(r["Timestamp"] * 2) == ticks[10]]
    kept = [r for r in rows if r not in gone]
    path.write_text("".join(json.dumps(r) + "\n" for r in kept))
    charts = TimelineCharts(LocalSystemMetricsReader(folder), select_dimensions=["^CPU"], select_events=["total"])
    values = charts.sources["CPUUtilization-nodeid:algo-1"]["total"].data["y"]
    want = [
        np.mean([r["Value"] for r in kept if r["Dimension"] == "CPUUtilization" and round(r["Timestamp"] * 2) == t])
        for t in ticks
    ]
    assert np.allclose(values, want, rtol=1e-12)


def test_smdebug_fixtures(shared_data: Path) -> None:
    folder = shared_data / "traces" / "sagemaker" / "test_traces"
    reader = LocalSystemMetricsReader(folder)
    real = TimelineCharts(reader, starttime=1591748000 * 1e6, select_dimensions=["CPU"], select_events=["total"])
    table = real.system_metrics["CPUUtilization-nodeid:algo-1"]["total"]
    rows = [r for r in all_rows(folder / "system") if r["Timestamp"] > 1591748000]
    assert len(rows) == 64
    first = [r["Value"] for r in rows if r["Timestamp"] < 1591748150]
    # two ticks of 32 cores, a minute apart: both are there, the newest too
    assert table.shape == (2, 2)
    assert table[0, 1] == pytest.approx(np.mean(first), rel=1e-12)
    assert table[1, 1] == pytest.approx(np.mean([r["Value"] for r in rows[32:]]), rel=1e-12)


def test_drawing(make_profile: Callable[..., Path], tmp_path: Path) -> None:
    charts = TimelineCharts(
        LocalSystemMetricsReader(make_profile(240)), None, select_dimensions=["CPU", "GPU"], select_events=["total"]
    )
    assert [f.title.split("-")[0] for f in charts.figures] == [
        "CPUUtilization",
        "GPUUtilization",
        "GPUMemoryUtilization",
    ]
    space = "{http://www.w3.org/2000/svg}"
    for figure in charts.figures:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == f"{space}svg" and root.get("role") == "img" and root.get("aria-label")
        lines = [p for p in root.iter(f"{space}path") if p.get("data-points")]
        assert [p.get("data-points") for p in lines] == ["240"]  # two a second, all drawn
        assert lines[0].get("d", "").count(",") == 240
        texts = ["".join(t.itertext()) for t in root.iter(f"{space}text")]
        assert "100 %" in texts and "0 %" in texts
        assert any(t.startswith("time in s since 2026-07-10 03:22:00 UTC") for t in texts)
        assert any(t.endswith(" s") for t in texts)
        assert len(list(root.iter(f"{space}title"))) > 100
        assert len(figure.svg) < 200_000
    html = charts._repr_html_()
    assert html.count("<svg") == 6 and html.count(CHART_CSS) == 1 and "<script" not in html
    svg = ElementTree.fromstring(charts.save(tmp_path / "charts.svg").read_text())
    assert len(svg.findall(f"{space}svg")) == 3
    page = charts.save(tmp_path / "charts.html").read_text()
    assert "default-src 'none'" in page
    single = charts.figures[0].save(tmp_path / "one.svg").read_text()
    assert single == charts.figures[0].svg
    with pytest.raises(ValueError, match=r"charts\.png"):
        charts.save(tmp_path / "charts.png")


def test_frame(make_profile: Callable[..., Path], peer: Any) -> None:
    peer("pandas")
    charts = TimelineCharts(
        LocalSystemMetricsReader(make_profile(10)), select_dimensions=["^GPU"], select_events=["gpu0"]
    )
    frame = charts.to_frame()
    assert list(frame.columns) == ["timestamp", "dimension", "event", "value"]
    assert len(frame) == 20 and set(frame["event"]) == {"gpu0"}


def test_long_job_is_decimated(tmp_path: Path) -> None:
    from smhf_native.profiler.svg import Line, line_chart

    rng = np.random.default_rng(3)
    x = np.arange(60_000) * 0.5
    y = rng.uniform(0, 100, x.size)
    y[33_333], y[44_444] = 180.0, -50.0  # single spikes must survive
    svg = line_chart([Line("a", x, y)], title="t", unit="%", y_range=(-60.0, 200.0))
    assert len(svg) < 200_000
    root = ElementTree.fromstring(svg)
    path = next(p for p in root.iter("{http://www.w3.org/2000/svg}path") if p.get("data-points"))
    points = np.array([p.split(",") for p in path.get("d", "")[1:].split("L")], float)
    assert len(points) == int(path.get("data-points", "0")) <= 2000
    value = 200 - points[:, 1] / 100 * 260
    assert value.max() == pytest.approx(180, abs=0.05) and value.min() == pytest.approx(-50, abs=0.05)


def test_refuses(make_profile: Callable[..., Path]) -> None:
    reader = LocalSystemMetricsReader(make_profile(2))
    with pytest.raises(ValueError, match=r"\(CPU"):
        TimelineCharts(reader, select_dimensions=["(CPU"])
    with pytest.raises(ValueError, match="lists"):
        TimelineCharts(reader, select_events="total")
    with pytest.raises(ValueError, match="wait_for_sys"):
        TimelineCharts(None)  # type: ignore[arg-type]


def test_nothing_selected_says_what_there_is(make_profile: Callable[..., Path], tmp_path: Path) -> None:
    charts = TimelineCharts(LocalSystemMetricsReader(make_profile(2)), select_dimensions=["nope"])
    assert charts.figures == [] and "CPUUtilization-nodeid:algo-1" in charts._repr_html_()
    with pytest.raises(ValueError, match="no chart"):
        charts.save(tmp_path / "x.svg")


def test_update_data_sees_new_files(make_profile: Callable[..., Path]) -> None:
    folder = make_profile(100)
    reader = LocalSystemMetricsReader(folder)
    charts = TimelineCharts(reader, select_dimensions=["^CPU"], select_events=["total"])
    make_profile(300, folder=folder)
    charts.update_data()
    assert len(charts.sources["CPUUtilization-nodeid:algo-1"]["total"].data["x"]) == 300


def test_shown_in_a_kernel_and_only_there(make_profile: Callable[..., Path], monkeypatch: Any) -> None:
    pytest.importorskip("IPython")
    import IPython.core.getipython
    import IPython.display

    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    reader = LocalSystemMetricsReader(make_profile(4))
    TimelineCharts(reader, select_events=["total"])
    assert shown == []
    monkeypatch.setattr(IPython.core.getipython, "get_ipython", lambda: object())
    charts = TimelineCharts(reader, select_events=["total"])
    assert len(shown) == 1 and shown[0].data == charts._repr_html_()
