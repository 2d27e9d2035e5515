"""AWS mode against botocore's Stubber (payloads, order of calls) and moto (storage, identity)."""

from __future__ import annotations

import gc
from datetime import UTC, datetime

import pytest

from smhf_native.aws import payloads
from smhf_native.exceptions import CapacityError, UnexpectedStatusException

REGION = "us-west-2"
ARN = "arn:aws:sagemaker:us-west-2:123456789012:training-job/j"
ROLE = "arn:aws:iam::123456789012:role/r"


@pytest.fixture
def boto_session(peer, home, monkeypatch):
    boto3 = peer("boto3")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return boto3.Session("AKIDEXAMPLE", "secret", region_name=REGION)


@pytest.fixture
def aws(boto_session):
    """An AWS session over a stubbed sagemaker client: ``(session, stub)``."""
    from botocore.stub import Stubber

    from smhf_native.session import Session

    client = boto_session.client("sagemaker")
    with Stubber(client) as stub:
        yield Session(boto_session, sagemaker_client=client, mode="aws", default_bucket="b"), stub
    gc.collect()


def description(status, **more):
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return {
        "TrainingJobName": "j",
        "TrainingJobArn": ARN,
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/out/j/output/model.tar.gz"},
        "TrainingJobStatus": status,
        "SecondaryStatus": status if status != "InProgress" else "Training",
        "AlgorithmSpecification": {"TrainingInputMode": "File"},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge", "VolumeSizeInGB": 30},
        "OutputDataConfig": {"S3OutputPath": "s3://b/out/"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "CreationTime": now,
        "SecondaryStatusTransitions": [
            {"Status": "Starting", "StartTime": now, "StatusMessage": "Starting it"}
        ],
        **more,
    }


def test_no_region_is_refused_with_a_sentence(peer, home, monkeypatch):
    boto3 = peer("boto3")
    from smhf_native.session import Session

    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(ValueError, match="region"):
        Session(boto3.Session("x", "y"), mode="aws")


def test_fit_sends_exactly_the_payload_and_waits(aws, tmp_path, monkeypatch, capfd):
    from smhf_native.huggingface.estimator import HuggingFace

    session, stub = aws
    (tmp_path / "train.py").write_text("print(1)")
    uploads = []
    monkeypatch.setattr(
        session.aws, "upload_file", lambda path, bucket, key, *rest: uploads.append((bucket, key))
    )
    estimator = HuggingFace(
        entry_point="train.py", source_dir=str(tmp_path), role=ROLE, instance_count=1,
        instance_type="ml.p3.2xlarge", transformers_version="4.6", pytorch_version="1.7", py_version="py36",
        output_path="s3://b/out/", hyperparameters={"epochs": 1}, sagemaker_session=session,
    )  # fmt: skip
    expected = {
        "TrainingJobName": "j",
        "AlgorithmSpecification": {
            "TrainingInputMode": "File",
            "TrainingImage": (
                "763104351884.dkr.ecr.us-west-2.amazonaws.com/huggingface-pytorch-training:"
                "1.7-transformers4.6-gpu-py36-cu110-ubuntu18.04"
            ),
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "OutputDataConfig": {"S3OutputPath": "s3://b/out/"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge", "VolumeSizeInGB": 30},
        "RoleArn": ROLE,
        "InputDataConfig": payloads_input("s3://b/data"),
        "HyperParameters": {
            "epochs": "1",
            "sagemaker_submit_directory": '"s3://b/j/source/sourcedir.tar.gz"',
            "sagemaker_program": '"train.py"',
            "sagemaker_container_log_level": "20",
            "sagemaker_job_name": '"j"',
            "sagemaker_region": '"us-west-2"',
        },
    }
    stub.add_response("create_training_job", {"TrainingJobArn": ARN}, expected)
    stub.add_response("describe_training_job", description("InProgress"), {"TrainingJobName": "j"})
    stub.add_response("describe_training_job", description("Completed"), {"TrainingJobName": "j"})
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    estimator.fit("s3://b/data", job_name="j", logs=False)
    assert uploads == [("b", "j/source/sourcedir.tar.gz")]
    stub.assert_no_pending_responses()
    assert ".!" in capfd.readouterr().out
    stub.add_response("describe_training_job", description("Completed"), {"TrainingJobName": "j"})
    assert estimator.model_data == "s3://b/out/j/output/model.tar.gz"


def payloads_input(uri):
    return [
        {
            "ChannelName": "training",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": uri,
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
        }
    ]


def test_following_logs_prints_states_events_and_rules(aws, monkeypatch, capfd):
    session, stub = aws
    from botocore.stub import Stubber

    logs = session.aws._cached("logs")
    rules = [{"RuleConfigurationName": "LowGPUUtilization", "RuleEvaluationStatus": "IssuesFound"}]
    ended = description(
        "Completed",
        TrainingTimeInSeconds=637,
        BillableTimeInSeconds=637,
        ProfilerRuleEvaluationStatuses=rules,
        EnableManagedSpotTraining=True,
    )
    stub.add_response("describe_training_job", ended, {"TrainingJobName": "j"})
    with Stubber(logs) as log_stub:
        log_stub.add_response(
            "describe_log_streams",
            {"logStreams": [{"logStreamName": "j/algo-1-1"}]},
            {
                "logGroupName": "/aws/sagemaker/TrainingJobs",
                "logStreamNamePrefix": "j/",
                "orderBy": "LogStreamName",
            },
        )
        where = {
            "logGroupName": "/aws/sagemaker/TrainingJobs",
            "logStreamName": "j/algo-1-1",
            "startFromHead": True,
        }
        log_stub.add_response(
            "get_log_events",
            {"events": [{"message": "first line", "timestamp": 1}], "nextForwardToken": "t1"},
            where,
        )
        log_stub.add_response(
            "get_log_events", {"events": [], "nextForwardToken": "t1"}, {**where, "nextToken": "t1"}
        )
        session.logs_for_job("j", wait=True)
        log_stub.assert_no_pending_responses()
    assert capfd.readouterr().out.splitlines() == [
        "2026-01-02 03:04:05 Starting - Starting it",
        "LowGPUUtilization: IssuesFound",
        "first line",
        "Training seconds: 637",
        "Billable seconds: 637",
        "Managed Spot Training savings: 0.0%",
    ]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("AlgorithmError: x", UnexpectedStatusException), ("CapacityError: none left", CapacityError)],
)
def test_failed_jobs_raise(aws, reason, kind):
    session, stub = aws
    stub.add_response("describe_training_job", description("Failed", FailureReason=reason))
    with pytest.raises(kind, match=f"Error for Training job j: Failed. Reason: {reason}"):
        session.wait_for_job("j")


def test_endpoint_calls_of_the_notebook(aws, monkeypatch, capfd):
    """Spec A6: CreateModel, CreateEndpointConfig, CreateEndpoint, then DescribeEndpoint until in service."""
    session, stub = aws
    image = (
        "763104351884.dkr.ecr.us-west-2.amazonaws.com/huggingface-pytorch-inference:"
        "1.7-transformers4.6-cpu-py36-ubuntu18.04"
    )
    environment = {
        "SAGEMAKER_PROGRAM": "",
        "SAGEMAKER_SUBMIT_DIRECTORY": "",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": REGION,
    }
    stub.add_response(
        "create_model",
        {"ModelArn": "arn:aws:sagemaker:us-west-2:123456789012:model/m"},
        {
            "ModelName": "m",
            "ExecutionRoleArn": ROLE,
            "PrimaryContainer": {
                "Image": image,
                "ModelDataUrl": "s3://b/m.tar.gz",
                "Environment": environment,
            },
        },
    )
    stub.add_response(
        "create_endpoint_config",
        {"EndpointConfigArn": "arn:aws:sagemaker:us-west-2:123456789012:endpoint-config/e"},
        {
            "EndpointConfigName": "e",
            "ProductionVariants": [
                {
                    "VariantName": "AllTraffic",
                    "ModelName": "m",
                    "InitialVariantWeight": 1,
                    "InitialInstanceCount": 1,
                    "InstanceType": "ml.m5.xlarge",
                }
            ],
        },
    )
    stub.add_response(
        "create_endpoint",
        {"EndpointArn": "arn:aws:sagemaker:us-west-2:123456789012:endpoint/e"},
        {"EndpointName": "e", "EndpointConfigName": "e", "Tags": []},
    )
    now = datetime(2026, 1, 1, tzinfo=UTC)
    common = {
        "EndpointName": "e",
        "EndpointArn": "arn:aws:sagemaker:us-west-2:123456789012:endpoint/e",
        "EndpointConfigName": "e",
        "CreationTime": now,
        "LastModifiedTime": now,
    }
    for status in ("Creating", "InService"):
        stub.add_response("describe_endpoint", {**common, "EndpointStatus": status}, {"EndpointName": "e"})
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    client = session.aws
    assert client.create_model(
        model_name="m", role=ROLE, image_uri=image, model_data="s3://b/m.tar.gz", environment=environment
    ) == "m"  # fmt: skip
    client.create_endpoint("e", [payloads.production_variant("m", "ml.m5.xlarge", 1)])
    assert capfd.readouterr().out == "-!"
    stub.add_response("describe_endpoint", {**common, "EndpointStatus": "Failed", "FailureReason": "no disk"})
    with pytest.raises(UnexpectedStatusException, match="Error hosting endpoint e: Failed"):
        client.wait_for_endpoint("e")
    stub.add_response("describe_endpoint", {**common, "EndpointStatus": "InService"}, {"EndpointName": "e"})
    stub.add_response("delete_endpoint_config", {}, {"EndpointConfigName": "e"})
    stub.add_response("delete_endpoint", {}, {"EndpointName": "e"})
    client.delete_endpoint("e")
    stub.add_response("delete_model", {}, {"ModelName": "m"})
    session.delete_model("m")
    stub.assert_no_pending_responses()


def test_serverless_variant_is_valid(aws):
    session, stub = aws
    variant = payloads.production_variant("m", serverless={"MemorySizeInMB": 2048, "MaxConcurrency": 5})
    assert "InstanceType" not in variant
    arn = "arn:aws:sagemaker:us-west-2:123456789012:endpoint-config/e"
    stub.add_response("create_endpoint_config", {"EndpointConfigArn": arn})
    session.sagemaker_client.create_endpoint_config(**payloads.create_endpoint_config("e", [variant]))


def test_metric_statistics_of_the_analytics(aws):
    session, _ = aws
    from botocore.stub import Stubber

    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    with Stubber(session.aws._cached("cloudwatch")) as stub:
        stub.add_response(
            "get_metric_statistics",
            {"Datapoints": [{"Timestamp": begin, "Average": 0.5}]},
            {
                "Namespace": "/aws/sagemaker/TrainingJobs",
                "MetricName": "loss",
                "Dimensions": [{"Name": "TrainingJobName", "Value": "j"}],
                "StartTime": begin,
                "EndTime": end,
                "Period": 60,
                "Statistics": ["Average"],
            },
        )
        points = session.aws.metric_statistics("j", "loss", begin, end)
    assert points == [{"Timestamp": begin, "Average": 0.5}]


def test_identity(aws):
    session, _ = aws
    from botocore.stub import Stubber

    from smhf_native.session import get_execution_role

    sts, iam = session.aws._cached("sts"), session.aws._cached("iam")
    with Stubber(sts) as stub, Stubber(iam) as roles:
        who = {"Account": "123456789012", "UserId": "u", "Arn": "arn:aws:iam::123456789012:user/me"}
        stub.add_response("get_caller_identity", who, {})
        with pytest.raises(ValueError, match="not a role: arn:aws:iam::123456789012:user/me"):
            get_execution_role(session)
        who = {**who, "Arn": "arn:aws:sts::123456789012:assumed-role/MyRole/session"}
        stub.add_response("get_caller_identity", who, {})
        role = {"Path": "/p/", "RoleName": "MyRole", "RoleId": "R" * 16, "CreateDate": datetime.now(UTC)}
        arn = "arn:aws:iam::123456789012:role/p/MyRole"
        roles.add_response("get_role", {"Role": {**role, "Arn": arn}}, {"RoleName": "MyRole"})
        assert get_execution_role(session) == arn
        stub.add_response("get_caller_identity", who, {})
        roles.add_client_error("get_role", "AccessDenied")
        assert get_execution_role(session) == "arn:aws:iam::123456789012:role/MyRole"


@pytest.mark.parametrize("region", ["us-west-2", "us-east-1"])
def test_default_bucket(peer, home, region):
    """Created when absent, without LocationConstraint in us-east-1; the name is cached."""
    boto3 = peer("boto3")
    from botocore.stub import Stubber

    from smhf_native.session import Session

    session = Session(boto3.Session("x", "y", region_name=region), mode="aws")
    name = f"sagemaker-{region}-123456789012"
    with Stubber(session.aws._cached("sts")) as sts, Stubber(session.aws._cached("s3")) as s3:
        sts.add_response("get_caller_identity", {"Account": "123456789012"}, {})
        s3.add_client_error(
            "head_bucket", "404", expected_params={"Bucket": name, "ExpectedBucketOwner": "123456789012"}
        )
        expected = {"Bucket": name}
        if region != "us-east-1":
            expected["CreateBucketConfiguration"] = {"LocationConstraint": region}
        s3.add_response("create_bucket", {}, expected)
        assert session.default_bucket() == session.default_bucket() == name
        s3.assert_no_pending_responses()
    with Stubber(session.aws._cached("s3")) as s3:
        s3.add_client_error("head_bucket", "403")
        with pytest.raises(Exception, match="403"):
            session.aws.ensure_bucket("foreign", "123456789012")


def test_storage_round_trip_on_moto(peer, home, tmp_path, monkeypatch):
    boto3 = peer("boto3")
    moto = peer("moto")
    from smhf_native.session import Session

    with moto.mock_aws():
        session = Session(boto3.Session("x", "y", region_name=REGION), mode="aws")
        bucket = session.default_bucket()
        assert bucket == f"sagemaker-{REGION}-123456789012"
        (tmp_path / "d" / "sub").mkdir(parents=True)
        (tmp_path / "d" / "a.csv").write_text("a")
        (tmp_path / "d" / "sub" / "b.csv").write_text("b")
        assert session.upload_data(str(tmp_path / "d"), key_prefix="p") == f"s3://{bucket}/p"
        assert session.list_s3_files(bucket, "p") == ["p/a.csv", "p/sub/b.csv"]
        assert session.read_s3_file(bucket, "p/a.csv") == "a"
        written = session.download_data(str(tmp_path / "out"), bucket, "p")
        assert sorted(written) == [str(tmp_path / "out" / "a.csv"), str(tmp_path / "out" / "sub" / "b.csv")]
        session.upload_string_as_file_body("text", bucket, "q/t")
        assert session.read_s3_file(bucket, "q/t") == "text"
        with pytest.warns(UserWarning, match="nothing in bucket"):
            assert session.download_data(str(tmp_path), bucket, "none") == []
        # A key that would leave the target folder is refused.
        session.upload_string_as_file_body("evil", bucket, "p/../../evil")
        with pytest.raises(ValueError, match="would leave the folder"):
            session.download_data(str(tmp_path / "safe"), bucket, "p/")
