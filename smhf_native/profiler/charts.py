"""TimelineCharts: utilisation over time, chosen by patterns (smdebug's names, selection and printed lines).

Differences from smdebug, on purpose: charts are SVG without scripts; their order is fixed (processor, GPU,
memory and disk, network; then by name); the x axis is labelled in seconds, which it always was; the newest
minute is shown; ``total`` pairs samples by time where a core misses one; unlike quantities (memory beside
disk throughput, under the empty dimension) have no ``total``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smhf_native.profiler.columns import (
    Float,
    Int,
    Stream,
    SystemColumns,
    dimension_rank,
    natural_key,
    streams_of,
)
from smhf_native.profiler.readers import SystemMetricsReader
from smhf_native.profiler.series import mean_stream
from smhf_native.profiler.svg import CHART_CSS, Line, clock, format_value, line_chart

if TYPE_CHECKING:
    import pandas

__all__ = ["Chart", "Source", "TimelineCharts", "display_html", "unit_of"]

_DEFAULT_X = 1000


def unit_of(dimension: str, name: str) -> str:
    """Return the unit of a system metric: ``%``, ``B/s``, ``/s`` or nothing."""
    if "Utilization" in dimension or "Percent" in dimension or "Percent" in name:
        return "%"
    if "Bytes" in name:
        return "B/s"
    if name == "IOPS":
        return "/s"
    return ""


@dataclass
class Source:
    """The points of one chart; ``data`` has the keys ``x`` (epoch seconds) and ``y``."""

    data: dict[str, Float]


@dataclass
class Chart:
    """One drawn chart.

    Attributes
    ----------
    title : str
        ``{dimension}-nodeid:{node}_{event}``.
    svg : str
        The drawing, complete in itself.
    """

    title: str
    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the chart as an SVG file and return its path."""
        path = Path(path)
        path.write_text(self.svg, encoding="utf-8")
        return path


class TimelineCharts:
    """Charts of system metrics over time; shown at once when this runs in a notebook.

    Parameters
    ----------
    system_metrics_reader : SystemMetricsReader
        From ``TrainingJob.get_systems_metrics_reader()``.
    framework_metrics_reader : AlgorithmMetricsReader, optional
        For :meth:`find_time_annotations`.
    starttime, endtime : float
        Epoch microseconds; ``endtime`` None: everything until now.
    select_dimensions, select_events : list of str
        Regular expressions, searched (case-sensitive) in ``{dimension}-nodeid:{node}`` and in the names of
        streams; ``"total"`` is the mean over the streams of a dimension.
    x : int
        Show only the last ``x`` points.  The default 1000 shows the whole job.
    show_workers : bool
        False: the nodes' streams of one name are put together.

    Attributes
    ----------
    system_metrics : dict of dict of float64 ndarray (n, 2)
        ``[dimension id][event]`` → columns time (epoch seconds), value.
    available_dimensions, available_events : list of str
    figures : list of Chart
    sources : dict of dict of Source
    width : int
        Size of smdebug's first view: ``x``, or one less than the shortest CPU ``total``.

    Raises
    ------
    ValueError
        A pattern is no regular expression, or there is no reader.
    """

    def __init__(
        self,
        system_metrics_reader: SystemMetricsReader,
        framework_metrics_reader: Any = None,
        starttime: float = 0,
        endtime: float | None = None,
        select_dimensions: Sequence[str] = (".*",),
        select_events: Sequence[str] = (".*",),
        x: int = _DEFAULT_X,
        show_workers: bool = True,
    ) -> None:
        if system_metrics_reader is None:
            raise ValueError(
                "system_metrics_reader is None: call "
                "TrainingJob.wait_for_sys_profiling_data_to_be_available() first"
            )
        if isinstance(select_dimensions, str) or isinstance(select_events, str):
            raise ValueError("select_dimensions and select_events are lists of patterns, not one str")
        self.system_metrics_reader = system_metrics_reader
        self.framework_metrics_reader = framework_metrics_reader
        self.starttime = starttime
        self.endtime = endtime
        self.select_dimensions = list(select_dimensions)
        self.select_events = list(select_events)
        self.show_workers = show_workers
        self._x = int(x)
        self._dimension_patterns = [_compiled(p, "") for p in self.select_dimensions]
        self._event_patterns = [_compiled(p, ".*") for p in self.select_events]
        self._load()
        print(f"select events:{self.select_events}")
        print(f"select dimensions:{self.select_dimensions}")
        print(f"filtered_events:{_set_text(self.filtered_events)}")
        print(f"filtered_dimensions:{_set_text(self.filtered_dimensions)}")
        display_html(self._repr_html_())

    # What is shown

    def _repr_html_(self) -> str:
        if not self.figures:
            known = ", ".join(escape(d) for d in self.available_dimensions) or "none"
            return f"<p>No series matches the selection. Dimensions there are: {known}.</p>"
        return _page(self.figures)

    def __repr__(self) -> str:
        return f"TimelineCharts({len(self.figures)} charts: {', '.join(f.title for f in self.figures)})"

    def save(self, path: str | Path) -> Path:
        """Write all charts into one file.

        Parameters
        ----------
        path : str or Path
            ``.svg``: one drawing, charts below each other; ``.html``: a page without any outside part.

        Returns
        -------
        Path

        Raises
        ------
        ValueError
            Another suffix, or no chart to write.
        """
        path = Path(path)
        if not self.figures:
            raise ValueError("there is no chart to save: the selection matches no series")
        if path.suffix == ".svg":
            path.write_text(_stack(self.figures), encoding="utf-8")
        elif path.suffix == ".html":
            head = (
                '<!doctype html><html lang="en"><meta charset="utf-8"><title>Timeline charts</title>'
                '<meta name="viewport" content="width=device-width,initial-scale=1">'
                '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
                "style-src 'unsafe-inline'; img-src data:\"><link rel=\"icon\" href=\"data:,\">"
                "<style>:root{color-scheme:light dark}body{margin:1rem}</style>"
            )
            path.write_text(head + _page(self.figures) + "</html>", encoding="utf-8")
        else:
            raise ValueError(f"cannot save charts as {path.name!r}: the suffix must be .svg or .html")
        return path

    def to_frame(self) -> pandas.DataFrame:
        """Return the drawn series as a long table.

        Returns
        -------
        pandas.DataFrame
            Columns ``timestamp`` (epoch seconds), ``dimension``, ``event``, ``value``.

        Raises
        ------
        MissingExtraError
            pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            from smhf_native.errors import MissingExtraError

            raise MissingExtraError.of("pandas", "pandas", "TimelineCharts.to_frame()") from None
        parts: dict[str, list[Any]] = {"timestamp": [], "dimension": [], "event": [], "value": []}
        for dimension, events in self.sources.items():
            for event, source in events.items():
                size = len(source.data["x"])
                parts["timestamp"].extend(source.data["x"].tolist())
                parts["dimension"].extend([dimension] * size)
                parts["event"].extend([event] * size)
                parts["value"].extend(source.data["y"].tolist())
        return pandas.DataFrame(parts)

    def update_data(self, current_timestamp: float | None = None) -> None:
        """Look for new files, draw everything again and show it.

        Parameters
        ----------
        current_timestamp : float, optional
            Epoch microseconds until which to show; None: everything until now.
        """
        self.system_metrics_reader.refresh_event_file_list()
        self.endtime = current_timestamp
        self._load()
        display_html(self._repr_html_())

    def find_time_annotations(self, indexes: Sequence[int]) -> dict[str, float]:
        """Sum the time of framework events between two points of the charts, and print it.

        Parameters
        ----------
        indexes : sequence of int
            Positions of points in the first chart.

        Returns
        -------
        dict
            Event name → seconds, most first; empty without a framework reader.
        """
        if self.framework_metrics_reader is None or not self.figures or not len(indexes):
            print("no framework events: TimelineCharts was made without framework_metrics_reader")
            return {}
        first = next(iter(next(iter(self.sources.values())).values())).data["x"]
        start, end = first[min(indexes)], first[max(indexes)]
        found = self.framework_metrics_reader.columns()
        sums: dict[str, float] = {}
        stop = found.start + found.duration
        inside = np.flatnonzero((stop >= start * 1e9) & (found.start <= end * 1e9))
        for i in inside.tolist():
            sums[found.name[i]] = sums.get(found.name[i], 0.0) + float(found.duration[i]) / 1e9
        result = dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))
        print(f"{len(inside)} events between {clock(start, True)} and {clock(end, True)}")
        for name, seconds in result.items():
            print(f"{name}: {format_value(seconds, 's')}")
        return result

    # Reading and drawing

    def _load(self) -> None:
        columns = self._columns()
        self.system_metrics: dict[str, dict[str, Float]] = {}
        self._units: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        groups: dict[str, list[Stream]] = {}
        for stream in streams_of(columns):
            groups.setdefault(_dimension_id(stream, self.show_workers), []).append(stream)
        order = sorted(groups, key=lambda d: (dimension_rank(groups[d][0].dimension), natural_key(d)))
        for dim in order:
            events = _merge_by_name(groups[dim])
            table: dict[str, Float] = {}
            for stream in events:
                table[stream.name] = _table(stream.time, stream.value)
                self._units[dim, stream.name] = unit_of(stream.dimension, stream.name)
            units = {self._units[dim, stream.name] for stream in events}
            if len(units) == 1:
                table["total"] = _table(*mean_stream(events))
                self._units[dim, "total"] = units.pop()
                self._counts[dim] = len(events)
            self.system_metrics[dim] = table
        self.available_dimensions = list(self.system_metrics)
        names = sorted({e for t in self.system_metrics.values() for e in t if e != "total"}, key=natural_key)
        self.available_events = [*names, "total"] if self.system_metrics else names
        self.filtered_dimensions = [
            d for d in self.available_dimensions if any(p.search(d) for p in self._dimension_patterns)
        ]
        self.filtered_events = [
            e for e in self.available_events if any(p.search(e) for p in self._event_patterns)
        ]
        processors = [t for d, t in self.system_metrics.items() if "CPUUtilization" in d and "total" in t]
        shortest = min((len(t["total"]) for t in processors), default=None)
        self.width = self._x if shortest is None or self._x < shortest else shortest - 1
        self.figures: list[Chart] = []
        self.sources: dict[str, dict[str, Source]] = {}
        chosen = [
            (dim, event, self.system_metrics[dim][event])
            for dim in self.filtered_dimensions
            for event in self.filtered_events
            if event in self.system_metrics[dim]
        ]
        if self._x != _DEFAULT_X:
            chosen = [(dim, event, table[-max(1, self._x) :]) for dim, event, table in chosen]
        # All charts share one x range, so that they can be read below each other.
        start = min((float(table[0, 0]) for _, _, table in chosen), default=0.0)
        end = max((float(table[-1, 0]) for _, _, table in chosen), default=1.0)
        for dim, event, points in chosen:
            self._draw(dim, event, points, start, end)

    def _columns(self) -> SystemColumns:
        found = self.system_metrics_reader.columns()
        start = round(self.starttime * 1000)
        end = 2**63 - 1 if self.endtime is None else round(self.endtime * 1000)
        return found.between(start, min(end, 2**63 - 1))

    def _draw(self, dim: str, event: str, table: Float, start: float, end: float) -> None:
        x, y = table[:, 0], table[:, 1]
        unit = self._units.get((dim, event), "")
        title = f"{dim}_{event}"
        count = self._counts.get(dim, 0) if event == "total" else 1
        mean = f"mean of {count}:" if count > 1 else "mean"
        numbers = ", ".join(
            f"{word} {format_value(float(value), unit)}"
            for word, value in ((mean, y.mean()), ("min", y.min()), ("max", y.max()))
        )
        svg = line_chart(
            [Line(event, x - start, y)],
            title=title,
            subtitle=numbers,
            unit=unit,
            x_label=f"time in s since {clock(start, True)}",
            x_start=start,
            x_range=(0.0, end - start),
            y_range=(0.0, 102.0) if "Utilization" in dim or "Memory" in title else None,
            height=215,
        )
        self.figures.append(Chart(title, svg))
        self.sources.setdefault(dim, {})[event] = Source({"x": x, "y": y})


def display_html(html: str) -> None:
    """Show HTML in the running notebook; do nothing outside of one."""
    try:
        core: Any = importlib.import_module("IPython.core.getipython")
        tools: Any = importlib.import_module("IPython.display")
    except ImportError:
        return
    if core.get_ipython() is not None:
        tools.display(tools.HTML(html))


def _page(figures: Sequence[Chart]) -> str:
    body = "".join(
        f'<div style="margin:0 0 12px">{_without_css(figure.svg)}</div>' for figure in figures
    )
    return f'<div class="smhf-charts"><style>{CHART_CSS}</style>{body}</div>'


def _without_css(svg: str) -> str:
    return svg.replace(f"<style>{CHART_CSS}</style>", "", 1)


def _stack(figures: Sequence[Chart]) -> str:
    """Put charts below each other in one SVG file."""
    parts, top = [], 0
    for figure in figures:
        match = re.search(r'width="1000" height="(\d+)"', figure.svg)
        height = int(match.group(1)) if match else 215
        inner = _without_css(figure.svg).replace('width="1000"', 'width="100%"', 1)
        parts.append(inner.replace("<svg ", f'<svg y="{top}" ', 1))
        top += height + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="smhf-chart" width="1000" height="{top}" '
        f'style="width:100%"><style>{CHART_CSS}</style>{"".join(parts)}</svg>'
    )


def _compiled(pattern: str, before: str) -> re.Pattern[str]:
    try:
        return re.compile(before + pattern)
    except re.error as error:
        raise ValueError(f"selection pattern {pattern!r} is no regular expression: {error}") from None


def _set_text(items: Sequence[str]) -> str:
    return "{" + ", ".join(map(repr, items)) + "}" if items else "set()"


def _dimension_id(stream: Stream, show_workers: bool) -> str:
    return f"{stream.dimension}-nodeid:{stream.node}" if show_workers else stream.dimension


def _merge_by_name(streams: Sequence[Stream]) -> list[Stream]:
    """Put streams of one name together (several nodes, or one name under two types)."""
    by_name: dict[str, list[Stream]] = {}
    for stream in streams:
        by_name.setdefault(stream.name, []).append(stream)
    result = []
    for name in sorted(by_name, key=natural_key):
        same = by_name[name]
        if len(same) == 1:
            result.append(same[0])
            continue
        time = np.concatenate([s.time for s in same])
        value = np.concatenate([s.value for s in same])
        order = np.argsort(time, kind="stable")
        result.append(Stream("", same[0].type, name, same[0].dimension, time[order], value[order]))
    return result


def _table(time: Int, value: Float) -> Float:
    return np.column_stack([time / 1e9, value])

