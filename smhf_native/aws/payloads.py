"""Payloads of SageMaker calls, as plain dicts. Nothing here needs boto3 or a network.

The shapes are those that SDK v2 was observed to send; local mode stores the training payload as
``request.json``, AWS mode sends it.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "create_endpoint",
    "create_endpoint_config",
    "create_model",
    "create_training_job",
    "metric_statistics",
    "production_variant",
]


def _set(target: dict[str, Any], **values: Any) -> None:
    """Add the entries whose value is not None."""
    target.update({key: value for key, value in values.items() if value is not None})


def create_training_job(
    *,
    job_name: str,
    image_uri: str,
    role: str,
    hyperparameters: dict[str, str],
    inputs: list[dict[str, Any]],
    output_path: str,
    instance_type: str | None,
    instance_count: int | None,
    volume_size: int = 30,
    max_run: int = 86400,
    input_mode: str = "File",
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the CreateTrainingJob payload.

    Parameters
    ----------
    hyperparameters : dict of str to str
        Values already encoded as JSON texts.
    inputs : list of dict
        See :func:`smhf_native.inputs.input_config`.
    max_run : int
        Seconds. ``options["max_wait"]`` goes beside it for spot jobs.
    options : dict
        Further arguments under the estimator's names (``volume_kms_key``, ``use_spot_instances``, …);
        entries that are None are left out of the payload.
    """
    more = dict(options or {})
    take = more.pop
    algorithm: dict[str, Any] = {"TrainingInputMode": input_mode, "TrainingImage": image_uri}
    _set(
        algorithm,
        MetricDefinitions=take("metric_definitions", None) or None,
        EnableSageMakerMetricsTimeSeries=take("enable_sagemaker_metrics", None),
        ContainerEntrypoint=take("container_entry_point", None),
        ContainerArguments=take("container_arguments", None),
    )
    repository_mode = take("training_repository_access_mode", None)
    provider = take("training_repository_credentials_provider_arn", None)
    if repository_mode is not None:
        image_config: dict[str, Any] = {"TrainingRepositoryAccessMode": repository_mode}
        if provider is not None:
            image_config["TrainingRepositoryAuthConfig"] = {
                "TrainingRepositoryCredentialsProviderArn": provider
            }
        algorithm["TrainingImageConfig"] = image_config

    output: dict[str, Any] = {"S3OutputPath": output_path}
    _set(output, KmsKeyId=take("output_kms_key", None))
    if take("disable_output_compression", False):
        output["CompressionType"] = "NONE"

    groups = take("instance_groups", None)
    resources: dict[str, Any] = {"VolumeSizeInGB": volume_size}
    if groups:
        resources["InstanceGroups"] = [
            group if isinstance(group, dict) else group._to_request_dict() for group in groups
        ]
    else:
        resources.update(InstanceCount=instance_count, InstanceType=instance_type)
    _set(
        resources,
        VolumeKmsKeyId=take("volume_kms_key", None),
        KeepAlivePeriodInSeconds=take("keep_alive_period_in_seconds", None),
        TrainingPlanArn=take("training_plan", None),
        InstancePlacementConfig=take("instance_placement_config", None),
    )

    stopping: dict[str, Any] = {"MaxRuntimeInSeconds": max_run}
    _set(stopping, MaxWaitTimeInSeconds=take("max_wait", None))

    payload: dict[str, Any] = {
        "TrainingJobName": job_name,
        "AlgorithmSpecification": algorithm,
        "OutputDataConfig": output,
        "StoppingCondition": stopping,
        "ResourceConfig": resources,
        "RoleArn": role,
    }
    if inputs:
        payload["InputDataConfig"] = inputs
    if hyperparameters:
        payload["HyperParameters"] = hyperparameters
    checkpoint_uri = take("checkpoint_s3_uri", None)
    checkpoint_path = take("checkpoint_local_path", None)
    if checkpoint_uri:
        payload["CheckpointConfig"] = {"S3Uri": checkpoint_uri}
        if checkpoint_path:
            payload["CheckpointConfig"]["LocalPath"] = checkpoint_path
    subnets, groups_ids = take("subnets", None), take("security_group_ids", None)
    if subnets and groups_ids:
        payload["VpcConfig"] = {"Subnets": list(subnets), "SecurityGroupIds": list(groups_ids)}
    for key, name in (
        ("EnableManagedSpotTraining", "use_spot_instances"),
        ("EnableNetworkIsolation", "enable_network_isolation"),
        ("EnableInterContainerTrafficEncryption", "encrypt_inter_container_traffic"),
    ):
        if take(name, False):
            payload[key] = True
    attempts = take("max_retry_attempts", None)
    if attempts is not None:
        payload["RetryStrategy"] = {"MaximumRetryAttempts": attempts}
    _set(
        payload,
        Tags=take("tags", None) or None,
        Environment=take("environment", None) or None,
        ExperimentConfig=take("experiment_config", None),
        DebugRuleConfigurations=take("debugger_rule_configs", None) or None,
        DebugHookConfig=take("debugger_hook_config", None),
        TensorBoardOutputConfig=take("tensorboard_output_config", None),
        ProfilerRuleConfigurations=take("profiler_rule_configs", None) or None,
        ProfilerConfig=take("profiler_config", None),
    )
    remote_debug, tag_chaining = take("enable_remote_debug", None), take("enable_session_tag_chaining", None)
    if remote_debug is not None:
        payload["RemoteDebugConfig"] = {"EnableRemoteDebug": bool(remote_debug)}
    if tag_chaining is not None:
        payload["SessionChainingConfig"] = {"EnableSessionTagChaining": bool(tag_chaining)}
    if take("enable_infra_check", None):
        payload["InfraCheckConfig"] = {"EnableInfraCheck": True}
    if more:
        raise ValueError(f"create_training_job: unknown option {sorted(more)[0]!r}")
    return payload


def create_model(
    *,
    model_name: str,
    role: str,
    image_uri: str,
    model_data: str | None,
    environment: dict[str, str],
    vpc_config: dict[str, Any] | None = None,
    enable_network_isolation: bool = False,
    tags: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Return the CreateModel payload for one container."""
    container: dict[str, Any] = {"Image": image_uri, "Environment": environment}
    _set(container, ModelDataUrl=model_data)
    payload: dict[str, Any] = {
        "ModelName": model_name,
        "ExecutionRoleArn": role,
        "PrimaryContainer": container,
    }
    _set(payload, VpcConfig=vpc_config, Tags=tags or None)
    if enable_network_isolation:
        payload["EnableNetworkIsolation"] = True
    return payload


def production_variant(
    model_name: str,
    instance_type: str | None = None,
    initial_instance_count: int | None = None,
    variant_name: str = "AllTraffic",
    initial_weight: float = 1,
    *,
    serverless: dict[str, Any] | None = None,
    volume_size: int | None = None,
    model_data_download_timeout: int | None = None,
    container_startup_health_check_timeout: int | None = None,
) -> dict[str, Any]:
    """Return one ProductionVariant; ``serverless`` replaces instance type and count."""
    variant: dict[str, Any] = {
        "VariantName": variant_name,
        "ModelName": model_name,
        "InitialVariantWeight": initial_weight,
    }
    if serverless is not None:
        variant["ServerlessConfig"] = serverless
    else:
        variant.update(InitialInstanceCount=initial_instance_count, InstanceType=instance_type)
    _set(
        variant,
        VolumeSizeInGB=volume_size,
        ModelDataDownloadTimeoutInSeconds=model_data_download_timeout,
        ContainerStartupHealthCheckTimeoutInSeconds=container_startup_health_check_timeout,
    )
    return variant


def create_endpoint_config(
    name: str,
    variants: list[dict[str, Any]],
    *,
    tags: list[dict[str, str]] | None = None,
    kms_key: str | None = None,
    data_capture: dict[str, Any] | None = None,
    async_inference: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the CreateEndpointConfig payload."""
    payload: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": variants}
    _set(
        payload,
        Tags=tags or None,
        KmsKeyId=kms_key,
        DataCaptureConfig=data_capture,
        AsyncInferenceConfig=async_inference,
    )
    return payload


def create_endpoint(name: str, config_name: str, tags: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Return the CreateEndpoint payload (``Tags`` is always there, as the SDK sends it)."""
    return {"EndpointName": name, "EndpointConfigName": config_name, "Tags": tags or []}


def metric_statistics(
    job_name: str, metric_name: str, start: Any, end: Any, period: int = 60
) -> dict[str, Any]:
    """Return the GetMetricStatistics payload of one training metric (times: datetimes)."""
    return {
        "Namespace": "/aws/sagemaker/TrainingJobs",
        "MetricName": metric_name,
        "Dimensions": [{"Name": "TrainingJobName", "Value": job_name}],
        "StartTime": start,
        "EndTime": end,
        "Period": period,
        "Statistics": ["Average"],
    }
