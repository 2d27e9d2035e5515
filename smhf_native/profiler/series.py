"""Arithmetic on time series: ticks, means over cores, decimation, statistics.  NumPy arrays in and out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smhf_native.profiler.columns import Float, Int, Stream

__all__ = ["TICK_NS", "decimate", "five_numbers", "mean_stream", "tick_matrix", "usage_row"]

# Rows that lie within 20 ms of each other belong to one snapshot (spec D1: "events within 0.02 s").
TICK_NS = 20_000_000


def tick_matrix(streams: Sequence[Stream]) -> tuple[Int, Float]:
    """Align streams that were sampled together.

    Samplers stamp each row on its own and may miss one, so position alone is not enough.  Streams of equal
    length whose rows at each position lie closer together than half the sampling interval are paired by
    position (what smdebug does).  Others are paired by time: a tick ends where a gap of more than half the
    sampling interval (20 ms when that is unknown) follows.

    Parameters
    ----------
    streams : sequence of Stream
        Each in time order.

    Returns
    -------
    time : int64 ndarray (t,)
        Mean time of each tick's rows, nanoseconds.
    value : float64 ndarray (t, len(streams))
        NaN where a stream has no row in a tick; the last row wins where it has two.
    """
    streams = [s for s in streams if s.time.size]
    if not streams:
        return np.empty(0, np.int64), np.empty((0, 0))
    gaps = [int(np.median(np.diff(s.time))) for s in streams if s.time.size > 1]
    interval = min(gaps) if gaps else 0
    half = interval // 2 if interval > 0 else TICK_NS
    sizes = {int(s.time.size) for s in streams}
    if len(sizes) == 1:
        times = np.stack([s.time for s in streams], axis=1)
        spread = times.max(axis=1) - times.min(axis=1)
        if int(spread.max()) <= half or len(streams) == 1:
            base = times[:, 0]
            mean = base + np.rint((times - base[:, None]).mean(axis=1)).astype(np.int64)
            return mean, np.stack([s.value for s in streams], axis=1)
    merged = np.concatenate([s.time for s in streams])
    which = np.concatenate([np.full(s.time.size, i) for i, s in enumerate(streams)])
    value = np.concatenate([s.value for s in streams])
    order = np.argsort(merged, kind="stable")
    merged, which, value = merged[order], which[order], value[order]
    tick = np.concatenate([[0], np.cumsum(np.diff(merged) > half)])
    count = int(tick[-1]) + 1
    matrix = np.full((count, len(streams)), np.nan)
    matrix[tick, which] = value
    start = merged[np.searchsorted(tick, np.arange(count))]
    offset = np.bincount(tick, weights=(merged - start[tick]).astype(np.float64), minlength=count)
    rows = np.bincount(tick, minlength=count)
    return start + np.rint(offset / rows).astype(np.int64), matrix


def mean_stream(streams: Sequence[Stream]) -> tuple[Int, Float]:
    """Return the mean over streams per tick (smdebug calls it ``total``).

    Returns
    -------
    time : int64 ndarray (t,)
        Nanoseconds.
    value : float64 ndarray (t,)
    """
    time, matrix = tick_matrix(streams)
    if matrix.size == 0:
        return time, np.empty(0)
    present = ~np.isnan(matrix)
    total = np.where(present, matrix, 0.0).sum(axis=1)
    count = present.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return time, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def decimate(x: Float, y: Float, limit: int = 2000) -> NDArray[np.intp]:
    """Choose the points to draw: least and greatest of each of ``limit // 2`` equal pieces of the x range.

    Parameters
    ----------
    x : float64 ndarray (n,)
        Ascending.
    y : float64 ndarray (n,)
        NaN is left out.
    limit : int
        Most points to return; all of them are kept when there are no more.

    Returns
    -------
    ndarray of intp (m,), m <= limit
        Indices, ascending; the first and the last point are among them.
    """
    good = np.flatnonzero(~np.isnan(y))
    if good.size <= limit:
        return good
    xs, ys = x[good], y[good]
    buckets = max(1, limit // 2 - 1)
    span = xs[-1] - xs[0]
    place = np.zeros(xs.size, np.intp)
    if span > 0:
        place = np.minimum(((xs - xs[0]) / span * buckets).astype(np.intp), buckets - 1)
    order = np.lexsort((ys, place))
    first = np.searchsorted(place[order], np.arange(buckets), side="left")
    last = np.searchsorted(place[order], np.arange(buckets), side="right") - 1
    filled = last >= first
    chosen = np.concatenate([order[first[filled]], order[last[filled]], [0, xs.size - 1]])
    result: NDArray[np.intp] = good[np.unique(chosen)]
    return result


def usage_row(value: Float) -> dict[str, float]:
    """Return max, p99, p95, p50 and min, rounded to 2 decimals, as in the report's usage table.

    Percentiles are linear between neighbours (NumPy's default).  Empty input gives zeros.
    """
    value = value[~np.isnan(value)]
    if value.size == 0:
        return {"max": 0.0, "p99": 0.0, "p95": 0.0, "p50": 0.0, "min": 0.0}
    p99, p95, p50 = np.percentile(value, [99, 95, 50])
    numbers = {"max": value.max(), "p99": p99, "p95": p95, "p50": p50, "min": value.min()}
    return {key: round(float(number), 2) for key, number in numbers.items()}


def five_numbers(value: Float) -> dict[str, float]:
    """Return p25, p50, p75, p95 and Tukey's fences, clipped to the data.

    Returns
    -------
    dict
        ``p25, p50, p75, p95, upper, lower``; ``upper`` = min(p75 + 1.5 IQR, max), ``lower`` likewise.
    """
    p25, p50, p75, p95 = (float(p) for p in np.percentile(value, [25, 50, 75, 95]))
    spread = 1.5 * (p75 - p25)
    return {
        "p25": p25,
        "p50": p50,
        "p75": p75,
        "p95": p95,
        "upper": min(p75 + spread, float(value.max())),
        "lower": max(p25 - spread, float(value.min())),
    }
