"""Checks before a job starts: disk, weights, limits; nothing may start when one fails."""

from __future__ import annotations

import collections
import os
import shutil
import sys
import types

import pytest

from smhf_native.exceptions import ObjectNotFoundError, PreflightError
from smhf_native.jobs import preflight

Usage = collections.namedtuple("Usage", "total used free")


def test_too_little_disk_says_how_much(estimator, local, monkeypatch):
    local.store.write(f"s3://{local.default_bucket()}/data", b"x" * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 5_000_000))
    with pytest.raises(PreflightError, match=r"5 MB free, about 67 MB needed.*SMHF_HOME"):
        estimator("print(1)").fit(f"s3://{local.default_bucket()}/data")


def fake_hub(monkeypatch, resolve):
    module = types.ModuleType("smhf_native.hub")
    module.resolve = resolve
    module.MODEL_FILES = module.TOKENIZER_FILES = ()
    monkeypatch.setitem(sys.modules, "smhf_native.hub", module)


def test_missing_weights_are_named_before_the_start(estimator, monkeypatch):
    def resolve(name, needs):
        raise OSError(f"no model {name!r}")

    fake_hub(monkeypatch, resolve)
    job = estimator("print(1)", hyperparameters={"model_name": "no-such-model"})
    with pytest.raises(OSError, match="no model 'no-such-model'"):
        job.fit()
    assert job.latest_training_job is None


def test_weights_count_for_the_disk(estimator, monkeypatch, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as stream:
        stream.truncate(1_000_000_000)
    fake_hub(monkeypatch, lambda name, needs: folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 7_000_000_000))
    with pytest.raises(PreflightError, match="model and checkpoints 8000"):
        estimator("print(1)", hyperparameters={"model_name_or_path": "m"}).fit()


def test_models_beside_the_script_are_the_scripts_business(estimator, monkeypatch, tmp_path):
    fake_hub(monkeypatch, lambda name, needs: pytest.fail(f"asked for {name}"))
    job = estimator("print(1)", hyperparameters={"model_name": "./own", "model_id": "/opt/ml/input/data/m"})
    (tmp_path / "src" / "own").mkdir()
    (tmp_path / "src" / "own" / "config.json").write_text("{}")
    job.fit(logs="None")


def test_a_folder_relative_to_the_notebook_is_explained(estimator, monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    fake_hub(monkeypatch, lambda name, needs: pytest.fail("asked"))
    with pytest.raises(PreflightError, match=f"give '{os.path.abspath('mine')}'"):
        estimator("print(1)", hyperparameters={"model_name": "mine"}).fit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_s3_uri": "s3://b/c", "checkpoint_local_path": "/tmp/c"}, "below /opt/ml"),
        ({"hyperparameters": {"x": "y" * 3000}}, "2500"),
        ({"hyperparameters": {f"p{i}": 1 for i in range(99)}}, "at most 100"),
        ({"input_mode": "Pipe"}, "Pipe"),
    ],
)
def test_limits(estimator, local, arguments, message):
    local.store.write(f"s3://{local.default_bucket()}/data", b"x")
    with pytest.raises(PreflightError, match=message):
        estimator("print(1)", **arguments).fit(f"s3://{local.default_bucket()}/data")


def test_payloads_that_bypass_the_estimator_are_checked_too(local):
    request = {
        "TrainingJobName": "j",
        "OutputDataConfig": {"S3OutputPath": "s3://b/o"},
        "ResourceConfig": {"InstanceCount": 2},
        "HyperParameters": {},
    }
    with pytest.raises(PreflightError, match="instance_count > 1"):
        preflight.check(request, print)
    request["ResourceConfig"] = {"InstanceCount": 1}
    with pytest.raises(PreflightError, match="names no script"):
        preflight.check(request, print)
    request["HyperParameters"] = {
        "sagemaker_program": "t.py",
        "sagemaker_submit_directory": "s3://b/none.tar.gz",
    }
    with pytest.raises(ObjectNotFoundError, match=r"s3://b/none\.tar\.gz"):
        preflight.check(request, print)
    request["InputDataConfig"] = [
        {
            "ChannelName": "c",
            "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": "s3://b/m"}},
        }
    ]
    with pytest.raises(PreflightError, match="S3Prefix"):
        preflight.check(request, print)


def test_file_inputs(estimator, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("7")
    job = estimator("assert open('/opt/ml/input/data/training/x').read() == '7'")
    job.fit(f"file://{tmp_path}/d", logs="None")
    job.fit(f"file://{tmp_path}/d/x", logs="None")
    with pytest.raises(ObjectNotFoundError, match="no file or folder"):
        job.fit(f"file://{tmp_path}/gone")
