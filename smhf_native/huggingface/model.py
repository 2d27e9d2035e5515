"""``HuggingFaceModel``: a trained model, deployed to an endpoint on this machine or in SageMaker.

Arguments and payloads follow SDK v2 (facts: its public documentation and captured calls).
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from smhf_native.exceptions import UnexpectedStatusException
from smhf_native.huggingface.naming import base_name_from_image, name_from_base
from smhf_native.huggingface.predictor import HuggingFacePredictor
from smhf_native.session import Session, default_session

__all__ = ["HuggingFaceModel"]

_POLL = 30.0  # seconds between looks at an AWS endpoint
_NOT_LOCAL = ("accelerator_type", "kms_key", "data_capture_config", "volume_size", "tags",
              "model_data_download_timeout", "container_startup_health_check_timeout",
              "inference_recommendation_id")  # fmt: skip


class HuggingFaceModel:
    """A model artifact with what an endpoint needs to serve it.

    Parameters
    ----------
    role : str, optional
        Name or ARN of the role (AWS mode; local mode needs none).
    model_data : str, dict or path-like, optional
        ``s3://.../model.tar.gz``, a local ``model.tar.gz``, or a model folder. May be omitted with
        ``env={"HF_MODEL_ID": ..., "HF_TASK": ...}``.
    entry_point, source_dir, dependencies : optional
        A file of handlers (model_fn, input_fn, predict_fn, output_fn or transform_fn), its folder, and
        further folders for ``code/lib``: the artifact is packed again with them below ``code/``.
    transformers_version, tensorflow_version, pytorch_version, py_version, image_uri : str, optional
        Choose the container's image (AWS mode; local mode runs none).
    predictor_cls : callable
        Called with (endpoint name, session).
    model_server_workers : int, optional
        Threads (local) or processes (AWS) that answer requests.
    env : dict, optional
        Environment of the container: HF_MODEL_ID, HF_TASK, settings of the handlers.
    name : str, optional
    vpc_config, enable_network_isolation, model_kms_key, image_config, code_location, container_log_level \
: optional
        As in the SDK; local mode ignores them.
    sagemaker_session : Session, optional

    Raises
    ------
    ValueError
        Neither ``model_data`` nor HF_MODEL_ID, versions that the SDK refuses, or ``git_config``.
    """

    def __init__(
        self,
        role: str | None = None,
        model_data: Any = None,
        entry_point: str | None = None,
        transformers_version: str | None = None,
        tensorflow_version: str | None = None,
        pytorch_version: str | None = None,
        py_version: str | None = None,
        image_uri: str | None = None,
        predictor_cls: Any = HuggingFacePredictor,
        model_server_workers: int | None = None,
        *,
        env: dict[str, str] | None = None,
        name: str | None = None,
        vpc_config: dict[str, Any] | None = None,
        sagemaker_session: Session | None = None,
        enable_network_isolation: bool | None = None,
        model_kms_key: str | None = None,
        image_config: dict[str, Any] | None = None,
        source_dir: str | None = None,
        code_location: str | None = None,
        container_log_level: int = 20,
        dependencies: list[str] | None = None,
        git_config: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            raise TypeError(f"HuggingFaceModel: unknown argument {sorted(kwargs)[0]!r}")
        if git_config is not None:
            raise ValueError("HuggingFaceModel: git_config is not supported: give a local source_dir")
        self.env = {str(key): str(value) for key, value in (env or {}).items()}
        if model_data is None and "HF_MODEL_ID" not in self.env:
            raise ValueError("HuggingFaceModel: expected model_data, or env with HF_MODEL_ID")
        if image_uri is None:
            _check_versions(transformers_version, tensorflow_version, pytorch_version, py_version)
        self.role = role
        self.model_data = os.fspath(model_data) if isinstance(model_data, os.PathLike) else model_data
        self.entry_point = entry_point
        self.source_dir = source_dir
        self.dependencies = list(dependencies or [])
        self.transformers_version = transformers_version
        self.framework_version = tensorflow_version or pytorch_version
        self.framework = "tensorflow" if tensorflow_version else "pytorch"
        self.py_version = py_version
        self.image_uri = image_uri
        self.predictor_cls = predictor_cls
        self.model_server_workers = model_server_workers
        self.name = name
        self.vpc_config = vpc_config
        self.enable_network_isolation_flag = bool(enable_network_isolation)
        self.model_kms_key = model_kms_key
        self.image_config = image_config
        self.code_location = code_location
        self.container_log_level = container_log_level
        self.sagemaker_session = default_session(sagemaker_session)
        self.endpoint_name: str | None = None
        self.repacked_model_data: str | None = None

    def enable_network_isolation(self) -> bool:
        """Whether the container may not reach the network."""
        return self.enable_network_isolation_flag

    # Names and images ------------------------------------------------------------------------

    def serving_image_uri(self, region_name: str, instance_type: str | None = None, **_: Any) -> str:
        """Return the image that AWS would run."""
        if self.image_uri is not None:
            return self.image_uri
        from smhf_native.aws.images import huggingface_image

        kind = None if instance_type in (None, "local") else instance_type
        return huggingface_image(
            "inference",
            region_name,
            str(self.transformers_version),
            self.framework,
            str(self.framework_version),
            str(self.py_version),
            "ml.p3.2xlarge" if kind == "local_gpu" else kind,
            strict=not self.sagemaker_session.is_local,
        )

    def _base_name(self, instance_type: str | None) -> str:
        return base_name_from_image(
            self.serving_image_uri(self.sagemaker_session.boto_region_name, instance_type)
        )

    # Artifacts -------------------------------------------------------------------------------

    def _model_uri(self) -> str:
        """``model_data`` as text; a dict of S3DataSource gives its address."""
        if isinstance(self.model_data, dict):
            try:
                return str(self.model_data["S3DataSource"]["S3Uri"])
            except (KeyError, TypeError):
                raise ValueError("model_data: expected {'S3DataSource': {'S3Uri': ...}}") from None
        return str(self.model_data or "")

    def _local_source(self) -> Path | None:
        """The artifact as a local file or folder; None: HF_MODEL_ID alone."""
        text = self._model_uri()
        if not text:
            return None
        if text.startswith("s3://"):
            store = self.sagemaker_session.store
            path = store.path(text)
            if not path.exists():
                raise FileNotFoundError(store.missing(text))
            return path
        path = Path(text.removeprefix("file://")).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"model_data: no file or folder {str(path)!r} (cwd {os.getcwd()})")
        return path.resolve()

    def _program(self) -> str:
        return os.path.basename(str(self.entry_point))

    def _check_code(self) -> None:
        base = Path(self.source_dir) if self.source_dir else Path()
        if self.source_dir and not base.is_dir():
            raise FileNotFoundError(f"source_dir: no folder {self.source_dir!r} (cwd {os.getcwd()})")
        if not (base / str(self.entry_point)).is_file():
            raise FileNotFoundError(f"entry_point: no file {str(base / str(self.entry_point))!r}")
        for dependency in self.dependencies:
            if not Path(dependency).exists():
                raise FileNotFoundError(f"dependencies: no file or folder {dependency!r}")

    def _pack(self, artifact: Path | None, target: Path) -> None:
        """Write ``target`` (.tar.gz): the artifact's content with ``code/`` replaced by ours."""
        from smhf_native.jobs import archives

        self._check_code()
        with tempfile.TemporaryDirectory(prefix="smhf-repack-") as scratch:
            content = Path(scratch, "model")
            content.mkdir()
            if artifact is not None and artifact.is_dir():
                shutil.copytree(artifact, content, dirs_exist_ok=True)
            elif artifact is not None:
                archives.extract(artifact, content)
            code = content / "code"
            shutil.rmtree(code, ignore_errors=True)
            code.mkdir()
            if self.source_dir:
                for name, file in archives.folder_members(self.source_dir, source=True):
                    (code / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, code / name)
            else:
                shutil.copyfile(str(self.entry_point), code / self._program())
            for dependency in self.dependencies:
                place = code / "lib" / os.path.basename(dependency.rstrip("/"))
                place.parent.mkdir(exist_ok=True)
                if os.path.isdir(dependency):
                    shutil.copytree(dependency, place)
                else:
                    shutil.copyfile(dependency, place)
            archives.create(target, archives.folder_members(content), level=1)  # weights hardly shrink

    def _repack(self, name: str) -> str:
        """Pack code and artifact together, put it into the bucket, return its address."""
        session = self.sagemaker_session
        bucket, prefix = session.default_bucket(), name
        if self.code_location:
            from smhf_native.store import parse_uri

            bucket, key = parse_uri(self.code_location)
            prefix = "/".join(part for part in (key.strip("/"), name) if part)
        with tempfile.TemporaryDirectory(prefix="smhf-repack-") as scratch:
            artifact: Path | None
            if session.is_local:
                artifact = self._local_source()
            else:
                artifact = self._fetch(Path(scratch))
            packed = Path(scratch, "model.tar.gz")
            self._pack(artifact, packed)
            session.upload_data(str(packed), bucket=bucket, key_prefix=prefix)
        return f"s3://{bucket}/{prefix}/model.tar.gz"

    def _fetch(self, folder: Path) -> Path | None:
        """AWS mode: a local copy of the artifact."""
        text = self._model_uri()
        if not text:
            return None
        if not text.startswith("s3://"):
            return Path(text.removeprefix("file://"))
        from smhf_native.store import parse_uri

        bucket, key = parse_uri(text)
        target = folder / "artifact.tar.gz"
        self.sagemaker_session.aws.download_file(bucket, key, str(target))
        return target

    def _environment(self, region: str | None = None) -> dict[str, str]:
        code = self.entry_point is not None
        settings = {
            "SAGEMAKER_PROGRAM": self._program() if code else "",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code" if code else "",
            "SAGEMAKER_CONTAINER_LOG_LEVEL": str(self.container_log_level),
            "SAGEMAKER_REGION": region or self.sagemaker_session.boto_region_name,
        }
        if self.model_server_workers:
            settings["SAGEMAKER_MODEL_SERVER_WORKERS"] = str(self.model_server_workers)
        return {**settings, **self.env}

    def prepare_container_def(self, instance_type: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the container definition of CreateModel: Image, Environment, ModelDataUrl."""
        region = self.sagemaker_session.boto_region_name
        image = self.serving_image_uri(region, instance_type)
        data: str | None = self._model_uri() or None
        if self.entry_point is not None:
            self.repacked_model_data = self.repacked_model_data or self._repack(
                self.name or name_from_base(base_name_from_image(image))
            )
            data = self.repacked_model_data
        definition: dict[str, Any] = {"Image": image, "Environment": self._environment()}
        if data is not None:
            definition["ModelDataUrl"] = data
        return definition

    # Deployment ------------------------------------------------------------------------------

    def deploy(
        self,
        initial_instance_count: int | None = None,
        instance_type: str | None = None,
        serializer: Any = None,
        deserializer: Any = None,
        accelerator_type: str | None = None,
        endpoint_name: str | None = None,
        tags: list[dict[str, str]] | None = None,
        kms_key: str | None = None,
        wait: bool = True,
        data_capture_config: Any = None,
        async_inference_config: Any = None,
        serverless_inference_config: Any = None,
        volume_size: int | None = None,
        model_data_download_timeout: int | None = None,
        container_startup_health_check_timeout: int | None = None,
        inference_recommendation_id: str | None = None,
        explainer_config: Any = None,
        update_endpoint: bool = False,
        *,
        keep: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Serve the model as an endpoint and return its predictor.

        Local mode serves it from the endpoint host of this process, which ends with it, and prints
        ``-`` while it loads and ``!`` when it is up.

        Parameters
        ----------
        initial_instance_count, instance_type
            Required unless ``serverless_inference_config`` is given; local mode always uses this machine.
        serializer, deserializer : object, optional
            Replace the predictor's.
        endpoint_name : str, optional
            Default: made from the model's base name and the time.
        keep : bool
            Local mode: the endpoint outlives this process.
        tags, kms_key, data_capture_config, volume_size, ... : optional
            For AWS mode; local mode says in a line what it ignores.

        Raises
        ------
        ValueError
            Arguments are missing, the name is taken, the model is refused, or
            ``async_inference_config``, ``explainer_config`` or ``update_endpoint`` is asked for.
        FileNotFoundError
            The artifact or a part of it is missing.
        UnexpectedStatusException
            AWS mode: the endpoint failed.
        """
        if kwargs:
            raise TypeError(f"HuggingFaceModel.deploy: unknown argument {sorted(kwargs)[0]!r}")
        for given, option in (
            (async_inference_config, "async_inference_config (AsyncInferenceConfig)"),
            (explainer_config, "explainer_config"),
            (update_endpoint or None, "update_endpoint=True"),
        ):
            if given is not None:
                raise ValueError(f"HuggingFaceModel.deploy: {option} is not supported yet")
        if serverless_inference_config is None and not (instance_type and initial_instance_count):
            raise ValueError(
                "HuggingFaceModel.deploy: expected instance_type and initial_instance_count, or "
                "serverless_inference_config"
            )
        kind = None if serverless_inference_config is not None else instance_type
        name = endpoint_name or name_from_base(self.name or self._base_name(kind))
        if self.sagemaker_session.is_local:
            given_options = dict(zip(_NOT_LOCAL, (
                accelerator_type, kms_key, data_capture_config, volume_size, tags,
                model_data_download_timeout, container_startup_health_check_timeout,
                inference_recommendation_id), strict=True))  # fmt: skip
            _say_local(given_options, instance_type, initial_instance_count, serverless_inference_config)
            self._deploy_local(name, wait, keep)
        else:
            if keep:
                raise ValueError("HuggingFaceModel.deploy: keep=True has a meaning in local mode only")
            capture = data_capture_config
            self._deploy_aws(
                name,
                kind,
                initial_instance_count,
                serverless_inference_config,
                wait=wait,
                tags=tags,
                kms_key=kms_key,
                data_capture=capture._to_request_dict() if hasattr(capture, "_to_request_dict") else capture,
                volume_size=volume_size,
                model_data_download_timeout=model_data_download_timeout,
                container_startup_health_check_timeout=container_startup_health_check_timeout,
            )
        self.endpoint_name = name
        if self.predictor_cls is None:
            return None
        predictor = self.predictor_cls(name, self.sagemaker_session)
        if serializer is not None:
            predictor.serializer = serializer
        if deserializer is not None:
            predictor.deserializer = deserializer
        return predictor

    def _deploy_local(self, name: str, wait: bool, keep: bool) -> None:
        from smhf_native.jobs import endpoint_host

        if self.entry_point is not None:
            self.repacked_model_data = self._repack(self.name or name)
            source: str | Path = self.sagemaker_session.store.path(self.repacked_model_data)
        else:
            source = self._local_source() or ""
        with concurrent.futures.ThreadPoolExecutor(1) as background:
            loading = background.submit(
                endpoint_host.add_endpoint,
                name,
                source,
                keep=keep,
                environment={k: v for k, v in self._environment().items() if v},
                workers=self.model_server_workers,
                model_data=self._model_uri() or self.env.get("HF_MODEL_ID"),
            )
            while wait and not loading.done():
                print("-", end="", flush=True)
                concurrent.futures.wait([loading], timeout=1.0)
            if wait and loading.exception() is not None:
                print(flush=True)
            loading.result()
        if wait:
            print("!", flush=True)

    def _deploy_aws(
        self,
        name: str,
        instance_type: str | None,
        count: int | None,
        serverless: Any,
        *,
        wait: bool,
        tags: list[dict[str, str]] | None,
        kms_key: str | None,
        data_capture: dict[str, Any] | None,
        **variant_options: Any,
    ) -> None:
        from smhf_native.aws import payloads

        session = self.sagemaker_session
        if self.role is None:
            raise ValueError("HuggingFaceModel: role is required in AWS mode")
        definition = self.prepare_container_def(instance_type)
        model_name = self.name or name_from_base(base_name_from_image(definition["Image"]))
        payload = payloads.create_model(
            model_name=model_name,
            role=session.aws.expand_role(self.role),
            image_uri=definition["Image"],
            model_data=definition.get("ModelDataUrl"),
            environment=definition["Environment"],
            vpc_config=self.vpc_config,
            enable_network_isolation=self.enable_network_isolation_flag,
            tags=tags,
        )
        if self.image_config is not None:
            payload["PrimaryContainer"]["ImageConfig"] = self.image_config
        client = session.sagemaker_client
        client.create_model(**payload)
        self.name = model_name
        variant = payloads.production_variant(
            model_name,
            instance_type,
            count,
            serverless=serverless._to_request_dict() if serverless is not None else None,
            **variant_options,
        )
        client.create_endpoint_config(
            **payloads.create_endpoint_config(
                name, [variant], tags=tags, kms_key=kms_key, data_capture=data_capture
            )
        )
        client.create_endpoint(**payloads.create_endpoint(name, name, tags))
        if wait:
            _wait_for_endpoint(client, name)

    def delete_model(self) -> None:
        """Delete the model entity that :meth:`deploy` made (local mode keeps none)."""
        if self.name is None:
            raise ValueError("HuggingFaceModel.delete_model: no model was made yet")
        self.sagemaker_session.delete_model(self.name)

    def transformer(self, *_: Any, **__: Any) -> Any:
        """Batch transform: not there yet; raises."""
        raise NotImplementedError("HuggingFaceModel.transformer is not part of smhf_native yet")

    def register(self, *_: Any, **__: Any) -> Any:
        """Model registry: not there yet; raises."""
        raise NotImplementedError("HuggingFaceModel.register is not part of smhf_native yet")


def _check_versions(
    transformers: str | None, tensorflow: str | None, pytorch: str | None, py_version: str | None
) -> None:
    if transformers is None:
        raise ValueError("HuggingFaceModel: expected transformers_version (or image_uri)")
    if (tensorflow is None) == (pytorch is None):
        raise ValueError("HuggingFaceModel: expected one of tensorflow_version and pytorch_version")
    if py_version is None:
        raise ValueError("HuggingFaceModel: expected py_version (or image_uri)")


def _say_local(
    options: dict[str, Any], instance_type: str | None, count: int | None, serverless: Any
) -> None:
    ignored = [key for key, value in options.items() if value is not None]
    if count is not None and count > 1:
        ignored.append(f"initial_instance_count={count}")
    if ignored:
        print(f"smhf_native: local endpoint: {', '.join(ignored)} ignored", file=sys.stderr)
    if serverless is not None:
        print("smhf_native: ServerlessInferenceConfig: the local endpoint serves on this machine all the "
              "time", file=sys.stderr)  # fmt: skip
    from smhf_native.aws.images import is_gpu_instance

    if serverless is None and (is_gpu_instance(instance_type) or instance_type == "local_gpu"):
        from smhf_native.model import backends

        cuda = backends().get("cuda", {})
        if not cuda.get("available"):
            print(
                f"smhf_native: {instance_type}: the local endpoint computes on the processor "
                f"({cuda.get('reason', 'no GPU')})",
                file=sys.stderr,
            )


def _wait_for_endpoint(client: Any, name: str) -> None:
    """Look every 30 seconds, print ``-`` each time, ``!`` when the endpoint is up."""
    while True:
        description = client.describe_endpoint(EndpointName=name)
        status = description["EndpointStatus"]
        if status not in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
            break
        print("-", end="", flush=True)
        time.sleep(_POLL)
    print("!" if status == "InService" else "*", end="", flush=True)
    print(flush=True)
    if status != "InService":
        reason = description.get("FailureReason", "no reason given")
        raise UnexpectedStatusException(
            f"Error hosting endpoint {name}: {status}. Reason: {reason}", ["InService"], status
        )
