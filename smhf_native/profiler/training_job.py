"""TrainingJob: the profiler data of a job, from the notebook (smdebug's names and printed lines).

Unlike smdebug's, every wait ends: a job without a profiler, a job that ended without data, and a timeout raise
with the reason.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from smhf_native.profiler.readers import S3AlgorithmMetricsReader, S3SystemMetricsReader

__all__ = ["TrainingJob"]

_ENDED = ("Completed", "Failed", "Stopped")
_DEFAULT_TIMEOUT_S = 1800.0


class TrainingJob:
    """A training job and its profiler files.

    Parameters
    ----------
    training_job_name : str
        A job of this machine, or of SageMaker in AWS mode (``SMHF_MODE=aws``).
    region : str, optional
        AWS mode: region of the job and of its files.

    Attributes
    ----------
    name : str
    profiler_config : dict
        ``ProfilerConfig`` of the job.
    profiler_s3_output_path : str
        ``{S3OutputPath}/{job}/profiler-output``.
    system_metrics_reader, framework_metrics_reader
        None until data is there.

    Raises
    ------
    smhf_native.exceptions.JobNotFoundError
        No such local job.
    ValueError
        The job runs without a profiler.
    """

    def __init__(self, training_job_name: str, region: str | None = None) -> None:
        from smhf_native.session import resolve_mode

        self.name = training_job_name
        self.region = region
        self._mode = resolve_mode()
        self.sm_client = self._client()
        self.ds = self.describe_training_job()
        self.profiler_config: dict[str, Any] = {}
        self.profiler_s3_output_path = ""
        self.get_config_and_profiler_s3_output_path()
        self.system_metrics_reader: S3SystemMetricsReader | None = None
        self.framework_metrics_reader: S3AlgorithmMetricsReader | None = None

    def get_sm_client(self) -> Any:
        """Return the SageMaker client (local mode: an object that answers for local jobs)."""
        return self.sm_client

    def describe_training_job(self) -> dict[str, Any]:
        """Return DescribeTrainingJob."""
        found: dict[str, Any] = self.sm_client.describe_training_job(TrainingJobName=self.name)
        return found

    def get_config_and_profiler_s3_output_path(self) -> None:
        """Read the profiler configuration from the job's description and print it.

        Raises
        ------
        ValueError
            The job has none, or it is disabled.
        """
        config = self.ds.get("ProfilerConfig")
        if not config or not config.get("S3OutputPath"):
            why = "its profiler is disabled" if config else "it was started without profiler_config"
            raise ValueError(
                f"training job {self.name!r} has no profiler data: {why}; "
                "give the estimator profiler_config=ProfilerConfig(...)"
            )
        if config.get("DisableProfiler"):
            raise ValueError(f"training job {self.name!r} has no profiler data: its profiler is disabled")
        self.profiler_config = config
        self.profiler_s3_output_path = f"{config['S3OutputPath'].rstrip('/')}/{self.name}/profiler-output"
        print(f"ProfilerConfig:{self.profiler_config}")
        print(f"s3 path:{self.profiler_s3_output_path}")

    def wait_for_sys_profiling_data_to_be_available(
        self, timeout: float = _DEFAULT_TIMEOUT_S, poll: float | None = None
    ) -> None:
        """Wait until there is at least one file of system metrics.

        Parameters
        ----------
        timeout : float
            Seconds.
        poll : float, optional
            Seconds between looks; default 0.5 locally, 10 on AWS.

        Raises
        ------
        RuntimeError
            The job ended and left no system metrics.
        TimeoutError
            No file within ``timeout``.
        """
        reader = S3SystemMetricsReader(self.profiler_s3_output_path, region=self.region)
        self._wait("system", reader, timeout, poll)
        self.system_metrics_reader = reader
        print("\n\nProfiler data from system is available")

    def wait_for_framework_profiling_data_to_be_available(
        self, timeout: float = _DEFAULT_TIMEOUT_S, poll: float | None = None
    ) -> None:
        """Wait until there is at least one file of framework events; arguments and errors as above."""
        reader = S3AlgorithmMetricsReader(self.profiler_s3_output_path, region=self.region)
        self._wait("framework", reader, timeout, poll)
        self.framework_metrics_reader = reader
        latest = reader.get_timestamp_of_latest_available_file()
        human = datetime.fromtimestamp(latest / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        print(f"\n\nProfiler data from framework is available, the latest until {latest} us ({human})")

    def get_systems_metrics_reader(self) -> S3SystemMetricsReader | None:
        """Return the reader of system metrics; None before the wait."""
        return self.system_metrics_reader

    def get_framework_metrics_reader(self) -> S3AlgorithmMetricsReader | None:
        """Return the reader of framework events; None before the wait."""
        return self.framework_metrics_reader

    def _client(self) -> Any:
        if self._mode == "local":
            from smhf_native.jobs.local_client import LocalSageMakerClient

            return LocalSageMakerClient(self.region or "")
        try:
            import boto3
        except ImportError:
            from smhf_native.errors import MissingExtraError

            raise MissingExtraError.of("boto3", "aws", "TrainingJob in AWS mode") from None
        return boto3.Session(region_name=self.region).client("sagemaker")

    def _wait(
        self,
        what: str,
        reader: S3SystemMetricsReader | S3AlgorithmMetricsReader,
        timeout: float,
        poll: float | None,
    ) -> None:
        pause = poll if poll is not None else (0.5 if self._mode == "local" else 10.0)
        deadline = time.monotonic() + timeout
        last: tuple[Any, Any] | None = None
        while True:
            # Describe first: files that appear before the end are then always seen by the look after it.
            self.ds = self.describe_training_job()
            reader.refresh_event_file_list()
            if reader.get_timestamp_of_first_available_file():
                return
            status = (self.ds.get("TrainingJobStatus"), self.ds.get("SecondaryStatus"))
            if last is None:
                print(f"Profiler data from {what} not available yet")
            if status != last:
                now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
                print(f"time: {now} TrainingJobStatus:{status[0]} TrainingJobSecondaryStatus:{status[1]}")
                last = status
            if status[0] in _ENDED:
                reason = self.ds.get("FailureReason")
                raise RuntimeError(
                    f"training job {self.name!r} is {status[0]} and left no {what} metrics in "
                    f"{self.profiler_s3_output_path}" + (f"; reason: {reason}" if reason else "")
                )
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"no {what} metrics of training job {self.name!r} within {timeout:g} s "
                    f"(status {status[0]}, {status[1]}); looked in {self.profiler_s3_output_path}"
                )
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
