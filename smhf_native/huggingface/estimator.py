"""``HuggingFace``: the estimator of ``sagemaker.huggingface``, over local jobs or SageMaker.

Arguments, defaults, checks, names and payloads follow SDK v2. In local mode ``fit`` starts a job on this
machine; in AWS mode it sends the same payload to the service.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from smhf_native.aws import images, payloads
from smhf_native.errors import SmhfError
from smhf_native.exceptions import ModeError
from smhf_native.huggingface.arguments import ARGUMENTS, PAYLOAD_OPTIONS, check_names, check_versions
from smhf_native.huggingface.naming import base_name_from_image, name_from_base
from smhf_native.inputs import input_config
from smhf_native.session import LOCAL_ACCOUNT, Session, default_session
from smhf_native.store import join_uri, parse_uri

__all__ = ["HuggingFace", "TrainingJobHandle"]


class TrainingJobHandle:
    """What ``estimator.latest_training_job`` is: one job by name.

    Attributes
    ----------
    name, job_name : str
        Name of the job.
    sagemaker_session : Session
    """

    def __init__(self, sagemaker_session: Session, job_name: str) -> None:
        self.sagemaker_session = sagemaker_session
        self.job_name = job_name

    def __repr__(self) -> str:
        return f"<training job {self.job_name!r}>"

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.job_name

    def describe(self) -> dict[str, Any]:
        """Return the DescribeTrainingJob dict."""
        return self.sagemaker_session.describe_training_job(self.job_name)

    def wait(self, logs: Any = "All", *, stop_on_interrupt: bool = False) -> None:
        """Wait until the job ends, printing what ``logs`` asks for.

        Raises
        ------
        UnexpectedStatusException
            The job failed.
        """
        from smhf_native.jobs import wait as waiting

        kind = waiting.log_kind(logs)
        if self.sagemaker_session.is_local:
            waiting.follow_local(self.job_name, wait=True, log_type=kind, stop_on_interrupt=stop_on_interrupt)
        elif kind == "None":
            self.sagemaker_session.wait_for_job(self.job_name)
        else:
            self.sagemaker_session.logs_for_job(self.job_name, wait=True, log_type=kind)

    def stop(self) -> None:
        """Ask the job to stop."""
        self.sagemaker_session.stop_training_job(self.job_name)

    def rule_job_summary(self) -> list[dict[str, Any]]:
        """Return the statuses of all debugger rules, then of all profiler rules."""
        description = self.describe()
        return [
            *(description.get("DebugRuleEvaluationStatuses") or []),
            *(description.get("ProfilerRuleEvaluationStatuses") or []),
        ]


class HuggingFace:
    """Fine-tune with a Hugging Face training script.

    Parameters
    ----------
    py_version : str
        For example ``"py36"``; part of the image name only.
    entry_point : str
        The script: relative to ``source_dir`` when that is given, else a path.
    transformers_version, pytorch_version, tensorflow_version : str, optional
        Part of the image name. Needed unless ``image_uri`` is given; exactly one framework, and all
        versions either short (``4.6`` and ``1.7``) or full (``4.6.1`` and ``1.7.1``).
    source_dir : str, optional
        Folder whose content becomes the script's folder, or the address of a ``sourcedir.tar.gz``.
    hyperparameters : dict, optional
        Command-line options of the script. As in the SDK, ``fit`` adds its ``sagemaker_*`` entries to
        this very dict.
    image_uri : str, optional
        Image instead of the looked-up one (local mode runs no image).
    distribution : dict, optional
        Not supported yet; raises.
    compiler_config : optional
        Not supported; raises.
    **kwargs
        All further arguments of the SDK's estimators, by their names; see
        :mod:`smhf_native.huggingface.arguments`. Unknown ones raise and name the nearest known one.

    Raises
    ------
    TypeError
        An unknown argument.
    ValueError
        Versions that are missing or do not fit each other, or an option that is not supported.

    Attributes
    ----------
    latest_training_job : TrainingJobHandle or None
    jobs : list of TrainingJobHandle
    output_path : str
        As given, a trailing slash included; default ``s3://{default_bucket}/``.
    """

    _framework_name = "huggingface"

    def __init__(
        self,
        py_version: str | None = None,
        entry_point: str | os.PathLike[str] | None = None,
        transformers_version: str | None = None,
        tensorflow_version: str | None = None,
        pytorch_version: str | None = None,
        source_dir: str | os.PathLike[str] | None = None,
        hyperparameters: dict[str, Any] | None = None,
        image_uri: str | None = None,
        distribution: dict[str, Any] | None = None,
        compiler_config: Any = None,
        **kwargs: Any,
    ) -> None:
        check_names(kwargs)
        values = {**ARGUMENTS, **kwargs}
        if not entry_point:
            raise ValueError("HuggingFace: entry_point is missing: the script to run")
        check_versions(py_version, transformers_version, tensorflow_version, pytorch_version, image_uri)
        if distribution:
            raise ValueError("HuggingFace: distribution is not supported yet: train on one machine")
        if compiler_config is not None:
            raise ValueError("HuggingFace: compiler_config is not supported")
        if values["git_config"] is not None:
            raise ValueError(
                "HuggingFace: git_config is not supported; clone the repository, give source_dir"
            )
        self.py_version = py_version
        self.entry_point = os.fspath(entry_point)
        self.transformers_version = transformers_version
        self.tensorflow_version = tensorflow_version
        self.pytorch_version = pytorch_version
        self.framework_version = pytorch_version or tensorflow_version
        self.source_dir = os.fspath(source_dir) if source_dir is not None else None
        self.image_uri = image_uri
        self.distribution: dict[str, Any] = {}
        self._hyperparameters: dict[str, Any] = hyperparameters if hyperparameters is not None else {}
        for name, value in values.items():
            setattr(self, name, value)
        self.sagemaker_session: Session = default_session(values["sagemaker_session"])
        if self.enable_sagemaker_metrics is None:
            self.enable_sagemaker_metrics: bool | None = True
        self.dependencies: list[str] = list(values["dependencies"] or [])
        self.rules: list[Any] = list(values["rules"] or [])
        self.environment: dict[str, str] | None = values["environment"]
        self.uploaded_code: Any = None
        self.latest_training_job: TrainingJobHandle | None = None
        self.jobs: list[TrainingJobHandle] = []
        self._check_values()
        self._default_output = self.output_path is None
        if self.output_path is None:
            bucket = self.sagemaker_session.default_bucket()
            prefix = self.sagemaker_session.default_bucket_prefix
            self.output_path: str = f"s3://{bucket}/" + (f"{prefix.strip('/')}/" if prefix else "")
        parse_uri(self.output_path)

    def _check_values(self) -> None:
        local = self.sagemaker_session.is_local
        if local:
            if self.instance_groups:
                raise ValueError("HuggingFace: instance_groups is not supported by local mode")
            self.instance_count: int | None = 1 if self.instance_count is None else self.instance_count
            self.instance_type: str | None = self.instance_type or "local"
            if self.instance_count != 1:
                raise ValueError(
                    f"HuggingFace: instance_count={self.instance_count} is not supported by local mode yet: "
                    "use instance_count=1"
                )
        else:
            if not self.instance_groups and (not self.instance_count or not self.instance_type):
                raise ValueError("HuggingFace: instance_count and instance_type are needed")
            if str(self.instance_type).startswith("local"):
                raise ModeError(
                    f"instance_type={self.instance_type!r} with a session in 'aws' mode: local jobs need "
                    "Session(mode='local')"
                )
            if not self.role:
                raise ValueError("HuggingFace: role is missing: the ARN of the job's execution role")
        if self.use_spot_instances and self.max_wait is not None and self.max_wait < self.max_run:
            raise ValueError(
                f"HuggingFace: max_wait ({self.max_wait}) must be at least max_run ({self.max_run})"
            )
        if self.disable_profiler and self.profiler_config is not None:
            raise RuntimeError("HuggingFace: profiler_config and disable_profiler=True exclude each other")
        if self.disable_profiler and self.profiler_rules:
            raise RuntimeError("HuggingFace: ProfilerRule and disable_profiler=True exclude each other")
        if self.metric_definitions:
            from smhf_native.jobs.metrics import check_definitions

            check_definitions(self.metric_definitions)

    # Typed views of what the constructor stored by name.
    role: str | None
    volume_size: int
    max_run: int
    input_mode: str
    max_wait: int | None
    metric_definitions: list[dict[str, str]] | None
    use_spot_instances: bool
    base_job_name: str | None
    code_location: str | None
    container_log_level: int
    checkpoint_s3_uri: str | None
    model_uri: str | None
    model_channel_name: str
    debugger_hook_config: Any
    tensorboard_output_config: Any
    profiler_config: Any
    disable_profiler: bool | None
    instance_groups: Any
    tags: list[dict[str, str]] | None
    subnets: list[str] | None
    security_group_ids: list[str] | None

    @property
    def debugger_rules(self) -> list[Any]:
        """The debugger rules among ``rules``."""
        return [rule for rule in self.rules if not hasattr(rule, "to_profiler_rule_config_dict")]

    @property
    def profiler_rules(self) -> list[Any]:
        """The profiler rules among ``rules``."""
        return [rule for rule in self.rules if hasattr(rule, "to_profiler_rule_config_dict")]

    # Hyperparameters -------------------------------------------------------------------------

    def hyperparameters(self) -> dict[str, str]:
        """Return the hyperparameters, each value as JSON text."""
        encoded = {}
        for key, value in self._hyperparameters.items():
            try:
                encoded[str(key)] = json.dumps(value)
            except TypeError as error:
                raise TypeError(f"hyperparameter {key!r} cannot be written as JSON: {error}") from None
        return encoded

    def set_hyperparameters(self, **kwargs: Any) -> None:
        """Add or replace hyperparameters."""
        self._hyperparameters.update(kwargs)

    # Running ---------------------------------------------------------------------------------

    def training_image_uri(self, region: str | None = None) -> str:
        """Return the image that the payload names."""
        if self.image_uri:
            return self.image_uri
        return images.huggingface_image(
            "training",
            region or self.sagemaker_session.boto_region_name,
            self.transformers_version or "",
            "pytorch" if self.pytorch_version else "tensorflow",
            self.framework_version or "",
            self.py_version or "",
            self.instance_type,
            strict=not self.sagemaker_session.is_local,
        )

    def fit(
        self,
        inputs: Any = None,
        wait: bool = True,
        logs: Any = "All",
        job_name: str | None = None,
        experiment_config: dict[str, str] | None = None,
    ) -> None:
        """Start a training job and, with ``wait``, follow it to its end.

        Ctrl-C while a local job is followed stops the job: SIGTERM, 120 s, SIGKILL.

        Parameters
        ----------
        inputs : str, TrainingInput, or dict of channel name to these
        logs : {"All", "None", "Training", "Rules"} or bool
            What waiting prints.
        job_name : str, optional
            Default: ``base_job_name`` (or the image's name) and the time.

        Raises
        ------
        PreflightError, ObjectNotFoundError, ValueError
            Something is missing; nothing was started.
        UnexpectedStatusException
            ``wait`` and the job failed.
        """
        from smhf_native.jobs import wait as waiting

        waiting.log_kind(logs)
        request = self._request(inputs, job_name, experiment_config)
        try:
            self.sagemaker_session.sagemaker_client.create_training_job(**request)
        except SmhfError:
            if self.sagemaker_session.is_local:  # a refused job leaves nothing behind
                staged = json.loads(request["HyperParameters"]["sagemaker_submit_directory"])
                if staged != self.source_dir:
                    self.sagemaker_session.store.delete(staged)
            raise
        job = TrainingJobHandle(self.sagemaker_session, request["TrainingJobName"])
        self.latest_training_job = job
        self.jobs.append(job)
        if wait:
            job.wait(logs=logs, stop_on_interrupt=True)

    def _request(
        self, inputs: Any, job_name: str | None, experiment_config: dict[str, str] | None
    ) -> dict[str, Any]:
        session = self.sagemaker_session
        image = self.training_image_uri()
        name = job_name or name_from_base(self.base_job_name or base_name_from_image(image))
        channels = input_config(inputs, local=session.is_local)
        if self.model_uri:
            channels += input_config({self.model_channel_name: self.model_uri}, local=session.is_local)
        self._hyperparameters["sagemaker_submit_directory"] = self._stage_code(name)
        self._hyperparameters["sagemaker_program"] = (
            self.entry_point if self.source_dir else os.path.basename(self.entry_point)
        )
        self._hyperparameters["sagemaker_container_log_level"] = self.container_log_level
        self._hyperparameters["sagemaker_job_name"] = name
        self._hyperparameters["sagemaker_region"] = session.boto_region_name
        options = {key: getattr(self, key) for key in PAYLOAD_OPTIONS}
        options.update(self._debugger_options(name))
        options["tags"] = self.tags
        options["experiment_config"] = experiment_config
        return payloads.create_training_job(
            job_name=name,
            image_uri=image,
            role=self._role_arn(),
            hyperparameters=self.hyperparameters(),
            inputs=channels,
            output_path=self.output_path,
            instance_type=self.instance_type,
            instance_count=self.instance_count,
            volume_size=self.volume_size,
            max_run=self.max_run,
            input_mode=self.input_mode,
            options=options,
        )

    def _role_arn(self) -> str:
        role = self.role or ""
        if "/" in role:
            return role
        if self.sagemaker_session.is_local:
            return f"arn:aws:iam::{LOCAL_ACCOUNT}:role/{role or 'smhf-native-local'}"
        return str(self.sagemaker_session.aws.expand_role(role))

    def _stage_code(self, name: str) -> str:
        """Pack the source folder and put it into the bucket; return its address."""
        if self.source_dir and self.source_dir.startswith("s3://"):
            return self.source_dir
        from smhf_native.jobs import archives

        members = list(_source_members(self.entry_point, self.source_dir, self.dependencies))
        base = self.code_location or f"s3://{parse_uri(self.output_path)[0]}"
        uri = join_uri(base, name, "source", "sourcedir.tar.gz")
        with tempfile.TemporaryDirectory(prefix="smhf-") as folder:
            archive = Path(folder) / "sourcedir.tar.gz"
            archives.create(archive, members)
            session = self.sagemaker_session
            if session.is_local:
                session.store.upload(archive, uri)
            else:
                bucket, key = parse_uri(uri)
                extra = {"ServerSideEncryption": "aws:kms"}
                session.aws.upload_file(str(archive), bucket, key, None, extra)
        return uri

    def _debugger_options(self, name: str) -> dict[str, Any]:
        """Return the payload parts of rules, hook and profiler."""
        from smhf_native.debugger.images import DEFAULT_RULE_EVALUATOR_IMAGE, get_rule_container_image_uri

        options: dict[str, Any] = {}
        for rule in self.rules:
            if getattr(rule, "image_uri", None) == DEFAULT_RULE_EVALUATOR_IMAGE:
                rule.image_uri = get_rule_container_image_uri(self.sagemaker_session.boto_region_name)
        hook = self.debugger_hook_config
        if self.debugger_rules and hook is None:
            from smhf_native.debugger import DebuggerHookConfig

            hook = self.debugger_hook_config = DebuggerHookConfig(s3_output_path=self.output_path)
        if hook:
            if not hook.s3_output_path:
                hook.s3_output_path = self.output_path
            collections = list(hook.collection_configs or [])
            for rule in self.debugger_rules:
                for item in getattr(rule, "collection_configs", None) or []:
                    if item not in collections:
                        collections.append(item)
            hook.collection_configs = collections
            options["debugger_hook_config"] = hook._to_request_dict()
        configs = []
        for rule in self.debugger_rules:
            if hasattr(rule, "prepare_actions"):
                rule.prepare_actions(name)
            configs.append(rule.to_debugger_rule_config_dict())
        options["debugger_rule_configs"] = configs
        options["profiler_rule_configs"] = [
            rule.to_profiler_rule_config_dict() for rule in self.profiler_rules
        ]
        if self.profiler_config is None and self.profiler_rules:
            from smhf_native.debugger import ProfilerConfig

            self.profiler_config = ProfilerConfig(s3_output_path=self.output_path)
        if self.profiler_config is not None:
            if not self.profiler_config.s3_output_path:
                self.profiler_config.s3_output_path = self.output_path
            options["profiler_config"] = self.profiler_config._to_request_dict()
        if self.tensorboard_output_config is not None:
            options["tensorboard_output_config"] = self.tensorboard_output_config._to_request_dict()
        return options

    # Results ---------------------------------------------------------------------------------

    def _need_job(self) -> TrainingJobHandle:
        if self.latest_training_job is None:
            raise ValueError("this estimator has no training job yet: call fit() or HuggingFace.attach()")
        return self.latest_training_job

    def logs(self) -> None:
        """Print the latest job's log and wait for its end."""
        self._need_job().wait(logs="All")

    def stop_training_job(self) -> None:
        """Ask the latest job to stop."""
        self._need_job().stop()

    @property
    def model_data(self) -> Any:
        """Address of ``model.tar.gz`` (a dict when the output is not compressed)."""
        if self.latest_training_job is None:
            warnings.warn("no training job yet: this is the place its model would have", stacklevel=2)
            return join_uri(self.output_path, str(self.base_job_name or ""), "output", "model.tar.gz")
        description = self.latest_training_job.describe()
        try:
            address = description["ModelArtifacts"]["S3ModelArtifacts"]
        except KeyError:
            raise ValueError(
                f"training job {self.latest_training_job.name} has no model artifact: its status is "
                f"{description['TrainingJobStatus']}"
                + (f" ({description['FailureReason']})" if "FailureReason" in description else "")
            ) from None
        if description.get("OutputDataConfig", {}).get("CompressionType") == "NONE":
            return {
                "S3DataSource": {
                    "S3Uri": address.rstrip("/") + "/",
                    "S3DataType": "S3Prefix",
                    "CompressionType": "None",
                }
            }
        return address

    @property
    def training_job_analytics(self) -> Any:
        """``TrainingJobAnalytics`` of the latest job."""
        from smhf_native.analytics import TrainingJobAnalytics

        return TrainingJobAnalytics(self._need_job().name, sagemaker_session=self.sagemaker_session)

    def latest_job_debugger_artifacts_path(self) -> str:
        """Address of the latest job's debugger output."""
        return join_uri(self.output_path, self._need_job().name, "debug-output")

    def latest_job_profiler_artifacts_path(self) -> str:
        """Address of the latest job's profiler output."""
        return join_uri(self.output_path, self._need_job().name, "profiler-output")

    def latest_job_tensorboard_artifacts_path(self) -> str:
        """Address of the latest job's TensorBoard output."""
        return join_uri(self.output_path, self._need_job().name, "tensorboard-output")

    @classmethod
    def attach(
        cls,
        training_job_name: str,
        sagemaker_session: Session | None = None,
        model_channel_name: str = "model",
    ) -> HuggingFace:
        """Return an estimator of an existing job; waits for it, printing its log, when it still runs."""
        session = default_session(sagemaker_session)
        description = session.describe_training_job(training_job_name)
        parameters: dict[str, Any] = {}
        for key, value in description.get("HyperParameters", {}).items():
            try:
                parameters[key] = json.loads(value)
            except ValueError:
                parameters[key] = value
        resources = description.get("ResourceConfig", {})
        stopping = description.get("StoppingCondition", {})
        algorithm = description.get("AlgorithmSpecification", {})
        checkpoint = description.get("CheckpointConfig", {})
        tags = session.sagemaker_client.list_tags(ResourceArn=description["TrainingJobArn"])["Tags"]
        estimator = cls(
            entry_point=parameters.get("sagemaker_program") or "train.py",
            source_dir=parameters.get("sagemaker_submit_directory"),
            hyperparameters=parameters,
            image_uri=algorithm.get("TrainingImage"),
            role=description.get("RoleArn"),
            instance_count=resources.get("InstanceCount"),
            instance_type=resources.get("InstanceType"),
            volume_size=resources.get("VolumeSizeInGB", 30),
            max_run=stopping.get("MaxRuntimeInSeconds", ARGUMENTS["max_run"]),
            max_wait=stopping.get("MaxWaitTimeInSeconds"),
            use_spot_instances=description.get("EnableManagedSpotTraining", False),
            input_mode=algorithm.get("TrainingInputMode", "File"),
            output_path=description["OutputDataConfig"]["S3OutputPath"],
            metric_definitions=algorithm.get("MetricDefinitions"),
            enable_sagemaker_metrics=algorithm.get("EnableSageMakerMetricsTimeSeries"),
            container_log_level=parameters.get("sagemaker_container_log_level", 20),
            checkpoint_s3_uri=checkpoint.get("S3Uri"),
            checkpoint_local_path=checkpoint.get("LocalPath"),
            environment=description.get("Environment"),
            base_job_name=_base_of(training_job_name),
            model_channel_name=model_channel_name,
            tags=tags or None,
            sagemaker_session=session,
        )
        job = TrainingJobHandle(session, training_job_name)
        estimator.latest_training_job = job
        estimator.jobs.append(job)
        job.wait(logs="All")
        return estimator

    # Serving ---------------------------------------------------------------------------------

    def create_model(
        self,
        model_server_workers: int | None = None,
        role: str | None = None,
        vpc_config_override: Any = None,
        entry_point: str | None = None,
        source_dir: str | None = None,
        dependencies: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a ``HuggingFaceModel`` of the latest job's model."""
        from smhf_native.huggingface.model import HuggingFaceModel

        if vpc_config_override is None and self.subnets and self.security_group_ids:
            vpc_config_override = {"Subnets": self.subnets, "SecurityGroupIds": self.security_group_ids}
        if vpc_config_override is not None:
            kwargs.setdefault("vpc_config", vpc_config_override)
        if dependencies:
            kwargs["dependencies"] = dependencies
        if source_dir:
            kwargs["source_dir"] = source_dir
        return HuggingFaceModel(
            role=role or self.role or self._role_arn(),
            model_data=self.model_data,
            entry_point=entry_point,
            transformers_version=self.transformers_version,
            tensorflow_version=self.tensorflow_version,
            pytorch_version=self.pytorch_version,
            py_version=self.py_version,
            model_server_workers=model_server_workers,
            sagemaker_session=self.sagemaker_session,
            **kwargs,
        )

    def deploy(
        self,
        initial_instance_count: int | None = None,
        instance_type: str | None = None,
        serializer: Any = None,
        deserializer: Any = None,
        accelerator_type: str | None = None,
        endpoint_name: str | None = None,
        use_compiled_model: bool = False,
        wait: bool = True,
        model_name: str | None = None,
        kms_key: str | None = None,
        data_capture_config: Any = None,
        tags: list[dict[str, str]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Deploy the latest job's model; see ``HuggingFaceModel.deploy``.

        ``model_server_workers``, ``role``, ``vpc_config_override``, ``entry_point``, ``source_dir``,
        ``dependencies``, ``env`` and ``predictor_cls`` go to :meth:`create_model`.

        Returns
        -------
        HuggingFacePredictor
        """
        if use_compiled_model:
            raise ValueError("HuggingFace.deploy: use_compiled_model is not supported")
        mine = ("model_server_workers", "role", "vpc_config_override", "entry_point", "source_dir",
                "dependencies", "env", "predictor_cls", "image_uri")  # fmt: skip
        model_options = {key: kwargs.pop(key) for key in mine if key in kwargs}
        if model_name is not None:
            model_options["name"] = model_name
        model = self.create_model(**model_options)
        further = {
            "serializer": serializer,
            "deserializer": deserializer,
            "accelerator_type": accelerator_type,
            "endpoint_name": endpoint_name,
            "kms_key": kms_key,
            "data_capture_config": data_capture_config,
            "tags": tags,
        }
        kwargs.update({key: value for key, value in further.items() if value is not None})
        return model.deploy(
            initial_instance_count=initial_instance_count, instance_type=instance_type, wait=wait, **kwargs
        )

    def _later(self, what: str) -> Any:
        raise NotImplementedError(f"HuggingFace.{what} is not part of smhf_native yet")

    def transformer(self, *_: Any, **__: Any) -> Any:
        """Batch transform: not there yet; raises."""
        return self._later("transformer")

    def register(self, *_: Any, **__: Any) -> Any:
        """Model registry: not there yet; raises."""
        return self._later("register")

    def compile_model(self, *_: Any, **__: Any) -> Any:
        """Neo compilation: not there; raises."""
        return self._later("compile_model")

    def update_profiler(self, *_: Any, **__: Any) -> Any:
        """Change the profiler of a running job: not there yet; raises."""
        return self._later("update_profiler")

    def enable_default_profiling(self) -> Any:
        """Change the profiler of a running job: not there yet; raises."""
        return self._later("enable_default_profiling")

    def disable_profiling(self) -> Any:
        """Change the profiler of a running job: not there yet; raises."""
        return self._later("disable_profiling")


def _base_of(job_name: str) -> str:
    """Return a job name without the time that :func:`name_from_base` appended."""
    parts = job_name.split("-")
    return "-".join(parts[:-7]) if len(parts) > 7 and all(p.isdigit() for p in parts[-7:]) else job_name


def _source_members(entry_point: str, source_dir: str | None, dependencies: list[str]) -> Any:
    """Yield the files of sourcedir.tar.gz: children of the source folder, then the dependencies.

    Raises
    ------
    FileNotFoundError, ValueError
        Folder, script or a dependency does not exist; says where it was looked for.
    """
    from smhf_native.jobs.archives import folder_members

    if source_dir:
        folder = Path(source_dir.removeprefix("file://")).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"source_dir {source_dir!r} is no folder (cwd {os.getcwd()})")
        if os.path.isabs(entry_point) or not (folder / entry_point).is_file():
            there = sorted(item.name for item in folder.iterdir())[:8]
            raise FileNotFoundError(
                f"entry_point {entry_point!r} is not in source_dir {source_dir!r}, which holds: "
                f"{', '.join(there) or 'nothing'}"
            )
        yield from folder_members(folder, source=True)
    else:
        script = Path(entry_point.removeprefix("file://")).expanduser()
        if not script.is_file():
            raise FileNotFoundError(f"entry_point {entry_point!r} is no file (cwd {os.getcwd()})")
        yield script.name, script
    for item in dependencies:
        path = Path(item).expanduser()
        if path.is_dir():
            for name, file in folder_members(path, source=True):
                yield f"{path.resolve().name}/{name}", file
        elif path.is_file():
            yield path.name, path
        else:
            raise FileNotFoundError(f"dependencies: no file or folder {item!r} (cwd {os.getcwd()})")
