"""FrameworkProfile: the part of a profiler configuration that concerns the training framework."""

from __future__ import annotations

from smhf_native.debugger.metrics_config import (
    DataloaderProfilingConfig,
    DetailedProfilingConfig,
    HorovodProfilingConfig,
    MetricsConfigBase,
    PythonProfilingConfig,
    SMDataParallelProfilingConfig,
)

__all__ = ["FrameworkProfile"]

_ALL_KINDS: tuple[type[MetricsConfigBase], ...] = (
    DetailedProfilingConfig,
    DataloaderProfilingConfig,
    PythonProfilingConfig,
    HorovodProfilingConfig,
    SMDataParallelProfilingConfig,
)


class FrameworkProfile:
    """Which framework metrics to collect, and how their files are rotated.

    Three ways, the first that applies wins: configurations given one by one (only those are collected);
    a step or time range (all five kinds use it); nothing (all five kinds with their default steps).

    Parameters
    ----------
    local_path : str
        Where the container writes.
    file_max_size : int
        Bytes after which a file is closed.
    file_close_interval : float
        Seconds after which a file is closed.
    file_open_fail_threshold : int
        Failed attempts after which the writer gives up.
    detailed_profiling_config, dataloader_profiling_config, python_profiling_config : optional
        One kind of metrics each, with the class of the same name.
    horovod_profiling_config, smdataparallel_profiling_config : optional
        Likewise.
    start_step, num_steps, start_unix_time, duration : optional
        A range for all kinds.  ``num_steps`` alone starts at step 0.

    Attributes
    ----------
    profiling_parameters : dict of str to str
        ``ProfilerConfig.ProfilingParameters`` of CreateTrainingJob.

    Raises
    ------
    AssertionError
        A value of the wrong type or range (as in SDK v2).
    """

    def __init__(
        self,
        local_path: str = "/opt/ml/output/profiler",
        file_max_size: int = 10485760,
        file_close_interval: float = 60,
        file_open_fail_threshold: int = 50,
        detailed_profiling_config: DetailedProfilingConfig | None = None,
        dataloader_profiling_config: DataloaderProfilingConfig | None = None,
        python_profiling_config: PythonProfilingConfig | None = None,
        horovod_profiling_config: HorovodProfilingConfig | None = None,
        smdataparallel_profiling_config: SMDataParallelProfilingConfig | None = None,
        start_step: int | None = None,
        num_steps: int | None = None,
        start_unix_time: int | None = None,
        duration: float | None = None,
    ) -> None:
        assert isinstance(local_path, str), f"local_path must be a str, not {local_path!r}"
        assert isinstance(file_max_size, int) and file_max_size > 0, (
            f"file_max_size must be an integer above 0 (bytes), not {file_max_size!r}"
        )
        assert isinstance(file_close_interval, (int, float)) and file_close_interval > 0, (
            f"file_close_interval must be a number above 0 (seconds), not {file_close_interval!r}"
        )
        assert isinstance(file_open_fail_threshold, int) and file_open_fail_threshold > 0, (
            f"file_open_fail_threshold must be an integer above 0, not {file_open_fail_threshold!r}"
        )
        self.profiling_parameters: dict[str, str] = {
            "LocalPath": local_path,
            "RotateMaxFileSizeInBytes": str(file_max_size),
            "RotateFileCloseIntervalInSeconds": str(file_close_interval),
            "FileOpenFailThreshold": str(file_open_fail_threshold),
        }
        chosen: list[MetricsConfigBase] = [
            config
            for config in (
                detailed_profiling_config,
                dataloader_profiling_config,
                python_profiling_config,
                horovod_profiling_config,
                smdataparallel_profiling_config,
            )
            if config is not None
        ]
        if not chosen:
            if start_step is num_steps is start_unix_time is duration is None:
                chosen = [kind(profile_default_steps=True) for kind in _ALL_KINDS]
            else:
                chosen = [kind(start_step, num_steps, start_unix_time, duration) for kind in _ALL_KINDS]
        for config in chosen:
            self.profiling_parameters[config.name] = config.to_json_string()
