"""Arguments of the estimator: the SDK's names and defaults, and what is refused about them."""

from __future__ import annotations

import difflib
from typing import Any

__all__ = ["ARGUMENTS", "PAYLOAD_OPTIONS", "check_names", "check_versions"]

# Every further argument of the SDK's estimator classes and its default.
ARGUMENTS: dict[str, Any] = {
    "role": None,
    "instance_count": None,
    "instance_type": None,
    "keep_alive_period_in_seconds": None,
    "volume_size": 30,
    "volume_kms_key": None,
    "max_run": 24 * 60 * 60,
    "input_mode": "File",
    "output_path": None,
    "output_kms_key": None,
    "base_job_name": None,
    "sagemaker_session": None,
    "tags": None,
    "subnets": None,
    "security_group_ids": None,
    "model_uri": None,
    "model_channel_name": "model",
    "metric_definitions": None,
    "encrypt_inter_container_traffic": False,
    "use_spot_instances": False,
    "max_wait": None,
    "checkpoint_s3_uri": None,
    "checkpoint_local_path": None,
    "rules": None,
    "debugger_hook_config": None,
    "tensorboard_output_config": None,
    "enable_sagemaker_metrics": None,
    "enable_network_isolation": False,
    "profiler_config": None,
    "disable_profiler": None,
    "environment": None,
    "max_retry_attempts": None,
    "git_config": None,
    "container_log_level": 20,
    "code_location": None,
    "dependencies": None,
    "instance_groups": None,
    "training_repository_access_mode": None,
    "training_repository_credentials_provider_arn": None,
    "enable_infra_check": None,
    "container_entry_point": None,
    "container_arguments": None,
    "disable_output_compression": False,
    "enable_remote_debug": None,
    "enable_session_tag_chaining": None,
    "training_plan": None,
    "instance_placement_config": None,
}

# Arguments that go into the payload under their own name (see payloads.create_training_job).
PAYLOAD_OPTIONS = (
    "metric_definitions", "enable_sagemaker_metrics", "container_entry_point", "container_arguments",
    "training_repository_access_mode", "training_repository_credentials_provider_arn", "output_kms_key",
    "disable_output_compression", "instance_groups", "volume_kms_key", "keep_alive_period_in_seconds",
    "training_plan", "instance_placement_config", "max_wait", "checkpoint_s3_uri",
    "checkpoint_local_path", "subnets", "security_group_ids", "use_spot_instances",
    "enable_network_isolation", "encrypt_inter_container_traffic", "max_retry_attempts", "environment",
    "enable_remote_debug", "enable_session_tag_chaining", "enable_infra_check",
)  # fmt: skip

_V1_NAMES = {
    "train_instance_count": "instance_count",
    "train_instance_type": "instance_type",
    "train_max_run": "max_run",
    "train_max_wait": "max_wait",
    "train_use_spot_instances": "use_spot_instances",
    "train_volume_kms_key": "volume_kms_key",
    "train_volume_size": "volume_size",
    "image_name": "image_uri",
}


def check_names(kwargs: dict[str, Any]) -> None:
    """Raise TypeError for an argument that does not exist; the sentence names the nearest one."""
    for name in kwargs:
        if name in _V1_NAMES:
            raise TypeError(f"HuggingFace: {name} was renamed to {_V1_NAMES[name]} in version 2 of the SDK")
        if name not in ARGUMENTS:
            near = difflib.get_close_matches(name, [*ARGUMENTS, "hyperparameters", "image_uri"], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"HuggingFace: unknown argument {name!r}{hint}")


def check_versions(
    py_version: str | None,
    transformers: str | None,
    tensorflow: str | None,
    pytorch: str | None,
    image_uri: str | None,
) -> None:
    """Raise ValueError for versions that are missing or that do not fit each other."""
    if image_uri is not None:
        return
    if transformers is None:
        raise ValueError("HuggingFace: transformers_version is needed unless image_uri is given")
    if (tensorflow is None) == (pytorch is None):
        found = "both are given" if pytorch is not None else "none is given"
        raise ValueError(f"HuggingFace: exactly one of pytorch_version and tensorflow_version: {found}")
    if py_version is None:
        raise ValueError("HuggingFace: py_version is needed unless image_uri is given")
    framework, version = ("pytorch", pytorch) if pytorch is not None else ("tensorflow", tensorflow)
    if (transformers.count(".") >= 2) != (str(version).count(".") >= 2):
        raise ValueError(
            f"HuggingFace: transformers_version={transformers!r} and {framework}_version={version!r} must "
            "both be short (4.6 and 1.7) or both be full (4.6.1 and 1.7.1)"
        )
