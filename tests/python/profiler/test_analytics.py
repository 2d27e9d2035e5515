"""TrainingJobAnalytics: exact points of the log's matches, the SDK's columns and order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smhf_native.analytics import TrainingJobAnalytics
from smhf_native.exceptions import JobNotFoundError

T = 1783653721.25
METRICS = [
    {"MetricName": "loss", "Value": 1.5, "Timestamp": T},
    {"MetricName": "eval_loss", "Value": 0.9, "Timestamp": T + 30},
    {"MetricName": "loss", "Value": 1.25, "Timestamp": T + 10.5},
    {"MetricName": "loss", "Value": 1.125, "Timestamp": T + 61.125},
    {"MetricName": "eval_loss", "Value": 0.8, "Timestamp": T + 90.5},
    {"MetricName": "other", "Value": 7.0, "Timestamp": T + 1},
]


def rows(frame: Any) -> list[tuple[float, str, float]]:
    return list(frame.itertuples(index=False, name=None))


def test_every_point_by_definition_then_time(make_job: Callable[..., Any], peer: Any) -> None:
    peer("pandas")
    make_job(metrics=METRICS, definitions=("loss", "missing", "eval_loss"))
    analytics = TrainingJobAnalytics("job-1")
    frame = analytics.dataframe()
    assert list(frame.columns) == ["timestamp", "metric_name", "value"]
    assert rows(frame) == [
        (0.0, "loss", 1.5),
        (10.5, "loss", 1.25),
        (61.125, "loss", 1.125),
        (0.0, "eval_loss", 0.9),
        (60.5, "eval_loss", 0.8),
    ]
    assert analytics.name == "job-1" and "job-1" in repr(analytics)
    assert analytics.description()["TrainingJobStatus"] == "Completed"


def test_choices(make_job: Callable[..., Any], peer: Any) -> None:
    peer("pandas")
    make_job(metrics=METRICS)
    assert rows(TrainingJobAnalytics("job-1", metric_names=["other"]).dataframe()) == [(0.0, "other", 7.0)]
    start = datetime.fromtimestamp(T + 10, UTC)
    part = TrainingJobAnalytics("job-1", start_time=start, end_time=start + timedelta(seconds=60)).dataframe()
    assert rows(part) == [(0.0, "loss", 1.25), (50.625, "loss", 1.125), (0.0, "eval_loss", 0.9)]
    naive = TrainingJobAnalytics("job-1", ["loss"], start_time=start.replace(tzinfo=None)).dataframe()
    assert [v for _, _, v in rows(naive)] == [1.25, 1.125]
    # one average per full minute of the clock, as CloudWatch makes them
    minutes = TrainingJobAnalytics("job-1", ["loss"], period=60).dataframe()
    assert rows(minutes) == [(0.0, "loss", 1.375), (60.0, "loss", 1.125)]
    with pytest.raises(ValueError, match="period"):
        TrainingJobAnalytics("job-1", period=0)


def test_cache_and_csv(make_job: Callable[..., Any], tmp_path: Path, peer: Any) -> None:
    pandas = peer("pandas")
    record = make_job(metrics=METRICS)
    analytics = TrainingJobAnalytics("job-1")
    first = analytics.dataframe()
    record.metrics_path.write_text('{"MetricName": "loss", "Value": 3, "Timestamp": 5}\n')
    assert analytics.dataframe() is first
    assert rows(analytics.dataframe(force_refresh=True)) == [(0.0, "loss", 3.0)]
    record.metrics_path.write_text('{"MetricName": "loss", "Value": 4, "Timestamp": 5}\n{"MetricName": "lo')
    analytics.clear_cache()
    assert rows(analytics.dataframe()) == [(0.0, "loss", 4.0)]
    analytics.export_csv(tmp_path / "m.csv")
    assert rows(pandas.read_csv(tmp_path / "m.csv", index_col=0)) == [(0.0, "loss", 4.0)]


def test_nothing_there(make_job: Callable[..., Any], peer: Any, caplog: Any) -> None:
    peer("pandas")
    make_job(metrics=[])
    with caplog.at_level(logging.WARNING, "smhf_native"):
        assert TrainingJobAnalytics("job-1").dataframe().empty
    assert "'loss'" in caplog.text and "'job-1'" in caplog.text
    with pytest.raises(JobNotFoundError, match="no-such-job"):
        TrainingJobAnalytics("no-such-job")


def test_aws_mode_asks_cloudwatch_as_the_sdk_does(peer: Any) -> None:
    peer("pandas")
    boto3 = peer("boto3")
    stub = peer("botocore.stub")
    begin = datetime(2026, 7, 10, 3, 22, tzinfo=UTC)
    end = begin + timedelta(minutes=10)
    options = {"region_name": "us-west-2", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    sagemaker = boto3.client("sagemaker", **options)
    cloudwatch = boto3.client("cloudwatch", **options)
    describe = {
        "TrainingJobName": "job-9",
        "TrainingJobArn": "arn:aws:sagemaker:us-west-2:111122223333:training-job/job-9",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/m"},
        "TrainingJobStatus": "Completed",
        "SecondaryStatus": "Completed",
        "AlgorithmSpecification": {
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "loss", "Regex": "x"}, {"Name": "f1", "Regex": "y"}],
        },
        "ResourceConfig": {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 1},
        "CreationTime": begin,
        "TrainingStartTime": begin,
        "TrainingEndTime": end,
    }
    with stub.Stubber(sagemaker) as s, stub.Stubber(cloudwatch) as c:
        s.add_response("describe_training_job", describe, {"TrainingJobName": "job-9"})
        s.add_response("describe_training_job", describe, {"TrainingJobName": "job-9"})
        for name, points in (
            ("loss", [(begin + timedelta(minutes=2), 0.5), (begin, 1.5)]),  # CloudWatch does not sort
            ("f1", []),
        ):
            c.add_response(
                "get_metric_statistics",
                {"Label": name, "Datapoints": [{"Timestamp": t, "Average": v} for t, v in points]},
                {
                    "Namespace": "/aws/sagemaker/TrainingJobs",
                    "MetricName": name,
                    "Dimensions": [{"Name": "TrainingJobName", "Value": "job-9"}],
                    "StartTime": begin,
                    "EndTime": end + timedelta(minutes=1),
                    "Period": 60,
                    "Statistics": ["Average"],
                },
            )
        session = SimpleNamespace(
            mode="aws",
            sagemaker_client=sagemaker,
            boto_region_name="us-west-2",
            boto_session=SimpleNamespace(client=lambda name, region_name: cloudwatch),
        )
        frame = TrainingJobAnalytics("job-9", sagemaker_session=session).dataframe()
        s.assert_no_pending_responses()
        c.assert_no_pending_responses()
    assert rows(frame) == [(0.0, "loss", 1.5), (120.0, "loss", 0.5)]
