"""Mode, storage and identity of sessions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import smhf_native
from smhf_native.exceptions import ModeError, ObjectNotFoundError
from smhf_native.session import Session, get_execution_role, resolve_mode


class FakeBoto:
    region_name = "eu-west-1"

    def client(self, *_args, **_kwargs):
        raise AssertionError("local mode made a client")


def test_mode_comes_from_argument_then_variable_then_local(home, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "p")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    assert resolve_mode() == "local"
    monkeypatch.setenv("SMHF_MODE", "aws")
    assert resolve_mode() == "aws" and resolve_mode("local") == "local"
    monkeypatch.setenv("SMHF_MODE", "cloud")
    with pytest.raises(ValueError, match="SMHF_MODE='cloud'"):
        resolve_mode()
    with pytest.raises(ValueError, match="mode='x'"):
        resolve_mode("x")


def test_aws_settings_never_switch_the_mode(home, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    session = Session()
    assert session.mode == "local"
    assert session.boto_region_name == "us-west-2"
    assert session.default_bucket() == "sagemaker-us-west-2-000000000000"
    assert session.account_id() == "000000000000"
    assert get_execution_role(session) == get_execution_role()
    assert get_execution_role().startswith("arn:aws:iam::000000000000:role/")


def test_a_boto_session_supplies_only_the_region(home, capfd):
    session = Session(boto_session=FakeBoto())
    assert session.mode == "local" and session.boto_region_name == "eu-west-1"
    assert session.default_bucket() == "sagemaker-eu-west-1-000000000000"
    lines = [line for line in capfd.readouterr().err.splitlines() if "supplies only the region" in line]
    assert len(lines) == 1 and "eu-west-1" in lines[0]


def test_mixing_modes_raises(home, peer):
    boto3 = peer("boto3")
    session = Session()
    with pytest.raises(ModeError, match="already works in 'local' mode"):
        Session(boto3.Session("x", "y", region_name="us-west-2"), mode="aws")
    with pytest.raises(ModeError, match="local mode"):
        _ = session.aws
    del session
    aws = Session(boto3.Session("x", "y", region_name="us-west-2"), mode="aws")
    with pytest.raises(ModeError, match="already works in 'aws' mode"):
        get_execution_role()
    with pytest.raises(ModeError, match="local mode only"):
        _ = aws.store


def test_local_mode_imports_no_boto3_and_opens_no_socket(home):
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket was made')\n"
        "socket.socket = refuse\n"
        "from smhf_native.session import Session, get_execution_role\n"
        "s = Session(); get_execution_role(); s.default_bucket(); s.upload_data('f', key_prefix='p')\n"
        "s.download_data('out', s.default_bucket(), 'p')\n"
        "assert not {'boto3', 'botocore', 'pandas', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
        "print(open('out/f').read())\n"
    )
    Path("f").write_text("content")
    root = str(Path(smhf_native.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "content"


def test_upload_and_download(local, tmp_path):
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a.csv").write_text("a")
    (data / "sub" / "b.csv").write_text("b")
    bucket = local.default_bucket()
    assert local.upload_data(str(data), key_prefix="p/data") == f"s3://{bucket}/p/data"
    assert local.upload_data(data / "a.csv", bucket="other", key_prefix="x") == "s3://other/x/a.csv"
    assert local.list_s3_files(bucket, "p/data") == ["p/data/a.csv", "p/data/sub/b.csv"]
    assert local.read_s3_file(bucket, "p/data/a.csv") == "a"
    with pytest.raises(ObjectNotFoundError):
        local.read_s3_file(bucket, "p/none")
    # A prefix without extension keeps the tree; one with an extension gives the file alone.
    written = local.download_data(str(tmp_path / "out"), bucket, "p/data")
    assert written == [str(tmp_path / "out" / "a.csv"), str(tmp_path / "out" / "sub" / "b.csv")]
    assert local.download_data(str(tmp_path / "one"), bucket, "p/data/sub/b.csv") == [
        str(tmp_path / "one" / "b.csv")
    ]
    assert (tmp_path / "one" / "b.csv").read_text() == "b"
    # A prefix that is no folder does not climb out of the target.
    partial = local.download_data(str(tmp_path / "part"), bucket, "p/da")
    assert all(name.startswith(str(tmp_path / "part" / "data")) for name in partial) and len(partial) == 2
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        local.upload_data(str(tmp_path / "absent"))


def test_download_warns_when_nothing_matches(local, tmp_path):
    local.store.write(f"s3://{local.default_bucket()}/p/jobs/x/report.html", b"1")
    with pytest.warns(UserWarning, match=r"p/jobs/y/report\.html.*nearest objects.*p/jobs/x/report\.html"):
        assert local.download_data(str(tmp_path), local.default_bucket(), "p/jobs/y/report.html") == []
    with pytest.warns(UserWarning, match="bucket is empty"):
        assert local.download_data(str(tmp_path), "nobody", "x") == []


def test_calls_that_local_mode_lacks_are_named(local):
    with pytest.raises(ModeError, match="create_processing_job"):
        local.sagemaker_client.create_processing_job()
    assert local.sagemaker_client.delete_model(ModelName="x") == {}
    assert local.sagemaker_client.delete_endpoint_config(EndpointConfigName="x") == {}


def test_jobs_through_the_session(local, estimator, capfd):
    job = estimator("print('hello from the job')", tags=[{"Key": "a", "Value": "b"}])
    job.fit(logs="None")
    name = job.latest_training_job.name
    capfd.readouterr()
    local.logs_for_job(name)
    assert "hello from the job" in capfd.readouterr().out
    assert local.wait_for_job(name)["TrainingJobStatus"] == "Completed"
    summaries = local.sagemaker_client.list_training_jobs()["TrainingJobSummaries"]
    assert [item["TrainingJobName"] for item in summaries] == [name]
    arn = local.describe_training_job(name)["TrainingJobArn"]
    assert local.sagemaker_client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "b"}]
