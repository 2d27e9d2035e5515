"""Everything that is checked before a local job starts, so that a mistake costs seconds, not a run."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smhf_native.aws.images import is_gpu_instance
from smhf_native.exceptions import ObjectNotFoundError, PreflightError
from smhf_native.jobs import requirements
from smhf_native.jobs.environment import decode_hyperparameters, gpu_count
from smhf_native.jobs.metrics import check_definitions
from smhf_native.jobs.records import home
from smhf_native.store import Store

__all__ = ["check"]

_JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
# Hyperparameters that name the weights to start from.
_MODEL_KEYS = ("model_name", "model_name_or_path", "model_id", "pretrained_model_name_or_path")
_SLACK = 64 << 20


def check(request: dict[str, Any], say: Callable[[str], None]) -> None:
    """Raise when the job cannot run; ``say`` gets one sentence for each thing the user should know.

    Raises
    ------
    PreflightError, ObjectNotFoundError, ValueError
        Names what is missing or wrong and how to supply it.
    """
    _check_limits(request)
    check_definitions(request.get("AlgorithmSpecification", {}).get("MetricDefinitions"))
    resources = request.get("ResourceConfig", {})
    if int(resources.get("InstanceCount") or 1) > 1 or len(resources.get("InstanceGroups", [])) > 1:
        raise PreflightError("instance_count > 1 is not supported by local mode: use instance_count=1")
    local = request.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints")
    if not (os.path.normpath(local) + "/").startswith("/opt/ml/"):
        raise PreflightError(f"checkpoint_local_path must lie below /opt/ml in local mode, got {local!r}")
    inputs = _check_inputs(request)
    weights = _check_source(request, say)
    _check_space(request, inputs, weights)
    instance = resources.get("InstanceType")
    if is_gpu_instance(instance) and gpu_count() == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        say(f"instance type {instance} has a GPU, this machine has none: the job uses its {cores} CPU cores")


def _check_limits(request: dict[str, Any]) -> None:
    name = request["TrainingJobName"]
    if _JOB_NAME.fullmatch(name) is None:
        raise PreflightError(
            f"the job name {name!r} must have 1 to 63 letters, digits and hyphens and start and end with "
            "a letter or digit"
        )
    parameters = request.get("HyperParameters", {})
    if len(parameters) > 100:
        raise PreflightError(f"{len(parameters)} hyperparameters; at most 100 are allowed")
    for key, value in parameters.items():
        if len(key) > 256 or len(value) > 2500:
            raise PreflightError(
                f"hyperparameter {key[:60]!r}: at most 256 characters in the name and 2500 in the value "
                f"are allowed, got {len(key)} and {len(value)}"
            )


def _check_inputs(request: dict[str, Any]) -> int:
    """Check that every input exists; return their bytes."""
    store = Store()
    total = 0
    mode = request.get("AlgorithmSpecification", {}).get("TrainingInputMode", "File")
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"]["S3DataSource"]
        uri, name = source["S3Uri"], channel["ChannelName"]
        if source.get("S3DataType", "S3Prefix") != "S3Prefix":
            raise PreflightError(
                f"channel {name!r}: local mode reads S3Prefix inputs, not {source['S3DataType']}"
            )
        if channel.get("InputMode", mode) == "Pipe":
            raise PreflightError(
                f"channel {name!r}: input_mode 'Pipe' is not supported by local mode; use 'File'"
            )
        if uri.startswith("file://"):
            path = Path(uri.removeprefix("file://"))
            if not path.exists():
                raise ObjectNotFoundError(f"channel {name!r}: no file or folder {path}")
            files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
            total += sum(item.stat().st_size for item in files)
            continue
        found = store.list(uri)
        if not found:
            raise ObjectNotFoundError(f"channel {name!r}: {store.missing(uri)}")
        total += sum(store.path(item).stat().st_size for item in found)
    return total


def _check_source(request: dict[str, Any], say: Callable[[str], None]) -> int:
    """Check script, requirements and weights; return the weights' bytes."""
    parameters = decode_hyperparameters(request.get("HyperParameters", {}))
    program, submit = parameters.get("sagemaker_program"), parameters.get("sagemaker_submit_directory")
    if not program or not submit:
        raise PreflightError("the job names no script: sagemaker_program and sagemaker_submit_directory")
    store = Store()
    archive = store.path(str(submit))
    if not archive.is_file():
        raise ObjectNotFoundError(store.missing(str(submit)))
    with tempfile.TemporaryDirectory(prefix="smhf-") as folder, tarfile.open(archive, "r:gz") as packed:
        names = {entry.name: entry for entry in packed if entry.isreg()}
        if program not in names:
            raise PreflightError(
                f"the script {program!r} is not in the source folder; it holds {', '.join(sorted(names)[:8])}"
            )
        texts = [name for name in names if name.endswith(".txt") and names[name].size < 1 << 20]
        if "requirements.txt" in names:
            for name in texts:
                stream = packed.extractfile(names[name])
                target = Path(folder, *(part for part in name.split("/") if part not in ("", ".", "..")))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read() if stream is not None else b"")
            _check_requirements(Path(folder) / "requirements.txt", say)
        tops = {name.split("/")[0] for name in names}
    return _check_weights(parameters, tops)


def _check_requirements(path: Path, say: Callable[[str], None]) -> None:
    found = requirements.plan(path)
    if found.missing and not requirements.pip_allowed():
        raise PreflightError(
            f"requirements.txt needs packages that are not installed: {', '.join(found.missing)}. Install "
            "them into this environment, or set SMHF_ALLOW_PIP=1 to let jobs install them into a folder "
            "of their own"
        )
    for line in found.lines():
        say(line)


def _check_weights(parameters: dict[str, Any], tops: set[str]) -> int:
    try:
        hub = importlib.import_module("smhf_native.hub")
    except ImportError as error:
        if error.name != "smhf_native.hub":
            raise
        return 0
    for key in _MODEL_KEYS:
        name = parameters.get(key)
        if not isinstance(name, str) or not name:
            continue
        if name.startswith(("s3://", "/opt/ml/")) or name.removeprefix("./").split("/")[0] in tops:
            continue  # the script's own business: a channel, or a folder beside it
        if not os.path.isabs(name) and Path(name).is_dir():
            raise PreflightError(
                f"hyperparameter {key}={name!r} is a folder relative to {os.getcwd()}, but the script runs in "
                f"a folder of its own: give {os.path.abspath(name)!r}"
            )
        folder = Path(hub.resolve(name, needs=(*hub.MODEL_FILES, *hub.TOKENIZER_FILES)))
        return sum(item.stat().st_size for item in folder.glob("*.safetensors")) or sum(
            item.stat().st_size for item in folder.glob("pytorch_model*.bin")
        )
    return 0


def _check_space(request: dict[str, Any], inputs: int, weights: int) -> None:
    store = Store()
    prefill = 0
    checkpoint = request.get("CheckpointConfig", {}).get("S3Uri")
    if checkpoint:
        prefill = store.size(checkpoint.rstrip("/") + "/")
    # Weights: the saved model and its archive, and one checkpoint (weights and two moments) here and
    # in the store.
    needed = inputs + prefill + 8 * weights + _SLACK
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PreflightError(
            f"too little disk space in {home()}: {free / 1e6:.0f} MB free, about {needed / 1e6:.0f} MB "
            f"needed (inputs {inputs / 1e6:.0f}, checkpoints to resume from {prefill / 1e6:.0f}, model and "
            f"checkpoints {8 * weights / 1e6:.0f}, reserve {_SLACK / 1e6:.0f}). Free some, or set SMHF_HOME "
            "to a larger disk"
        )
