"""PandasFrame: profiler data as DataFrames (smdebug's names and columns).

Columns are built from arrays, not row by row.  ``timestamp`` is text in UTC; ``timestamp_us`` counts from the
start of the first file's minute, as in smdebug.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smhf_native.errors import MissingExtraError
from smhf_native.profiler.columns import FrameworkColumns, SystemColumns
from smhf_native.profiler.readers import (
    AlgorithmMetricsReader,
    LocalAlgorithmMetricsReader,
    LocalSystemMetricsReader,
    S3AlgorithmMetricsReader,
    S3SystemMetricsReader,
    SystemMetricsReader,
)

if TYPE_CHECKING:
    import pandas

__all__ = ["PandasFrame"]

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S:%f"
_LOADERS = ("DataLoaderIter", "DataLoaderWorker", "DataIterator", "DataLoaderIterInitialize")


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "pandas", "PandasFrame") from None
    return pandas


class PandasFrame:
    """System and framework metrics of a profiler folder as tables.

    Parameters
    ----------
    path : str or Path
        ``…/profiler-output`` as a folder or an ``s3://`` address.
    use_in_memory_cache, scan_interval
        Accepted; columns are always kept until a file changes.

    Attributes
    ----------
    start_time : int
        Start of the first file, epoch microseconds (0 without files).
    """

    def __init__(
        self, path: str | Path, use_in_memory_cache: bool = False, scan_interval: int = 5_000_000_000
    ) -> None:
        del use_in_memory_cache, scan_interval
        self.system_metrics_reader: SystemMetricsReader
        self.framework_metrics_reader: AlgorithmMetricsReader
        if str(path).startswith("s3://"):
            self.system_metrics_reader = S3SystemMetricsReader(str(path))
            self.framework_metrics_reader = S3AlgorithmMetricsReader(str(path))
        else:
            self.system_metrics_reader = LocalSystemMetricsReader(path)
            self.framework_metrics_reader = LocalAlgorithmMetricsReader(path)
        self.start_time = self.system_metrics_reader.get_timestamp_of_first_available_file()
        if not self.start_time:
            found = self.framework_metrics_reader.columns()
            self.start_time = int(found.start.min()) // 1000 if len(found) else 0

    def get_all_system_metrics(self, selected_system_metrics: Sequence[str] = ()) -> pandas.DataFrame:
        """Return all system metrics.

        Parameters
        ----------
        selected_system_metrics : sequence of str
            Names (``cpu0``, ``IOPS``); empty: all.

        Returns
        -------
        pandas.DataFrame
            ``timestamp, timestamp_us, value, system_metric, dimension, nodeID, type``.
        """
        self.system_metrics_reader.refresh_event_file_list()
        return self._system_frame(self.system_metrics_reader.columns(), selected_system_metrics)

    def get_all_framework_metrics(self, selected_framework_metrics: Sequence[str] = ()) -> pandas.DataFrame:
        """Return all framework metrics.

        Parameters
        ----------
        selected_framework_metrics : sequence of str
            Names of events; empty: all.

        Returns
        -------
        pandas.DataFrame
            ``start_time, end_time, start_time_us, end_time_us, tid, pid, framework_metric, step, bytes,
            process, nodeID``.
        """
        self.framework_metrics_reader.refresh_event_file_list()
        found = self.framework_metrics_reader.columns()
        return self._framework_frame(found, np.ones(len(found), bool), selected_framework_metrics)

    def get_all_dataloader_metrics(self, selected_framework_metrics: Sequence[str] = ()) -> pandas.DataFrame:
        """Return the framework metrics of data loading; columns as above."""
        frame = self.get_all_framework_metrics(selected_framework_metrics)
        return frame[frame["framework_metric"].str.startswith(_LOADERS)].reset_index(drop=True)

    def get_profiler_data_by_time(
        self,
        start_time_us: int,
        end_time_us: int,
        cache_metrics: bool = False,
        selected_framework_metrics: Sequence[str] = (),
        selected_system_metrics: Sequence[str] = (),
        get_framework_metrics: bool = True,
        get_system_metrics: bool = True,
    ) -> tuple[pandas.DataFrame, pandas.DataFrame]:
        """Return system and framework metrics of a time range, both ends inclusive.

        Parameters
        ----------
        start_time_us, end_time_us : int
            Epoch microseconds.
        selected_framework_metrics, selected_system_metrics : sequence of str
            Names; empty: all.
        get_framework_metrics, get_system_metrics : bool
            False leaves that table empty.
        """
        del cache_metrics
        start, end = start_time_us * 1000, end_time_us * 1000
        self.system_metrics_reader.refresh_event_file_list()
        self.framework_metrics_reader.refresh_event_file_list()
        system = self.system_metrics_reader.columns()
        framework = self.framework_metrics_reader.columns()
        system = system.between(start, end) if get_system_metrics else system.between(1, 0)
        keep = (framework.start >= start) & (framework.start + framework.duration <= end)
        if not get_framework_metrics:
            keep = np.zeros(len(framework), bool)
        return (
            self._system_frame(system, selected_system_metrics),
            self._framework_frame(framework, keep, selected_framework_metrics),
        )

    def get_profiler_data_by_step(
        self, start_step: int, end_step: int, cache_metrics: bool = False
    ) -> tuple[pandas.DataFrame, pandas.DataFrame]:
        """Return system and framework metrics from the start of one step to the end of another.

        Raises
        ------
        ValueError
            No event has a step number in this range.
        """
        found = self.framework_metrics_reader.columns()
        inside = (found.step >= start_step) & (found.step <= end_step)
        if not inside.any():
            raise ValueError(f"no framework event belongs to the steps {start_step} to {end_step}")
        start = int(found.start[inside].min()) // 1000
        end = -(-int((found.start + found.duration)[inside].max()) // 1000)
        return self.get_profiler_data_by_time(start, end)

    def get_framework_metrics_by_timesteps(
        self, timestep_list: Sequence[int], selected_framework_metrics: Sequence[str] = ()
    ) -> pandas.DataFrame:
        """Return the framework events that run at any of some moments (epoch microseconds)."""
        found = self.framework_metrics_reader.columns()
        keep = np.zeros(len(found), bool)
        for moment in timestep_list:
            keep |= (found.start <= moment * 1000) & (found.start + found.duration >= moment * 1000)
        return self._framework_frame(found, keep, selected_framework_metrics)

    def get_framework_metrics_by_begin_and_end_timesteps(
        self,
        begin_timestep_list: Sequence[int],
        end_timestep_list: Sequence[int],
        selected_framework_metrics: Sequence[str] = (),
    ) -> pandas.DataFrame:
        """Return the framework events that overlap any of some time ranges (epoch microseconds).

        Raises
        ------
        ValueError
            The lists differ in length.
        """
        if len(begin_timestep_list) != len(end_timestep_list):
            raise ValueError(f"{len(begin_timestep_list)} begins and {len(end_timestep_list)} ends; they pair up")
        found = self.framework_metrics_reader.columns()
        keep = np.zeros(len(found), bool)
        for begin, end in zip(begin_timestep_list, end_timestep_list, strict=True):
            keep |= (found.start <= end * 1000) & (found.start + found.duration >= begin * 1000)
        return self._framework_frame(found, keep, selected_framework_metrics)

    def _system_frame(self, found: SystemColumns, names: Sequence[str]) -> pandas.DataFrame:
        pandas = _pandas()
        word = np.array([*found.words, ""], dtype=object)
        frame = pandas.DataFrame(
            {
                "timestamp": _clock_texts(pandas, found.time),
                "timestamp_us": found.time // 1000 - self.start_time,
                "value": found.value,
                "system_metric": word[found.name],
                "dimension": word[found.dimension],
                "nodeID": word[found.node],
                "type": word[found.type],
            }
        )
        return frame[frame["system_metric"].isin(list(names))].reset_index(drop=True) if names else frame

    def _framework_frame(self, found: FrameworkColumns, keep: Any, names: Sequence[str]) -> pandas.DataFrame:
        pandas = _pandas()
        chosen = [i for i in np.flatnonzero(keep).tolist() if not names or found.name[i] in names]
        start = found.start[chosen]
        end = start + found.duration[chosen]
        return pandas.DataFrame(
            {
                "start_time": _clock_texts(pandas, start),
                "end_time": _clock_texts(pandas, end),
                "start_time_us": start // 1000 - self.start_time,
                "end_time_us": end // 1000 - self.start_time,
                "tid": [found.tid[i] for i in chosen],
                "pid": [found.pid[i] for i in chosen],
                "framework_metric": [found.name[i] for i in chosen],
                "step": found.step[chosen],
                "bytes": [_bytes(found.args[i]) for i in chosen],
                "process": [found.phase[i] for i in chosen],
                "nodeID": [found.node[i] for i in chosen],
            }
        )


def _bytes(arguments: dict[str, Any]) -> int:
    try:
        return int(arguments.get("bytes_fetched", -1))
    except (TypeError, ValueError):
        return -1


def _clock_texts(pandas: Any, time_ns: Any) -> Any:
    return pandas.to_datetime(time_ns, unit="ns").strftime(_TIME_FORMAT)
