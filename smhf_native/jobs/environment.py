"""What a training script finds: its tree below a base folder, its arguments, its variables.

The contract is that of SageMaker's training containers: ``/opt/ml/input/config/*.json``, channels under
``input/data``, ``SM_*`` variables, hyperparameters as command-line options in sorted order and verbatim.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from smhf_native.jobs.records import write_json

__all__ = [
    "PLATFORM_PREFIX",
    "build_environment",
    "build_tree",
    "decode_hyperparameters",
    "gpu_count",
    "is_secret_name",
    "redact",
    "to_arguments",
    "user_hyperparameters",
]

#: Hyperparameters with this prefix belong to the platform; the script does not get them.
PLATFORM_PREFIX = "sagemaker_"

_HOST = "algo-1"
_GROUP = "homogeneousCluster"
_SECRET = re.compile(r"token|secret|passw|api_?key|access_?key|credential|private", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Tell whether a variable or hyperparameter name sounds like it holds a secret."""
    return _SECRET.search(name) is not None


def redact(values: dict[str, Any]) -> dict[str, Any]:
    """Return a copy whose secret-sounding entries read ``***`` (for everything printed)."""
    return {key: "***" if is_secret_name(key) and value else value for key, value in values.items()}


def decode_hyperparameters(encoded: dict[str, str]) -> dict[str, Any]:
    """Decode each value as JSON; a value that is no JSON stays the text it is."""
    decoded: dict[str, Any] = {}
    for key, value in encoded.items():
        try:
            decoded[key] = json.loads(value)
        except (ValueError, TypeError):
            decoded[key] = value
    return decoded


def user_hyperparameters(decoded: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that belong to the script, sorted by name."""
    return {key: decoded[key] for key in sorted(decoded) if not key.startswith(PLATFORM_PREFIX)}


def _argument(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in sorted(value.items()))
    return str(value)


def to_arguments(hyperparameters: dict[str, Any]) -> list[str]:
    """Return the script's arguments: ``--name value`` sorted by name, ``-n value`` for one letter.

    Names and underscores are kept verbatim; lists, booleans and numbers are spelled as Python prints
    them, None as an empty text, dicts as ``key=value,key=value``.
    """
    arguments: list[str] = []
    for key in sorted(hyperparameters):
        arguments += [f"-{key}" if len(key) == 1 else f"--{key}", _argument(hyperparameters[key])]
    return arguments


def gpu_count() -> int:
    """Return how many NVIDIA GPUs the machine shows (device files; no driver is loaded)."""
    try:
        return sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev"))
    except OSError:
        return 0


def _variable(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def build_tree(base: Path, request: dict[str, Any]) -> None:
    """Make the folders and the configuration files that a container finds below ``/opt/ml``.

    Parameters
    ----------
    base : path
        Folder that stands for ``/opt/ml``; made if absent.
    request : dict
        The CreateTrainingJob payload.
    """
    for folder in ("input/config", "input/data", "model", "output/data", "output/intermediate", "code"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "checkpoints").mkdir(exist_ok=True)
    config = base / "input" / "config"
    write_json(config / "hyperparameters.json", request.get("HyperParameters", {}), mode=0o600)
    write_json(config / "resourceconfig.json", _resource_config(request))
    write_json(config / "inputdataconfig.json", _input_config(request))
    if request.get("ProfilerConfig"):
        write_json(config / "profilerconfig.json", request["ProfilerConfig"])
    if request.get("DebugHookConfig"):
        write_json(config / "debughookconfig.json", request["DebugHookConfig"])


def _resource_config(request: dict[str, Any]) -> dict[str, Any]:
    instance = request.get("ResourceConfig", {}).get("InstanceType")
    return {
        "current_host": _HOST,
        "current_instance_type": instance,
        "current_group_name": _GROUP,
        "hosts": [_HOST],
        "instance_groups": [{"instance_group_name": _GROUP, "instance_type": instance, "hosts": [_HOST]}],
        "network_interface_name": "lo",
    }


def _input_config(request: dict[str, Any]) -> dict[str, Any]:
    mode = request.get("AlgorithmSpecification", {}).get("TrainingInputMode", "File")
    channels: dict[str, Any] = {}
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"]["S3DataSource"]
        entry = {
            "TrainingInputMode": channel.get("InputMode", mode),
            "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
        }
        if "ContentType" in channel:
            entry["ContentType"] = channel["ContentType"]
        channels[channel["ChannelName"]] = entry
    return channels


def build_environment(
    base: Path, request: dict[str, Any], *, region: str, arn: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Return the variables that the script gets on top of the inherited ones, and its arguments.

    ``SM_TRAINING_ENV`` holds the whole of it as one JSON text. Values that are no texts are compact JSON
    with sorted keys.
    """
    decoded = decode_hyperparameters(request.get("HyperParameters", {}))
    parameters = user_hyperparameters(decoded)
    arguments = to_arguments(parameters)
    program = str(decoded.get("sagemaker_program", ""))
    resource = _resource_config(request)
    inputs = _input_config(request)
    channels = sorted(inputs)
    data = base / "input" / "data"
    group = resource["instance_groups"]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    module = program.removesuffix(".py")
    summary: dict[str, Any] = {
        "additional_framework_parameters": {},
        "channel_input_dirs": {name: str(data / name) for name in channels},
        "current_host": _HOST,
        "current_instance_group": _GROUP,
        "current_instance_group_hosts": [_HOST],
        "current_instance_type": resource["current_instance_type"],
        "distribution_hosts": [],
        "distribution_instance_groups": [],
        "framework_module": None,
        "hosts": [_HOST],
        "hyperparameters": parameters,
        "input_config_dir": str(base / "input" / "config"),
        "input_data_config": inputs,
        "input_dir": str(base / "input"),
        "instance_groups": [_GROUP],
        "instance_groups_dict": {_GROUP: group[0]},
        "is_hetero": False,
        "is_master": True,
        "job_name": request["TrainingJobName"],
        "log_level": decoded.get("sagemaker_container_log_level", 20),
        "master_hostname": _HOST,
        "model_dir": str(base / "model"),
        "module_dir": str(decoded.get("sagemaker_submit_directory", "")),
        "module_name": module,
        "network_interface_name": resource["network_interface_name"],
        "num_cpus": cpus,
        "num_gpus": gpu_count(),
        "num_neurons": 0,
        "output_data_dir": str(base / "output" / "data"),
        "output_dir": str(base / "output"),
        "output_intermediate_dir": str(base / "output" / "intermediate"),
        "resource_config": resource,
        "user_entry_point": program,
    }
    values: dict[str, Any] = {
        "HOSTS": summary["hosts"],
        "CURRENT_HOST": _HOST,
        "CURRENT_INSTANCE_TYPE": summary["current_instance_type"],
        "CURRENT_INSTANCE_GROUP": _GROUP,
        "CURRENT_INSTANCE_GROUP_HOSTS": [_HOST],
        "INSTANCE_GROUPS": [_GROUP],
        "INSTANCE_GROUPS_DICT": summary["instance_groups_dict"],
        "DISTRIBUTION_INSTANCE_GROUPS": [],
        "IS_HETERO": False,
        "NETWORK_INTERFACE_NAME": summary["network_interface_name"],
        "HPS": parameters,
        "USER_ENTRY_POINT": program,
        "FRAMEWORK_PARAMS": {},
        "FRAMEWORK_MODULE": "",
        "RESOURCE_CONFIG": resource,
        "INPUT_DATA_CONFIG": inputs,
        "CHANNELS": channels,
        "INPUT_DIR": summary["input_dir"],
        "INPUT_CONFIG_DIR": summary["input_config_dir"],
        "OUTPUT_DIR": summary["output_dir"],
        "OUTPUT_DATA_DIR": summary["output_data_dir"],
        "OUTPUT_INTERMEDIATE_DIR": summary["output_intermediate_dir"],
        "MODEL_DIR": summary["model_dir"],
        "MODULE_NAME": module,
        "MODULE_DIR": summary["module_dir"],
        "LOG_LEVEL": summary["log_level"],
        "NUM_CPUS": cpus,
        "NUM_GPUS": summary["num_gpus"],
        "NUM_NEURONS": 0,
        "TRAINING_ENV": summary,
        "USER_ARGS": arguments,
    }
    for name in channels:
        values[f"CHANNEL_{name.upper()}"] = str(data / name)
    for key, value in parameters.items():
        values[f"HP_{key.upper()}"] = value
    environment = {f"SM_{name}": _variable(value) for name, value in values.items()}
    environment.update(
        {
            "TRAINING_JOB_NAME": request["TrainingJobName"],
            "TRAINING_JOB_ARN": arn,
            "AWS_REGION": region,
            "SAGEMAKER_JOB_NAME": request["TrainingJobName"],
            "SAGEMAKER_REGION": region,
            "SAGEMAKER_BASE_DIR": str(base),
            "PYTHONUNBUFFERED": "1",
        }
    )
    environment.update({key: str(value) for key, value in request.get("Environment", {}).items()})
    return environment, arguments
