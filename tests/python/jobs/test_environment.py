"""Arguments, variables and tree of a script against the container's contract (spec F1)."""

from __future__ import annotations

import json
import os

import pytest

from smhf_native.jobs import environment

REQUEST = {
    "TrainingJobName": "job-1",
    "AlgorithmSpecification": {"TrainingInputMode": "File"},
    "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge"},
    "HyperParameters": {
        "epochs": "1",
        "train_batch_size": "32",
        "model_name": '"distilbert-base-uncased"',
        "sagemaker_submit_directory": '"s3://b/source/sourcedir.tar.gz"',
        "sagemaker_program": '"train.py"',
        "sagemaker_container_log_level": "20",
        "sagemaker_job_name": '"job-1"',
        "sagemaker_region": '"us-west-2"',
    },
    "InputDataConfig": [
        {"ChannelName": name, "DataSource": {"S3DataSource": {"S3Uri": f"s3://b/{name}.csv"}}}
        for name in ("train", "test")
    ],
    "Environment": {"MY_VARIABLE": "x"},
}


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({"epochs": 1, "train_batch_size": 32}, ["--epochs", "1", "--train_batch_size", "32"]),
        ({"b": 2, "a": 1}, ["-a", "1", "-b", "2"]),
        ({"flag": True, "off": False}, ["--flag", "True", "--off", "False"]),
        ({"xx": None}, ["--xx", ""]),
        ({"list": ["a", 1]}, ["--list", "['a', 1]"]),
        ({"dict": {"k": 2, "a": None}}, ["--dict", "a=None,k=2"]),
        ({"rate": 5e-05, "text": "two words"}, ["--rate", "5e-05", "--text", "two words"]),
        ({"with-hyphen": "é"}, ["--with-hyphen", "é"]),
    ],
)
def test_arguments(parameters, arguments):
    assert environment.to_arguments(parameters) == arguments


def test_hyperparameters_are_decoded_and_split():
    decoded = environment.decode_hyperparameters(
        {"a": "1", "b": '"x"', "c": "not json", "sagemaker_region": '"r"'}
    )
    assert decoded == {"a": 1, "b": "x", "c": "not json", "sagemaker_region": "r"}
    assert environment.user_hyperparameters(decoded) == {"a": 1, "b": "x", "c": "not json"}


def test_variables_of_the_notebook(tmp_path):
    variables, arguments = environment.build_environment(
        tmp_path,
        REQUEST,
        region="us-west-2",
        arn="arn:aws:sagemaker:us-west-2:000000000000:training-job/job-1",
    )
    assert arguments == [
        "--epochs", "1", "--model_name", "distilbert-base-uncased", "--train_batch_size", "32",
    ]  # fmt: skip
    base = str(tmp_path)
    assert {
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_CURRENT_INSTANCE_TYPE": "ml.p3.2xlarge",
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": '["algo-1"]',
        "SM_INSTANCE_GROUPS": '["homogeneousCluster"]',
        "SM_DISTRIBUTION_INSTANCE_GROUPS": "[]",
        "SM_IS_HETERO": "false",
        "SM_HPS": '{"epochs":1,"model_name":"distilbert-base-uncased","train_batch_size":32}',
        "SM_HP_EPOCHS": "1",
        "SM_HP_MODEL_NAME": "distilbert-base-uncased",
        "SM_HP_TRAIN_BATCH_SIZE": "32",
        "SM_USER_ENTRY_POINT": "train.py",
        "SM_MODULE_NAME": "train",
        "SM_MODULE_DIR": "s3://b/source/sourcedir.tar.gz",
        "SM_CHANNELS": '["test","train"]',
        "SM_CHANNEL_TRAIN": f"{base}/input/data/train",
        "SM_CHANNEL_TEST": f"{base}/input/data/test",
        "SM_INPUT_DIR": f"{base}/input",
        "SM_INPUT_CONFIG_DIR": f"{base}/input/config",
        "SM_OUTPUT_DIR": f"{base}/output",
        "SM_OUTPUT_DATA_DIR": f"{base}/output/data",
        "SM_OUTPUT_INTERMEDIATE_DIR": f"{base}/output/intermediate",
        "SM_MODEL_DIR": f"{base}/model",
        "SM_LOG_LEVEL": "20",
        "SM_NUM_NEURONS": "0",
        "SM_FRAMEWORK_PARAMS": "{}",
        "SM_INPUT_DATA_CONFIG": (
            '{"test":{"RecordWrapperType":"None","S3DistributionType":"FullyReplicated",'
            '"TrainingInputMode":"File"},"train":{"RecordWrapperType":"None",'
            '"S3DistributionType":"FullyReplicated","TrainingInputMode":"File"}}'
        ),
        "TRAINING_JOB_NAME": "job-1",
        "AWS_REGION": "us-west-2",
        "SAGEMAKER_BASE_DIR": base,
        "PYTHONUNBUFFERED": "1",
        "MY_VARIABLE": "x",
    }.items() <= variables.items()
    for name in ("SM_NUM_CPUS", "SM_NUM_GPUS", "SM_NETWORK_INTERFACE_NAME", "SM_INSTANCE_GROUPS_DICT"):
        assert variables[name]
    assert json.loads(variables["SM_USER_ARGS"]) == arguments
    summary = json.loads(variables["SM_TRAINING_ENV"])
    assert summary["hyperparameters"] == json.loads(variables["SM_HPS"])
    assert summary["channel_input_dirs"]["train"] == variables["SM_CHANNEL_TRAIN"]


def test_none_becomes_an_empty_variable(tmp_path):
    request = {**REQUEST, "HyperParameters": {"x": "null", "é": '"ü"', "sagemaker_program": '"t.py"'}}
    variables, _ = environment.build_environment(tmp_path, request, region="r")
    assert variables["SM_HP_X"] == ""
    assert variables["SM_HPS"] == '{"x":null,"\\u00e9":"\\u00fc"}'


def test_tree(tmp_path):
    base = tmp_path / "ml"
    environment.build_tree(base, {**REQUEST, "ProfilerConfig": {"ProfilingIntervalInMilliseconds": 500}})
    for folder in ("input/data", "model", "output/data", "output/intermediate", "code", "checkpoints"):
        assert (base / folder).is_dir()
    config = base / "input" / "config"
    assert json.loads((config / "hyperparameters.json").read_text()) == REQUEST["HyperParameters"]
    assert os.stat(config / "hyperparameters.json").st_mode & 0o077 == 0
    resources = json.loads((config / "resourceconfig.json").read_text())
    assert resources["hosts"] == ["algo-1"] and resources["current_instance_type"] == "ml.p3.2xlarge"
    assert set(json.loads((config / "inputdataconfig.json").read_text())) == {"train", "test"}
    assert json.loads((config / "profilerconfig.json").read_text())["ProfilingIntervalInMilliseconds"] == 500


def test_secret_names():
    values = {"hf_token": "abc", "epochs": 1, "aws_secret_access_key": "k", "tokenizer": "x"}
    shown = environment.redact(values)
    assert shown["hf_token"] == "***" and shown["aws_secret_access_key"] == "***" and shown["epochs"] == 1
