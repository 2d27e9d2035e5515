"""The estimator: arguments, names, and the payload, compared with what SDK v2 was captured to send."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime

import pytest

from smhf_native.aws import images
from smhf_native.debugger import (
    DebuggerHookConfig,
    FrameworkProfile,
    ProfilerConfig,
    ProfilerRule,
    Rule,
    rule_configs,
)
from smhf_native.exceptions import ModeError
from smhf_native.huggingface import naming
from smhf_native.huggingface.estimator import HuggingFace
from smhf_native.inputs import TrainingInput, input_config

NAMES = (
    "loss", "learning_rate", "eval_loss", "eval_accuracy", "eval_f1", "eval_precision", "eval_recall",
    "eval_runtime", "eval_samples_per_second", "epoch",
)  # fmt: skip
METRICS = [{"Name": name, "Regex": f"'{name}': ([0-9]+(.|e\\-)[0-9]+),?"} for name in NAMES]
BUCKET = "sagemaker-us-west-2-000000000000"
BASE = f"s3://{BUCKET}/sagemaker_huggingface_workshop"


def notebook_estimator(session, source_dir, **more):
    """The estimator of the published page."""
    output_path = f"{BASE}/training_jobs"
    return HuggingFace(
        **{
            "entry_point": "train.py",
            "source_dir": str(source_dir),
            "output_path": f"{output_path}/",
            "code_location": output_path,
            "role": "arn:aws:iam::000000000000:role/r",
            "base_job_name": "huggingface-spot-2021-08-25-10-00-00",
            "checkpoint_s3_uri": f"{BASE}/huggingface-spot-2021-08-25-10-00-00/checkpoints",
            "instance_type": "ml.p3.2xlarge",
            "instance_count": 1,
            "transformers_version": "4.6",
            "pytorch_version": "1.7",
            "py_version": "py36",
            "hyperparameters": {
                "epochs": 1,
                "train_batch_size": 32,
                "model_name": "distilbert-base-uncased",
            },
            "metric_definitions": METRICS,
            "profiler_config": ProfilerConfig(
                system_monitor_interval_millis=500,
                framework_profile_params=FrameworkProfile(num_steps=10),
            ),
            "rules": [
                Rule.sagemaker(rule_configs.loss_not_decreasing()),
                ProfilerRule.sagemaker(rule_configs.LowGPUUtilization()),
                ProfilerRule.sagemaker(rule_configs.ProfilerReport()),
            ],
            "sagemaker_session": session,
            **more,
        }
    )


def expected_payload(name):
    """Spec A3, captured from SDK v2.57.0 and v2.257.6."""
    output = f"{BASE}/training_jobs/"
    rules_image = "895741380848.dkr.ecr.us-west-2.amazonaws.com/sagemaker-debugger-rules:latest"
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingInputMode": "File",
            "TrainingImage": (
                "763104351884.dkr.ecr.us-west-2.amazonaws.com/huggingface-pytorch-training:"
                "1.7-transformers4.6-gpu-py36-cu110-ubuntu18.04"
            ),
            "MetricDefinitions": METRICS,
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "OutputDataConfig": {"S3OutputPath": output},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge", "VolumeSizeInGB": 30},
        "RoleArn": "arn:aws:iam::000000000000:role/r",
        "InputDataConfig": [
            {
                "ChannelName": channel,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"{BASE}/data/{file}",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
            for channel, file in (("train", "train.csv"), ("test", "validate.csv"))
        ],
        "HyperParameters": {
            "epochs": "1",
            "train_batch_size": "32",
            "model_name": '"distilbert-base-uncased"',
            "sagemaker_submit_directory": f'"{output}{name}/source/sourcedir.tar.gz"',
            "sagemaker_program": '"train.py"',
            "sagemaker_container_log_level": "20",
            "sagemaker_job_name": f'"{name}"',
            "sagemaker_region": '"us-west-2"',
        },
        "CheckpointConfig": {"S3Uri": f"{BASE}/huggingface-spot-2021-08-25-10-00-00/checkpoints"},
        "DebugRuleConfigurations": [
            {
                "RuleConfigurationName": "LossNotDecreasing",
                "RuleEvaluatorImage": rules_image,
                "RuleParameters": {"rule_to_invoke": "LossNotDecreasing"},
            }
        ],
        "DebugHookConfig": {
            "S3OutputPath": output,
            "CollectionConfigurations": [
                {"CollectionName": "losses", "CollectionParameters": {"save_interval": "500"}}
            ],
        },
    }


DATA = {"train": f"{BASE}/data/train.csv", "test": f"{BASE}/data/validate.csv"}


def test_payload_of_the_notebook(local, tmp_path):
    (tmp_path / "train.py").write_text("print(1)")
    estimator = notebook_estimator(local, tmp_path)
    request = estimator._request(DATA, None, None)
    name = request["TrainingJobName"]
    assert (
        re.fullmatch(r"huggingface-spot-2021-08-25-10-00-00-\d{4}(-\d\d){5}-\d{3}", name) and len(name) <= 63
    )
    expected = expected_payload(name)
    profiler = request.pop("ProfilerConfig")
    profiler_rules = request.pop("ProfilerRuleConfigurations")
    assert request == expected
    assert profiler["S3OutputPath"] == f"{BASE}/training_jobs/"
    assert profiler["ProfilingIntervalInMilliseconds"] == 500
    assert profiler["ProfilingParameters"]["LocalPath"] == "/opt/ml/output/profiler"
    assert [rule["RuleConfigurationName"] for rule in profiler_rules] == [
        "LowGPUUtilization",
        "ProfilerReport",
    ]
    assert profiler_rules[0]["RuleParameters"]["threshold_p95"] == "70"
    # The archive of the source folder is at the place that the payload names.
    assert local.store.path(json.loads(expected["HyperParameters"]["sagemaker_submit_directory"])).is_file()
    assert estimator.output_path.endswith("/training_jobs/")


def test_botocore_accepts_the_payload(peer, local, tmp_path, home):
    """botocore validates every name and type against the service's own model."""
    boto3 = peer("boto3")
    from botocore.stub import Stubber

    client = boto3.client(
        "sagemaker", region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x"
    )
    (tmp_path / "train.py").write_text("print(1)")
    request = notebook_estimator(
        local,
        tmp_path,
        use_spot_instances=True,
        max_run=1000,
        max_wait=3600,
        tags=[{"Key": "k", "Value": "v"}],
        environment={"A": "b"},
        subnets=["subnet-1"],
        security_group_ids=["sg-1"],
        volume_kms_key="k1",
        output_kms_key="k2",
        encrypt_inter_container_traffic=True,
        enable_network_isolation=True,
        max_retry_attempts=3,
        keep_alive_period_in_seconds=60,
        checkpoint_local_path="/opt/ml/checkpoints",
        container_entry_point=["python"],
        container_arguments=["a"],
        disable_output_compression=True,
        enable_remote_debug=True,
        enable_session_tag_chaining=True,
        enable_infra_check=True,
        training_repository_access_mode="Vpc",
        training_repository_credentials_provider_arn="arn:aws:lambda:us-west-2:000000000000:function:f",
    )._request(DATA, "job-1", {"ExperimentName": "e"})
    answer = {"TrainingJobArn": "arn:aws:sagemaker:us-west-2:000000000000:training-job/job-1"}
    with Stubber(client) as stub:
        stub.add_response("create_training_job", answer, request)
        assert client.create_training_job(**request) == answer
        stub.assert_no_pending_responses()
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 1000, "MaxWaitTimeInSeconds": 3600}
    assert request["EnableManagedSpotTraining"] is True
    assert request["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert request["RetryStrategy"] == {"MaximumRetryAttempts": 3}
    assert request["OutputDataConfig"]["CompressionType"] == "NONE"


def test_the_published_page_constructs(local, tmp_path, seed_folder):
    """The estimator cell of the page itself, run as it stands."""
    page = (seed_folder / "2_finetune_deploy_huggingface.md").read_text(encoding="utf-8")
    cells = [cell.split("```")[0] for cell in page.split("```python\n")[1:]]
    wanted = [cell for cell in cells if "metric_definitions=[" in cell or "rules = [" in cell]
    wanted += [
        cell
        for cell in cells
        if "profiler_config = ProfilerConfig" in cell or "HuggingFace(entry_point" in cell
    ]
    scope = {
        "HuggingFace": HuggingFace, "Rule": Rule, "ProfilerRule": ProfilerRule, "rule_configs": rule_configs,
        "ProfilerConfig": ProfilerConfig, "FrameworkProfile": FrameworkProfile, "time": time,
        "bucket": BUCKET, "prefix": "sagemaker_huggingface_workshop", "role": "arn:aws:iam::0:role/r",
    }  # fmt: skip
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page's own invalid escape sequences
        for cell in wanted:
            exec(compile(cell, "page", "exec"), scope)
    estimator = scope["huggingface_estimator"]
    assert estimator.output_path == f"{BASE}/training_jobs/"
    assert scope["hyperparameters"] is estimator._hyperparameters


def test_unknown_arguments_are_refused_by_name(local):
    common = {"entry_point": "t.py", "image_uri": "x", "sagemaker_session": local}
    with pytest.raises(TypeError, match=r"unknown argument 'instance_typ'.*'instance_type'"):
        HuggingFace(**common, instance_typ="x")
    with pytest.raises(TypeError, match="train_instance_type was renamed to instance_type"):
        HuggingFace(**common, train_instance_type="x")
    with pytest.raises(ValueError, match="entry_point"):
        HuggingFace(image_uri="x", sagemaker_session=local)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"pytorch_version": "1.7"}, "transformers_version"),
        ({"transformers_version": "4.6"}, "exactly one"),
        (
            {"transformers_version": "4.6", "pytorch_version": "1.7", "tensorflow_version": "2.4"},
            "exactly one",
        ),
        ({"transformers_version": "4.6", "pytorch_version": "1.7.1"}, "both be short"),
        ({"transformers_version": "4.6.1", "pytorch_version": "1.7"}, "both be short"),
        ({"transformers_version": "4.6", "pytorch_version": "1.7", "py_version": None}, "py_version"),
    ],
)
def test_version_checks(local, versions, message):
    values = {"entry_point": "t.py", "py_version": "py36", "sagemaker_session": local, **versions}
    with pytest.raises(ValueError, match=message):
        HuggingFace(**values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instance_count": 2}, "instance_count=2"),
        ({"distribution": {"torch_distributed": {"enabled": True}}}, "distribution"),
        ({"git_config": {"repo": "x"}}, "git_config"),
        ({"use_spot_instances": True, "max_run": 100, "max_wait": 10}, "max_wait"),
        ({"metric_definitions": [{"Name": "a", "Regex": "("}]}, "metric 'a'"),
        ({"output_path": "/tmp/x"}, "s3://"),
    ],
)
def test_options_that_cannot_work_are_refused(local, arguments, message):
    with pytest.raises(ValueError, match=message):
        HuggingFace(entry_point="t.py", image_uri="x", sagemaker_session=local, **arguments)


def test_profiler_exclusions(local):
    common = {"entry_point": "t.py", "image_uri": "x", "sagemaker_session": local, "disable_profiler": True}
    with pytest.raises(RuntimeError, match="profiler_config"):
        HuggingFace(**common, profiler_config=ProfilerConfig())
    with pytest.raises(RuntimeError, match="ProfilerRule"):
        HuggingFace(**common, rules=[ProfilerRule.sagemaker(rule_configs.ProfilerReport())])


def test_missing_script_and_folder_are_named(local, tmp_path):
    common = {"image_uri": "x", "sagemaker_session": local}
    (tmp_path / "other.py").write_text("")
    with pytest.raises(FileNotFoundError, match=r"'train\.py' is not in source_dir.*other\.py"):
        HuggingFace(entry_point="train.py", source_dir=str(tmp_path), **common).fit()
    with pytest.raises(FileNotFoundError, match="no folder"):
        HuggingFace(entry_point="train.py", source_dir=str(tmp_path / "none"), **common).fit()
    with pytest.raises(FileNotFoundError, match="no file"):
        HuggingFace(entry_point="none.py", **common).fit()
    with pytest.raises(FileNotFoundError, match="dependencies"):
        HuggingFace(entry_point="other.py", dependencies=["gone"], **common).fit()


def test_places_of_the_source_archive(local, tmp_path):
    (tmp_path / "train.py").write_text("print(1)")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "m.py").write_text("")
    common = {"image_uri": "x", "sagemaker_session": local, "dependencies": [str(tmp_path / "lib")]}
    estimator = HuggingFace(entry_point=str(tmp_path / "train.py"), output_path="s3://other/p", **common)
    request = estimator._request(None, "job", None)
    assert (
        request["HyperParameters"]["sagemaker_submit_directory"] == '"s3://other/job/source/sourcedir.tar.gz"'
    )
    assert request["HyperParameters"]["sagemaker_program"] == '"train.py"'
    import tarfile

    with tarfile.open(local.store.path("s3://other/job/source/sourcedir.tar.gz")) as archive:
        assert archive.getnames() == ["train.py", "lib/m.py"]
    default = HuggingFace(entry_point=str(tmp_path / "train.py"), **common)
    assert default.output_path == f"s3://{BUCKET}/"


def test_hyperparameters(local):
    given = {"a": 1, "b": "x", "c": None, "d": [1, "2"], "e": 5e-5}
    estimator = HuggingFace(entry_point="t.py", image_uri="x", sagemaker_session=local, hyperparameters=given)
    estimator.set_hyperparameters(f=True)
    assert estimator.hyperparameters() == {
        "a": "1", "b": '"x"', "c": "null", "d": '[1, "2"]', "e": "5e-05", "f": "true",
    }  # fmt: skip
    estimator.set_hyperparameters(bad=object())
    with pytest.raises(TypeError, match="hyperparameter 'bad'"):
        estimator.hyperparameters()


def test_hook_config_is_kept_and_can_be_switched_off(local, tmp_path):
    (tmp_path / "train.py").write_text("print(1)")
    hook = DebuggerHookConfig(hook_parameters={"save_interval": "10"})
    request = notebook_estimator(local, tmp_path, debugger_hook_config=hook)._request(DATA, "j", None)
    assert request["DebugHookConfig"]["HookParameters"] == {"save_interval": "10"}
    assert request["DebugHookConfig"]["S3OutputPath"] == f"{BASE}/training_jobs/"
    off = notebook_estimator(local, tmp_path, debugger_hook_config=False)._request(DATA, "k", None)
    assert "DebugHookConfig" not in off


def test_names():
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    assert naming.name_from_base("base", now=moment) == "base-2026-01-02-03-04-05-678"
    assert len(naming.name_from_base("x" * 100, now=moment)) == 63
    assert naming.base_name_from_image("1.dkr.ecr.r.amazonaws.com/huggingface-pytorch-training:1.7") == (
        "huggingface-pytorch-training"
    )
    assert naming.base_name_from_image("my_image") == "my-image"


def test_images():
    common = ("us-west-2", "4.6", "pytorch", "1.7", "py36")
    assert images.huggingface_image("inference", *common, "ml.m5.xlarge") == (
        "763104351884.dkr.ecr.us-west-2.amazonaws.com/huggingface-pytorch-inference:"
        "1.7-transformers4.6-cpu-py36-ubuntu18.04"
    )
    full = images.huggingface_image(
        "training", "cn-north-1", "4.17.0", "pytorch", "1.10.2", "py38", "ml.g4dn.xlarge"
    )
    assert full == (
        "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/huggingface-pytorch-training:"
        "1.10.2-transformers4.17.0-gpu-py38-cu113-ubuntu20.04"
    )
    with pytest.raises(ValueError, match=r"no Hugging Face training image.*4\.6\.1/pytorch1\.7\.1/py36"):
        images.huggingface_image("training", "us-west-2", "9.9", "pytorch", "1.7", "py36", "ml.p3.2xlarge")
    with pytest.raises(ValueError, match="CPU instance type"):
        images.huggingface_image("training", *common, "ml.m5.xlarge")
    loose = images.huggingface_image(
        "training", "us-west-2", "9.9", "pytorch", "8", "py3", "local", strict=False
    )
    assert "8-transformers9.9" in loose


def test_inputs():
    assert input_config(None) == []
    assert input_config("s3://b/k")[0]["ChannelName"] == "training"
    entry = input_config(
        {
            "x": TrainingInput(
                "s3://b/k", distribution="ShardedByS3Key", content_type="text/csv", compression="Gzip",
                record_wrapping="RecordIO", input_mode="FastFile",
            )
        }
    )[0]  # fmt: skip
    assert entry == {
        "ChannelName": "x",
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": "s3://b/k",
                "S3DataDistributionType": "ShardedByS3Key",
            }
        },
        "ContentType": "text/csv",
        "CompressionType": "Gzip",
        "RecordWrapperType": "RecordIO",
        "InputMode": "FastFile",
    }
    assert input_config("file:///tmp/x", local=True)
    for bad in ("file:///tmp/x", "/tmp/x", 3, {"a b": "s3://b/k"}, {"a": None}):
        with pytest.raises(ValueError):
            input_config(bad)


def test_local_instance_type_needs_local_mode(monkeypatch, home, peer):
    boto3 = peer("boto3")
    from smhf_native.session import Session

    session = Session(boto3.Session("x", "y", region_name="us-west-2"), mode="aws", default_bucket="b")
    with pytest.raises(ModeError, match="local"):
        HuggingFace(
            entry_point="t.py", image_uri="x", role="r", instance_count=1, instance_type="local",
            sagemaker_session=session,
        )  # fmt: skip
    with pytest.raises(ValueError, match="instance_count and instance_type"):
        HuggingFace(entry_point="t.py", image_uri="x", role="r", sagemaker_session=session)


def test_things_that_come_later_say_so(local):
    estimator = HuggingFace(entry_point="t.py", image_uri="x", sagemaker_session=local)
    for name in ("transformer", "register", "compile_model", "update_profiler"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(estimator, name)()
    with pytest.raises(ValueError, match="no training job yet"):
        estimator.logs()
