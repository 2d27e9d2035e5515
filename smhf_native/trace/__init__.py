"""Traces: files to columns (:class:`Trace`), the machine to files (:class:`Sampler`).

Reads Chrome, Kineto (PyTorch), TensorFlow and Horovod timelines, SageMaker framework timelines and
system metrics, gzip or plain, one file, a list or a folder.  Times are exact int64 nanoseconds.
What is damaged costs itself alone and is listed in :attr:`Trace.faults`.
"""

from __future__ import annotations

from smhf_native.trace.reading import (
    Event,
    Fault,
    File,
    Row,
    Series,
    Spans,
    Trace,
    decimate,
    parse_time,
    percentiles,
)
from smhf_native.trace.writing import EventWriter, Sampler

__all__ = [
    "Event",
    "EventWriter",
    "Fault",
    "File",
    "Row",
    "Sampler",
    "Series",
    "Spans",
    "Trace",
    "decimate",
    "parse_time",
    "percentiles",
]
