"""Drawing: charts as self-contained SVG text, complete without scripts.

An outer SVG holds text at fixed size and percent positions; an inner one stretches the drawing.  So a chart
fits any width, and its text stays readable at 400 pixels.  Colours come from classes, with a dark set under
``prefers-color-scheme: dark``; hovering shows ``<title>`` texts.  No ids, so that charts can share a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape

import numpy as np
from numpy.typing import NDArray

from smhf_native.profiler.columns import Float
from smhf_native.profiler.series import decimate

__all__ = [
    "CHART_CSS",
    "Line",
    "clock",
    "format_value",
    "heatmap",
    "histogram",
    "line_chart",
    "nice_ticks",
    "share_bar",
]

MAX_POINTS = 2000
_HOVER_COLUMNS = 120

_LIGHT = ("#0a66c2", "#c2410c", "#15803d", "#7c3aed", "#be185d", "#0f766e")
_DARK = ("#6cb6ff", "#fb923c", "#4ade80", "#c4b5fd", "#f9a8d4", "#5eead4")
# Heat: from the background to the strongest colour in ten steps; lightness carries the value.
_HEAT_LIGHT = (
    "#f3f6fa",
    "#dfeaf6",
    "#c6dcf1",
    "#a6caea",
    "#80b3e0",
    "#5a99d3",
    "#3a7fc2",
    "#2265a9",
    "#134b87",
    "#0a3362",
)
_HEAT_DARK = (
    "#161d27",
    "#182b40",
    "#1a3a5a",
    "#1d4b75",
    "#215d91",
    "#2b72ae",
    "#4189c6",
    "#63a3d9",
    "#8cbfe9",
    "#bddcf7",
)


def _css() -> str:
    base = (
        ".smhf-chart{display:block;width:100%;max-width:1100px;border-radius:6px;background:#fff;"
        "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
        "font-size:12px;font-variant-numeric:tabular-nums}"
        ".smhf-chart text{fill:#57606a;pointer-events:none}"
        ".smhf-chart .sc-t{fill:#1f2328;font-size:13px;font-weight:600}"
        ".smhf-chart .sc-y{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}"
        ".smhf-chart .sc-s{font-size:11px}"
        ".smhf-chart .sc-g{stroke:#d8dee4;stroke-width:1;fill:none}"
        ".smhf-chart .sc-a{stroke:#8c959f;stroke-width:1;fill:none}"
        ".smhf-chart .sc-p{fill:none;stroke-width:1.5;stroke-linejoin:round}"
        ".smhf-chart .sc-f{stroke:none;fill-opacity:.13}"
        ".smhf-chart .sc-r{stroke:none;fill-opacity:.22}"
        ".smhf-chart .sc-b{stroke:none;fill-opacity:.85}"
        ".smhf-chart .sc-m{stroke-width:1.25;stroke-dasharray:5 4;stroke:#b42318;fill:none}"
        ".smhf-chart .sc-h{fill:#57606a;fill-opacity:0}"
        ".smhf-chart .sc-h:hover{fill-opacity:.14}"
    )
    dark = (
        ".smhf-chart{background:#0d1117}"
        ".smhf-chart text{fill:#9ea7b3}"
        ".smhf-chart .sc-t{fill:#e6edf3}"
        ".smhf-chart .sc-y{stroke:#0d1117}"
        ".smhf-chart .sc-g{stroke:#2a323d}"
        ".smhf-chart .sc-a{stroke:#6e7781}"
        ".smhf-chart .sc-m{stroke:#ff8a7a}"
        ".smhf-chart .sc-h{fill:#c9d1d9}"
    )
    for index, (light, night) in enumerate(zip(_LIGHT, _DARK, strict=True), 1):
        base += f".smhf-chart .s{index}{{stroke:{light}}}.smhf-chart .f{index}{{fill:{light}}}"
        dark += f".smhf-chart .s{index}{{stroke:{night}}}.smhf-chart .f{index}{{fill:{night}}}"
    for level, (light, night) in enumerate(zip(_HEAT_LIGHT, _HEAT_DARK, strict=True)):
        base += f".smhf-chart .h{level}{{fill:{light}}}"
        dark += f".smhf-chart .h{level}{{fill:{night}}}"
    # Second to sixth lines are dashed as well: colour alone must not tell them apart.
    for index, dash in enumerate(("7 3", "2 3", "9 3 2 3", "4 4", "12 4"), 2):
        base += f".smhf-chart .s{index}{{stroke-dasharray:{dash}}}"
    return f"{base}@media (prefers-color-scheme:dark){{{dark}}}"


CHART_CSS = _css()


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes
    ----------
    label : str
        Shown in the legend and in hover texts.
    x, y : float64 ndarray (n,)
        ``x`` ascending.
    low, high : float64 ndarray (n,), optional
        Drawn as a pale band, e.g. the least and the most busy core.
    """

    label: str
    x: Float
    y: Float
    low: Float | None = field(default=None)
    high: Float | None = field(default=None)


def format_value(value: float, unit: str) -> str:
    """Write a number with its unit: ``"43.2 %"``, ``"1.95 GB/s"``, ``"12.5 ms"``.

    Parameters
    ----------
    value : float
    unit : str
        ``"B/s"``, ``"B"`` and ``"/s"`` get SI prefixes, ``"s"`` becomes ms or µs when small.
    """
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    size = abs(value)
    if unit in ("B/s", "B", "/s"):
        for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if size >= factor:
                return f"{_digits(value / factor)} {prefix}{unit}"
        return f"{_digits(value)} {unit}"
    if unit == "s" and 0 < size < 1:
        if size >= 1e-3:
            return f"{_digits(value * 1e3)} ms"
        return f"{_digits(value * 1e6)} µs"
    return f"{_digits(value)} {unit}".strip()


def _digits(value: float) -> str:
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}"
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 4
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def clock(epoch_s: float, date: bool = False) -> str:
    """Write an epoch time as UTC clock time, with the date when asked for."""
    moment = datetime.fromtimestamp(epoch_s, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC" if date else "%H:%M:%S UTC")


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers between ``low`` and ``high``, at most ``most`` of them (2 at least)."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(1, most - 1)
    power: float = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    unit: str,
    subtitle: str = "",
    x_label: str = "time in s",
    x_unit: str = "s",
    x_start: float | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    height: int = 230,
    threshold: float | None = None,
    max_points: int = MAX_POINTS,
    hover_columns: int = _HOVER_COLUMNS,
    css: bool = True,
) -> str:
    """Draw lines over time.

    Parameters
    ----------
    lines : sequence of Line
        Six at most; each is drawn with at most 2,000 points (least and greatest of each pixel column).
    title, subtitle : str
        Untrusted text; it is escaped.
    unit : str
        Of the values; it stands at the axis.
    x_label, x_unit : str
        Title of the x axis and unit of its numbers.
    x_start : float, optional
        Epoch seconds of ``x == 0``; hover texts then name the clock time.
    x_range, y_range : (float, float), optional
        Default: the data's; y with 0 when that is near.
    height : int
        Pixels.
    threshold : float, optional
        A dashed horizontal line.
    max_points : int
        Most points of one line.
    hover_columns : int
        Most columns with a hover text.
    css : bool
        False leaves the style out (a page holds :data:`CHART_CSS` once).

    Returns
    -------
    str
        ``<svg>…</svg>``.

    Raises
    ------
    ValueError
        No line, or none with a point.
    """
    lines = [line for line in lines if line.y.size and not np.isnan(line.y).all()][: len(_LIGHT)]
    if not lines:
        raise ValueError(f"chart {title!r}: no points to draw")
    x_low = x_range[0] if x_range else min(float(line.x[0]) for line in lines)
    x_high = x_range[1] if x_range else max(float(line.x[-1]) for line in lines)
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    y_low, y_high = y_range if y_range is not None else _value_range(lines)
    legend = _legend_rows([line.label for line in lines]) if len(lines) > 1 else []
    frame = _Frame(height + 20 * max(0, len(legend) - 1), len(legend))
    out = frame.open(title, _describe(title, lines, unit, x_low, x_high, x_unit), css, subtitle)
    out.extend(_legend(legend, frame.legend_y))

    y_ticks = nice_ticks(y_low, y_high, 4)
    inner: list[str] = []
    for value in y_ticks:
        inner.append(_grid(_scale(value, y_low, y_high, flip=True)))
    left = _room_for_labels(x_low, x_high)
    for index, line in enumerate(lines, 1):
        scale = (left, x_high, y_low, y_high)
        inner.extend(_line_paths(line, index, scale, fill=len(lines) == 1, most=max_points))
    if threshold is not None and y_low <= threshold <= y_high:
        level = _scale(threshold, y_low, y_high, flip=True)
        inner.append(f'<path class="sc-m" vector-effect="non-scaling-stroke" d="M0,{level}H1000"/>')
    inner.extend(_hover(lines, unit, x_unit, (left, x_low, x_high), x_start, hover_columns))
    out.append(frame.plot(inner))

    for tick in y_ticks:
        y = frame.top + float(_scale(tick, y_low, y_high, flip=True)) / 100 * frame.plot_height
        label = escape(format_value(tick, unit))
        out.append(f'<text class="sc-y" x="1.2%" y="{max(y - 4, frame.top - 2):.1f}">{label}</text>')
    ticks = nice_ticks(x_low, x_high, 7 if len(x_unit) < 3 else 5)
    out.extend(frame.x_axis(ticks, left, x_high, x_unit, x_label))
    out.append("</svg>")
    return "".join(out)


def histogram(
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    title: str,
    unit: str,
    subtitle: str = "",
    x_label: str = "",
    count_word: str = "steps",
    height: int = 230,
    css: bool = True,
) -> str:
    """Draw a histogram.

    Parameters
    ----------
    counts : sequence of int (n,)
    edges : sequence of float (n + 1,)
        Ascending.
    title, subtitle, x_label : str
        Untrusted text; it is escaped.
    unit : str
        Of the edges.
    count_word : str
        What is counted.

    Raises
    ------
    ValueError
        ``edges`` is not one longer than ``counts``, or all counts are 0.
    """
    if len(edges) != len(counts) + 1 or not counts or max(counts) <= 0:
        raise ValueError(f"chart {title!r}: {len(counts)} counts with {len(edges)} edges, or nothing counted")
    low, high, most = float(edges[0]), float(edges[-1]), float(max(counts))
    x_low = _room_for_labels(low, high)
    frame = _Frame(height, 0)
    text = f"{title}: {sum(counts)} {count_word} from {format_value(low, unit)} to {format_value(high, unit)}"
    out = frame.open(title, text, css, subtitle)
    y_ticks = [t for t in nice_ticks(0, most, 4) if t == int(t)]
    inner = [_grid(_scale(t, 0, most * 1.08, flip=True)) for t in y_ticks]
    bars, hover = [], []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        x0, x1 = float(_scale(left, x_low, high, 1000)), float(_scale(right, x_low, high, 1000))
        gap = min(1.0, (x1 - x0) * 0.08)
        if count:
            top = _scale(count, 0, most * 1.08, flip=True)
            bars.append(f"M{x0 + gap:.1f},100V{top}H{x1 - gap:.1f}V100Z")
        label = f"{format_value(left, unit)} to {format_value(right, unit)}: {count} {count_word}"
        hover.append(
            f'<rect class="sc-h" x="{x0:.1f}" y="0" width="{x1 - x0:.1f}" height="100">'
            f"<title>{escape(label)}</title></rect>"
        )
    inner.append(f'<path class="sc-b f1" d="{"".join(bars)}"/>')
    out.append(frame.plot(inner + hover))
    for tick in y_ticks:
        y = frame.top + float(_scale(tick, 0, most * 1.08, flip=True)) / 100 * frame.plot_height
        word = f" {count_word}" if tick == y_ticks[-1] else ""
        out.append(f'<text class="sc-y" x="1.2%" y="{y - 4:.1f}">{int(tick)}{escape(word)}</text>')
    out.extend(frame.x_axis(nice_ticks(low, high, 5), x_low, high, unit, x_label))
    out.append("</svg>")
    return "".join(out)


def heatmap(
    matrix: Float,
    rows: Sequence[str],
    x_low: float,
    x_high: float,
    *,
    title: str,
    unit: str = "%",
    subtitle: str = "",
    x_label: str = "time in s",
    x_unit: str = "s",
    value_range: tuple[float, float] = (0.0, 100.0),
    css: bool = True,
) -> str:
    """Draw one row per core or GPU over time, darker (in the dark: lighter) meaning busier.

    Parameters
    ----------
    matrix : float64 ndarray (rows, columns)
        Means of equal spans of time; NaN is left empty.
    rows : sequence of str
        Names of the rows.
    x_low, x_high : float
        What the first and the last edge of the columns stand for.

    Raises
    ------
    ValueError
        The matrix is empty or its rows do not match the names.
    """
    if matrix.ndim != 2 or matrix.size == 0 or matrix.shape[0] != len(rows):
        raise ValueError(f"chart {title!r}: matrix of shape {matrix.shape} for {len(rows)} rows")
    count, width = matrix.shape
    row_height = 18 if count <= 16 else 10 if count <= 48 else 6
    frame = _Frame(122 + row_height * count, 1)
    low, high = value_range
    mean = float(np.nanmean(matrix)) if not np.isnan(matrix).all() else 0.0
    out = frame.open(title, f"{title}: {count} rows, mean {format_value(mean, unit)}", css, subtitle)
    level = np.clip(np.floor((matrix - low) / (high - low) * 10), 0, 9)
    paths: list[list[str]] = [[] for _ in range(10)]
    step = 1000 / width
    for row in range(count):
        y0, y1 = 100 * row / count, 100 * (row + 1) / count
        column = 0
        while column < width:
            here = level[row, column]
            end = column + 1
            while end < width and level[row, end] == here:
                end += 1
            if not math.isnan(here):
                x0, x1 = _n(column * step), _n(end * step)
                paths[int(here)].append(f"M{x0},{_n(y0)}H{x1}V{_n(y1)}H{x0}Z")
            column = end
    inner = [f'<path class="h{i}" d="{"".join(d)}"/>' for i, d in enumerate(paths) if d]
    for row, name in enumerate(rows):
        values = matrix[row][~np.isnan(matrix[row])]
        if values.size:
            mean_text, max_text = (format_value(float(v), unit) for v in (values.mean(), values.max()))
            text = escape(f"{name}: mean {mean_text}, max {max_text}")
            inner.append(
                f'<rect class="sc-h" x="0" y="{_n(100 * row / count)}" width="1000" '
                f'height="{_n(100 / count)}"><title>{text}</title></rect>'
            )
    out.append(frame.plot(inner))
    every = 1 if row_height >= 18 else max(1, count // 8)
    for row in range(0, count, every):
        y = frame.top + (row + 0.5) * row_height + 4
        out.append(f'<text class="sc-t sc-y sc-s" x="1.2%" y="{y:.1f}">{escape(rows[row])}</text>')
    y = frame.legend_y
    out.append(f'<text x="1%" y="{y}">{escape(format_value(low, unit))}</text>')
    for i in range(10):
        x = 40 + 12 * i
        out.append(f'<rect class="h{i}" x="{x + 10}" y="{y - 9}" width="12" height="10"/>')
    out.append(f'<text x="178" y="{y}">{escape(format_value(high, unit))}</text>')
    out.extend(frame.x_axis(nice_ticks(x_low, x_high, 7), x_low, x_high, x_unit, x_label))
    out.append("</svg>")
    return "".join(out)


def share_bar(
    parts: Sequence[tuple[str, float]],
    *,
    title: str,
    unit: str = "s",
    x_label: str = "time in s",
    css: bool = True,
) -> str:
    """Draw the parts of a whole as one horizontal bar.

    Parameters
    ----------
    parts : sequence of (str, float)
        Names and sizes (0 or more), six at most.

    Raises
    ------
    ValueError
        The sizes add up to 0.
    """
    whole = sum(size for _, size in parts)
    if whole <= 0:
        raise ValueError(f"chart {title!r}: parts add up to {whole}")
    labels = [f"{name} {format_value(size, unit)} ({100 * size / whole:.0f} %)" for name, size in parts]
    legend = _legend_rows(labels)
    frame = _Frame(104 + 20 * len(legend), len(legend), subtitle=False)
    out = frame.open(title, f"{title}: {', '.join(labels)}", css, "")
    out.extend(_legend(legend, frame.legend_y, mark="■"))
    inner, left = [], 0.0
    for index, (label, (_, size)) in enumerate(zip(labels, parts, strict=True), 1):
        right = left + 1000 * size / whole
        inner.append(
            f'<path class="sc-b f{index}" d="M{_n(left)},0H{_n(right)}V100H{_n(left)}Z">'
            f"<title>{escape(label)}</title></path>"
        )
        left = right
    out.append(frame.plot(inner))
    out.extend(frame.x_axis(nice_ticks(0, whole, 7), 0, whole, unit, x_label))
    out.append("</svg>")
    return "".join(out)


# Parts.


class _Frame:
    """Where things stand in a chart of a given height."""

    def __init__(self, height: int, legend_rows: int, subtitle: bool = True) -> None:
        self.height = height
        self.legend_y = 56 if subtitle else 38
        self.top = self.legend_y + 20 * legend_rows - (10 if not subtitle else 0)
        self.plot_height = height - self.top - 42

    def open(self, title: str, description: str, css: bool, subtitle: str) -> list[str]:
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="smhf-chart" width="1000" height="{self.height}" '
            f'style="width:100%" role="img" aria-label="{escape(description)}">',
            f"<title>{escape(description)}</title>",
        ]
        if css:
            out.append(f"<style>{CHART_CSS}</style>")
        out.append(f'<text class="sc-t" x="1%" y="18">{escape(title)}</text>')
        if subtitle:
            out.append(f'<text x="1%" y="36">{escape(subtitle)}</text>')
        return out

    def plot(self, inner: Sequence[str]) -> str:
        return (
            f'<svg x="1%" y="{self.top}" width="98%" height="{self.plot_height}" viewBox="0 0 1000 100" '
            f'preserveAspectRatio="none">{"".join(inner)}</svg>'
        )

    def x_axis(self, ticks: Sequence[float], low: float, high: float, unit: str, label: str) -> list[str]:
        bottom = self.top + self.plot_height
        out = [
            f'<line class="sc-a" x1="1%" x2="99%" y1="{bottom}" y2="{bottom}"/>',
        ]
        for tick in ticks:
            share = (tick - low) / (high - low)
            anchor = "start" if share < 0.06 else "end" if share > 0.94 else "middle"
            x = f"{1 + 98 * share:.2f}%"
            out.append(f'<line class="sc-a" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            text = escape(f"{_plain(tick)} {unit}".strip())
            out.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="{anchor}">{text}</text>')
        out.append(f'<text x="99%" y="{bottom + 34}" text-anchor="end">{escape(label)}</text>')
        return out


def _room_for_labels(low: float, high: float) -> float:
    """Where the x axis starts, so that the labels of the y axis do not lie on the data."""
    return low - 0.09 * (high - low)


def _plain(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"


def _n(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _scale(value: float, low: float, high: float, size: float = 100, flip: bool = False) -> str:
    share = (value - low) / (high - low)
    return _n(size * (1 - share) if flip else size * share)


def _grid(y: str) -> str:
    return f'<path class="sc-g" vector-effect="non-scaling-stroke" d="M0,{y}H1000"/>'


def _value_range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [line.y[~np.isnan(line.y)] for line in lines]
    values += [edge[~np.isnan(edge)] for line in lines for edge in (line.low, line.high) if edge is not None]
    low = min(float(v.min()) for v in values if v.size)
    high = max(float(v.max()) for v in values if v.size)
    if 0 <= low < 0.6 * high:
        low = 0.0
    if high <= low:
        pad = abs(high) * 0.1 or 1.0
        return (0.0, high + pad) if low >= 0 else (low - pad, high + pad)
    return low, high + 0.06 * (high - low)


def _points(x: Float, y: Float, scale: _Scale) -> list[str]:
    x_low, x_high, y_low, y_high = scale
    px = np.clip((x - x_low) / (x_high - x_low), 0, 1) * 1000
    py = np.clip(1 - (y - y_low) / (y_high - y_low), -0.02, 1.02) * 100
    return [f"{_n(a)},{_n(b)}" for a, b in zip(px.tolist(), py.tolist(), strict=True)]


_Scale = tuple[float, float, float, float]


def _line_paths(line: Line, index: int, scale: _Scale, fill: bool, most: int) -> list[str]:
    chosen = decimate(line.x, line.y, most)
    points = _points(line.x[chosen], line.y[chosen], scale)
    out = []
    if line.low is not None and line.high is not None:
        out.append(_band_path(line, index, scale))
    elif fill and len(points) > 1:
        start, end = points[0].partition(",")[0], points[-1].partition(",")[0]
        out.append(f'<path class="sc-f f{index}" d="M{start},100L{"L".join(points)}L{end},100Z"/>')
    d = "M" + "L".join(points) if len(points) > 1 else f"M{points[0]}h0.01"
    cap = ' stroke-linecap="round" style="stroke-width:7px"' if len(points) == 1 else ""
    out.append(
        f'<path class="sc-p s{index}" vector-effect="non-scaling-stroke" '
        f'data-points="{len(points)}"{cap} d="{d}"/>'
    )
    return out


def _band_path(line: Line, index: int, scale: _Scale) -> str:
    """Envelope: the least of ``low`` and the greatest of ``high`` in at most 300 spans."""
    assert line.low is not None and line.high is not None
    groups = np.array_split(np.arange(line.x.size), min(300, line.x.size))
    middle = np.array([line.x[g].mean() for g in groups])
    low = np.array([np.nanmin(line.low[g]) for g in groups])
    high = np.array([np.nanmax(line.high[g]) for g in groups])
    upper = _points(middle, high, scale)
    lower = _points(middle, low, scale)[::-1]
    return f'<path class="sc-r f{index}" d="M{"L".join(upper + lower)}Z"/>'


def _hover(
    lines: Sequence[Line],
    unit: str,
    x_unit: str,
    span: tuple[float, float, float],
    x_start: float | None,
    most_columns: int,
) -> list[str]:
    """Transparent columns whose titles give the numbers of a span (left end of the plot, first x, last x)."""
    left, x_low, x_high = span
    most = max(line.x.size for line in lines)
    columns = max(1, min(most_columns, most))
    edges = np.linspace(x_low, x_high, columns + 1)
    out = []
    spans: list[tuple[Line, NDArray[np.intp]]] = [
        (line, np.append(np.searchsorted(line.x, edges[:-1], side="left"), line.x.size)) for line in lines
    ]
    start = float(_scale(x_low, left, x_high, 1000))
    width = (1000 - start) / columns
    for column in range(columns):
        texts = []
        for line, place in spans:
            piece = line.y[place[column] : place[column + 1]]
            piece = piece[~np.isnan(piece)]
            if not piece.size:
                continue
            if piece.size == 1 or piece.min() == piece.max():
                numbers = format_value(float(piece[0]), unit)
            else:
                numbers = ", ".join(
                    f"{word} {format_value(float(number), unit)}"
                    for word, number in (("mean", piece.mean()), ("min", piece.min()), ("max", piece.max()))
                )
            texts.append(f"{line.label}: {numbers}")
        if not texts:
            continue
        middle = float(edges[column] + edges[column + 1]) / 2
        when = f"{_digits(middle)} {x_unit}".strip()
        if x_start is not None:
            when += f" ({clock(x_start + middle)})"
        title = escape("\n".join([when, *texts]))
        # The first column also covers the room of the labels: no place of the drawing is mute.
        x = start + column * width if column else 0.0
        out.append(
            f'<rect class="sc-h" x="{_n(x)}" y="0" width="{_n(start + (column + 1) * width - x)}" height="100">'
            f"<title>{title}</title></rect>"
        )
    return out


def _legend_rows(labels: Sequence[str], most: int = 52) -> list[list[tuple[int, str]]]:
    """Spread numbered labels over rows that fit a narrow page."""
    rows: list[list[tuple[int, str]]] = []
    used = most + 1
    for index, label in enumerate(labels, 1):
        if used + len(label) + 5 > most:
            rows.append([])
            used = 0
        rows[-1].append((index, label))
        used += len(label) + 5
    return rows


def _legend(rows: Sequence[Sequence[tuple[int, str]]], y: int, mark: str = "▬") -> list[str]:
    out = []
    for number, row in enumerate(rows):
        spans = []
        for place, (index, label) in enumerate(row):
            shift = ' dx="14"' if place else ""
            spans.append(f'<tspan class="f{index}"{shift}>{mark}</tspan><tspan> {escape(label)}</tspan>')
        out.append(f'<text x="1%" y="{y + 20 * number}">{"".join(spans)}</text>')
    return out


def _describe(title: str, lines: Sequence[Line], unit: str, x_low: float, x_high: float, x_unit: str) -> str:
    parts = []
    for line in lines:
        good = line.y[~np.isnan(line.y)]
        parts.append(
            f"{line.label}: mean {format_value(float(good.mean()), unit)}, "
            f"min {format_value(float(good.min()), unit)}, max {format_value(float(good.max()), unit)}, "
            f"{good.size} points"
        )
    return f"{title} over {format_value(x_high - x_low, '')} {x_unit}. {'; '.join(parts)}."
