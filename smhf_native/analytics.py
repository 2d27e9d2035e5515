"""TrainingJobAnalytics: the metrics of a training job as a table (SDK v2 names and columns).

In local mode every value that the job's metric definitions matched is there, at its exact time.  In AWS mode
the numbers come from CloudWatch, which keeps one average per minute (spec A5).
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smhf_native.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas

__all__ = ["AnalyticsMetricsBase", "METRICS_PERIOD_DEFAULT", "TrainingJobAnalytics"]

METRICS_PERIOD_DEFAULT = 60  # seconds; CloudWatch's finest period

_log = logging.getLogger(__name__)


class AnalyticsMetricsBase:
    """What every table of metrics can do: build itself once, be cleared, be written as CSV."""

    def __init__(self) -> None:
        self._dataframe: pandas.DataFrame | None = None
        self.clear_cache()

    def clear_cache(self) -> None:
        """Forget what was read; the next ``dataframe()`` reads again."""
        self._dataframe = None

    def dataframe(self, force_refresh: bool = False) -> pandas.DataFrame:
        """Return the table.

        Parameters
        ----------
        force_refresh : bool
            Read again even if a table is there.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingExtraError
            pandas is not installed.
        """
        if force_refresh:
            self.clear_cache()
        if self._dataframe is None:
            self._dataframe = self._fetch_dataframe()
        return self._dataframe

    def export_csv(self, filename: str | Path) -> None:
        """Write the table as CSV (with the index as first column, as the SDK does)."""
        self.dataframe().to_csv(filename)

    def _fetch_dataframe(self) -> pandas.DataFrame:
        raise NotImplementedError


class TrainingJobAnalytics(AnalyticsMetricsBase):
    """Metrics of one training job.

    Parameters
    ----------
    training_job_name : str
        A job of this machine, or of SageMaker in AWS mode.
    metric_names : iterable of str, optional
        Default: the job's metric definitions, in their order.
    sagemaker_session : smhf_native.session.Session, optional
        Decides the mode; default: ``SMHF_MODE``, else local.
    start_time, end_time : datetime or float, optional
        Keep points of this time range only (both inclusive; naive times are UTC, numbers are epoch seconds).
    period : int, optional
        Seconds.  Local mode: one average per full period (as CloudWatch makes them); default: every point.
        AWS mode: default 60.

    Raises
    ------
    smhf_native.exceptions.JobNotFoundError
        No local job has this name.
    KeyError
        AWS mode: the job has no metric definitions.
    """

    CLOUDWATCH_NAMESPACE = "/aws/sagemaker/TrainingJobs"

    def __init__(
        self,
        training_job_name: str,
        metric_names: Iterable[str] | None = None,
        sagemaker_session: Any = None,
        start_time: datetime | float | None = None,
        end_time: datetime | float | None = None,
        period: int | None = None,
    ) -> None:
        from smhf_native.session import resolve_mode

        self._training_job_name = training_job_name
        self._mode: str = sagemaker_session.mode if sagemaker_session is not None else resolve_mode()
        self._session = sagemaker_session
        self._start_time = start_time
        self._end_time = end_time
        if period is not None and period <= 0:
            raise ValueError(f"period is {period!r}; expected seconds above 0")
        self._period = period
        self._metric_names = list(metric_names) if metric_names else self._names_of_job()
        super().__init__()

    @property
    def name(self) -> str:
        """Name of the training job."""
        return self._training_job_name

    def __repr__(self) -> str:
        return f"<smhf_native.TrainingJobAnalytics for {self.name}>"

    def description(self, force_refresh: bool = False) -> dict[str, Any]:
        """Return DescribeTrainingJob of the job (always read anew; the argument is the SDK's)."""
        return self._describe()

    def clear_cache(self) -> None:
        """Forget the table and its columns."""
        super().clear_cache()
        self._data: OrderedDict[str, list[Any]] = OrderedDict(
            (column, []) for column in ("timestamp", "metric_name", "value")
        )

    # Both modes

    def _describe(self) -> dict[str, Any]:
        if self._mode == "local":
            from smhf_native.jobs.records import JobRecord

            return JobRecord.load(self.name).describe()
        found: dict[str, Any] = self._aws_session().sagemaker_client.describe_training_job(
            TrainingJobName=self.name
        )
        return found

    def _names_of_job(self) -> list[str]:
        if self._mode == "local":
            from smhf_native.jobs.records import JobRecord

            specification = JobRecord.load(self.name).request().get("AlgorithmSpecification", {})
            return [item["Name"] for item in specification.get("MetricDefinitions", [])]
        return [item["Name"] for item in self._describe()["AlgorithmSpecification"]["MetricDefinitions"]]

    def _fetch_dataframe(self) -> pandas.DataFrame:
        try:
            import pandas
        except ImportError:
            raise MissingExtraError.of("pandas", "pandas", "TrainingJobAnalytics.dataframe()") from None
        self.clear_cache()
        points = self._local_points() if self._mode == "local" else self._aws_points()
        for metric in self._metric_names:
            series = points.get(metric, [])
            if not series:
                _log.warning("no values of metric %r in training job %r", metric, self.name)
                continue
            first = series[0][0]
            for moment, value in series:
                self._data["timestamp"].append(moment - first)
                self._data["metric_name"].append(metric)
                self._data["value"].append(value)
        if not self._data["timestamp"]:
            return pandas.DataFrame()
        return pandas.DataFrame(self._data)

    # Local

    def _local_points(self) -> dict[str, list[tuple[float, float]]]:
        from smhf_native.jobs.records import JobRecord

        start = -math.inf if self._start_time is None else _epoch(self._start_time)
        end = math.inf if self._end_time is None else _epoch(self._end_time)
        points: dict[str, list[tuple[float, float]]] = {}
        for item in JobRecord.load(self.name).metrics():
            moment = float(item["Timestamp"])
            if start <= moment <= end:
                points.setdefault(item["MetricName"], []).append((moment, float(item["Value"])))
        for series in points.values():
            series.sort(key=lambda point: point[0])  # stable: equal times stay in log order
        if self._period is not None:
            points = {metric: _averages(series, self._period) for metric, series in points.items()}
        return points

    # AWS

    def _aws_session(self) -> Any:
        if self._session is None:
            from smhf_native.session import Session

            self._session = Session(mode="aws")
        return self._session

    def _aws_points(self) -> dict[str, list[tuple[float, float]]]:
        session = self._aws_session()
        cloudwatch = session.boto_session.client("cloudwatch", region_name=session.boto_region_name)
        description = self._describe()
        start = self._start_time or description["TrainingStartTime"]
        end = self._end_time or (
            description.get("TrainingEndTime", datetime.now(UTC)) + timedelta(minutes=1)
        )
        points: dict[str, list[tuple[float, float]]] = {}
        for metric in self._metric_names:
            answer = cloudwatch.get_metric_statistics(
                Namespace=self.CLOUDWATCH_NAMESPACE,
                MetricName=metric,
                Dimensions=[{"Name": "TrainingJobName", "Value": self.name}],
                StartTime=start,
                EndTime=end,
                Period=self._period or METRICS_PERIOD_DEFAULT,
                Statistics=["Average"],
            )
            series = [(_epoch(item["Timestamp"]), float(item["Average"])) for item in answer["Datapoints"]]
            points[metric] = sorted(series)
        return points


def _epoch(moment: datetime | float) -> float:
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)


def _averages(series: list[tuple[float, float]], period: int) -> list[tuple[float, float]]:
    """Average points per full period of the clock; each stands at the period's start."""
    sums: dict[int, list[float]] = {}
    for moment, value in series:
        sums.setdefault(math.floor(moment / period), []).append(value)
    return [(float(key * period), math.fsum(v) / len(v)) for key, v in sorted(sums.items())]
