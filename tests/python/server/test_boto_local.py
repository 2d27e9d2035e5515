"""boto3's sagemaker-runtime client in local mode, and the payloads of AWS mode under Stubber."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from smhf_native import boto
from smhf_native.server import Server

boto3 = pytest.importorskip("boto3")

LABELS = ["LABEL_0", "LABEL_1"]


@pytest.fixture
def hooked(monkeypatch, tmp_path):
    """A home of its own, no AWS settings at all, and the hook installed."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SMHF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("SMHF_MODE", raising=False)
    boto.install()
    yield tmp_path
    boto.uninstall()


def up(name, score):
    """An endpoint of this process under ``name`` whose score tells it apart."""
    from smhf_native import endpoints

    server = Server()
    server.add_function(name, lambda rows: [[score, 0.0]] * len(rows), LABELS)
    endpoints.register(endpoints.EndpointRecord.of_this_process(name, server.url, server.port, "test"))
    return server


@pytest.fixture
def endpoint(hooked):
    from smhf_native import endpoints

    server = up("one", 0.5)
    yield server
    endpoints.forget("one")
    server.stop()


def invoke(client, name="one", body=None):
    data = json.dumps(body or {"inputs": ["text"]}).encode()
    answer = client.invoke_endpoint(EndpointName=name, Body=data, ContentType="application/json")
    return json.loads(answer["Body"].read())[0]["score"]


def test_nothing_configured(endpoint):
    before = dict(os.environ)
    assert invoke(boto3.session.Session().client("sagemaker-runtime")) == 0.5
    assert dict(os.environ) == before


def test_proxy_in_the_environment(endpoint, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = boto3.session.Session().client("sagemaker-runtime")
    assert invoke(client) == 0.5
    # a client of another service still has the caller's proxy
    other = boto3.session.Session(region_name="us-east-1").client(
        "s3", aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert other._endpoint.http_session._proxy_config.proxy_url_for("http://example.test/").startswith(
        "http://127"
    )


def test_shared_profile_present(endpoint):
    with open(os.environ["AWS_CONFIG_FILE"], "w", encoding="utf-8") as file:
        file.write("[default]\nregion = eu-west-3\nuse_fips_endpoint = true\n")
    with open(os.environ["AWS_SHARED_CREDENTIALS_FILE"], "w", encoding="utf-8") as file:
        file.write("[default]\naws_access_key_id = REALKEY\naws_secret_access_key = canary-secret\n")
    client = boto3.session.Session().client("sagemaker-runtime")
    assert client.meta.region_name == "eu-west-3"
    seen = []
    client.meta.events.register("before-send", lambda request, **_: seen.append(dict(request.headers)))
    assert invoke(client) == 0.5
    assert "REALKEY" not in str(seen)  # a local endpoint gets no real identity
    # other services keep the caller's own
    s3 = boto3.session.Session().client("s3")
    assert s3._request_signer._credentials.access_key == "REALKEY"


def test_what_the_caller_gives_stays(endpoint):
    client = boto3.session.Session().client(
        "sagemaker-runtime", region_name="ap-south-1", aws_access_key_id="MINE", aws_secret_access_key="S"
    )
    assert client.meta.region_name == "ap-south-1"
    assert client._request_signer._credentials.access_key == "MINE"
    assert invoke(client) == 0.5
    elsewhere = boto3.session.Session().client(
        "sagemaker-runtime", endpoint_url="http://127.0.0.1:1", region_name="us-east-1"
    )
    assert elsewhere.meta.endpoint_url == "http://127.0.0.1:1"


def test_two_endpoints_at_once(endpoint):
    """On two servers; one client made before the second came up reaches both."""
    from smhf_native import endpoints

    client = boto3.session.Session().client("sagemaker-runtime")
    assert invoke(client) == 0.5
    second = up("two", 0.25)
    try:
        assert [invoke(client, name) for name in ("two", "one", "two")] == [0.25, 0.5, 0.25]
    finally:
        endpoints.forget("two")
        second.stop()


def test_unknown_name_is_the_services_error(endpoint):
    from botocore.exceptions import ClientError

    client = boto3.session.Session().client("sagemaker-runtime")
    with pytest.raises(ClientError, match="Endpoint other not found") as caught:
        invoke(client, "other")
    assert caught.value.response["Error"]["Code"] == "ValidationError"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_models_refusal_is_a_model_error(endpoint):
    client = boto3.session.Session().client("sagemaker-runtime")
    with pytest.raises(client.exceptions.ModelError) as caught:
        invoke(client, body={"inputs": 3})
    assert caught.value.response["OriginalStatusCode"] == 400
    assert "found number" in json.loads(caught.value.response["OriginalMessage"])["message"]


def test_no_endpoint_at_all(hooked):
    from smhf_native.endpoints import EndpointNotFoundError

    client = boto3.session.Session().client("sagemaker-runtime")
    with pytest.raises(EndpointNotFoundError, match="endpoints here: none"):
        invoke(client)


def test_aws_mode_changes_nothing(endpoint, monkeypatch):
    monkeypatch.setenv("SMHF_MODE", "aws")
    client = boto3.session.Session().client(
        "sagemaker-runtime", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert client.meta.endpoint_url == "https://runtime.sagemaker.us-east-1.amazonaws.com"


def test_install_before_boto3_is_imported(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from smhf_native import boto
        boto.install(); boto.install()
        assert "botocore" not in sys.modules
        import boto3
        client = boto3.client("sagemaker-runtime")
        print(client.meta.endpoint_url, client.meta.region_name)
        boto.uninstall()
        print(boto3.client("sagemaker-runtime", region_name="us-east-1").meta.endpoint_url)
        """
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and k != "SMHF_MODE"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "http://127.0.0.1:9 us-west-2",
        "https://runtime.sagemaker.us-east-1.amazonaws.com",
    ]


# --- AWS mode: payloads as the SDK was captured to send them ------------------------------------------

IMAGE = (
    "763104351884.dkr.ecr.us-west-2.amazonaws.com/huggingface-pytorch-inference:"
    "1.7-transformers4.6-cpu-py36-ubuntu18.04"
)
ROLE = "arn:aws:iam::123456789012:role/service-role/sagemaker"


@pytest.fixture
def aws(monkeypatch):
    """A session in AWS mode whose clients are stubs that check every payload against the service model."""
    import gc

    from botocore.stub import Stubber

    from smhf_native.session import Session

    gc.collect()  # sessions of other tests that are gone but not yet collected
    keys = {"region_name": "us-west-2", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    sagemaker = boto3.client("sagemaker", **keys)
    runtime = boto3.client("sagemaker-runtime", endpoint_url="http://127.0.0.1:9", **keys)
    stubs = Stubber(sagemaker), Stubber(runtime)
    for stub in stubs:
        stub.activate()
    session = Session(
        boto_session=boto3.session.Session(**keys),
        sagemaker_client=sagemaker,
        sagemaker_runtime_client=runtime,
        mode="aws",
    )
    yield session, *stubs
    for stub in stubs:
        stub.assert_no_pending_responses()


def describe(status, **more):
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    return {
        "EndpointName": "ep",
        "EndpointArn": "arn:aws:sagemaker:us-west-2:123456789012:endpoint/ep",
        "EndpointConfigName": "ep-config",
        "EndpointStatus": status,
        "CreationTime": now,
        "LastModifiedTime": now,
        **more,
    }


def expect_creation(stub, variant, environment=None, tags=None):
    stub.add_response(
        "create_model",
        {"ModelArn": "arn:aws:sagemaker:us-west-2:123456789012:model/m"},
        {
            "ModelName": "m",
            "ExecutionRoleArn": ROLE,
            "PrimaryContainer": {
                "Image": IMAGE,
                "ModelDataUrl": "s3://bucket/job/output/model.tar.gz",
                "Environment": {
                    "SAGEMAKER_PROGRAM": "",
                    "SAGEMAKER_SUBMIT_DIRECTORY": "",
                    "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
                    "SAGEMAKER_REGION": "us-west-2",
                    **(environment or {}),
                },
            },
        },
    )
    stub.add_response(
        "create_endpoint_config",
        {"EndpointConfigArn": "arn:aws:sagemaker:us-west-2:123456789012:endpoint-config/ep"},
        {"EndpointConfigName": "ep", "ProductionVariants": [variant]},
    )
    stub.add_response(
        "create_endpoint",
        {"EndpointArn": "arn:aws:sagemaker:us-west-2:123456789012:endpoint/ep"},
        {"EndpointName": "ep", "EndpointConfigName": "ep", "Tags": tags or []},
    )


def model_of(session, **more):
    from smhf_native.huggingface.model import HuggingFaceModel

    return HuggingFaceModel(
        model_data="s3://bucket/job/output/model.tar.gz", role=ROLE, transformers_version="4.6",
        pytorch_version="1.7", py_version="py36", name="m", sagemaker_session=session, **more,
    )  # fmt: skip


def test_aws_deploy_and_delete(aws, capsys, monkeypatch):
    import smhf_native.huggingface.model as module

    monkeypatch.setattr(module, "_POLL", 0.0)
    session, sagemaker, runtime = aws
    expect_creation(
        sagemaker,
        {"VariantName": "AllTraffic", "ModelName": "m", "InitialVariantWeight": 1,
         "InitialInstanceCount": 1, "InstanceType": "ml.m5.xlarge"},
    )  # fmt: skip
    for status in ("Creating", "Creating", "InService"):
        sagemaker.add_response("describe_endpoint", describe(status), {"EndpointName": "ep"})
    predictor = model_of(session).deploy(1, "ml.m5.xlarge", endpoint_name="ep")
    assert capsys.readouterr().out == "--!\n"

    from io import BytesIO

    from botocore.response import StreamingBody

    data = b'[{"label":"LABEL_3","score":0.42}]'
    runtime.add_response(
        "invoke_endpoint",
        {"Body": StreamingBody(BytesIO(data), len(data)), "ContentType": "application/json"},
        {"EndpointName": "ep", "Body": '{"inputs": "x"}', "ContentType": "application/json",
         "Accept": "application/json", "InferenceId": "id-1"},
    )  # fmt: skip
    assert predictor.predict({"inputs": "x"}, inference_id="id-1") == [{"label": "LABEL_3", "score": 0.42}]

    sagemaker.add_response("describe_endpoint", describe("InService"), {"EndpointName": "ep"})
    sagemaker.add_response(
        "describe_endpoint_config",
        {"EndpointConfigName": "ep-config", "EndpointConfigArn": "arn:aws:sagemaker:us-west-2:1:endpoint-config/x",
         "CreationTime": describe("InService")["CreationTime"],
         "ProductionVariants": [{"VariantName": "AllTraffic", "ModelName": "m"}]},
        {"EndpointConfigName": "ep-config"},
    )  # fmt: skip
    sagemaker.add_response("delete_model", {}, {"ModelName": "m"})
    predictor.delete_model()
    sagemaker.add_response("describe_endpoint", describe("InService"), {"EndpointName": "ep"})
    sagemaker.add_response("delete_endpoint_config", {}, {"EndpointConfigName": "ep-config"})
    sagemaker.add_response("delete_endpoint", {}, {"EndpointName": "ep"})
    predictor.delete_endpoint()


def test_aws_serverless_and_environment(aws):
    from smhf_native.huggingface.inference_configs import ServerlessInferenceConfig

    session, sagemaker, _ = aws
    expect_creation(
        sagemaker,
        {"VariantName": "AllTraffic", "ModelName": "m", "InitialVariantWeight": 1,
         "ServerlessConfig": {"MemorySizeInMB": 4096, "MaxConcurrency": 5}},
        {"HF_TASK": "text-classification", "SAGEMAKER_MODEL_SERVER_WORKERS": "2"},
    )  # fmt: skip
    model_of(session, env={"HF_TASK": "text-classification"}, model_server_workers=2).deploy(
        serverless_inference_config=ServerlessInferenceConfig(4096), endpoint_name="ep", wait=False
    )


def test_aws_failure_has_its_reason(aws, capsys, monkeypatch):
    import smhf_native.huggingface.model as module
    from smhf_native.exceptions import UnexpectedStatusException

    monkeypatch.setattr(module, "_POLL", 0.0)
    session, sagemaker, _ = aws
    expect_creation(
        sagemaker,
        {"VariantName": "AllTraffic", "ModelName": "m", "InitialVariantWeight": 1,
         "InitialInstanceCount": 2, "InstanceType": "ml.m5.xlarge"},
    )  # fmt: skip
    sagemaker.add_response(
        "describe_endpoint", describe("Failed", FailureReason="no healthy container"), {"EndpointName": "ep"}
    )
    with pytest.raises(
        UnexpectedStatusException, match=r"Error hosting endpoint ep: Failed\. Reason: no healthy"
    ):
        model_of(session).deploy(2, "ml.m5.xlarge", endpoint_name="ep")
