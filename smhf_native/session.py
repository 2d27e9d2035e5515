"""``Session``: one entry to the local folder store and local jobs, or to SageMaker itself.

The mode comes from ``Session(mode=...)``, else from the variable ``SMHF_MODE``, else it is
``"local"``, and from nothing else: AWS settings or a given ``boto_session`` never switch it. Local
mode opens no network connection and imports no boto3. Names and results follow ``sagemaker.Session``
of SDK v2 (facts: its public documentation and captured calls).
"""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

from smhf_native.exceptions import ModeError
from smhf_native.store import Store, join_uri, parse_uri, relative_key

__all__ = [
    "LOCAL_ACCOUNT",
    "LOCAL_REGION",
    "LOCAL_ROLE",
    "Session",
    "check_same_mode",
    "default_session",
    "get_execution_role",
    "resolve_mode",
]

#: Account number of local mode (AWS gives it to nobody).
LOCAL_ACCOUNT = "000000000000"
#: Region of local mode when no boto session supplies one.
LOCAL_REGION = "us-west-2"
#: Role of local mode; it grants nothing and is asked nowhere.
LOCAL_ROLE = f"arn:aws:iam::{LOCAL_ACCOUNT}:role/smhf-native-local"

_MODES = ("local", "aws")
# Sessions that are still referenced somewhere: all must agree on the mode.
_LIVE: weakref.WeakSet[Session] = weakref.WeakSet()


def resolve_mode(mode: str | None = None) -> str:
    """Return ``"local"`` or ``"aws"``: the argument, else ``SMHF_MODE``, else ``"local"``.

    Raises
    ------
    ValueError
        Another word; the sentence says where it came from.
    """
    source = "mode="
    if mode is None:
        mode = os.environ.get("SMHF_MODE", "").strip() or "local"
        source = "the variable SMHF_MODE="
    if mode not in _MODES:
        raise ValueError(f"{source}{mode!r}: expected one of {', '.join(map(repr, _MODES))}")
    return mode


def check_same_mode(*parts: Any) -> None:
    """Raise :class:`ModeError` unless all given sessions (None is skipped) are in the same mode."""
    modes = {part.mode for part in parts if part is not None}
    if len(modes) > 1:
        raise ModeError("a local session and an AWS session were mixed in one call; use sessions of one mode")


def default_session(session: Session | None = None) -> Session:
    """Return ``session``, or a new one in the default mode when it is None."""
    return session if session is not None else Session()


class Session:
    """Storage, identity and jobs of one mode.

    Parameters
    ----------
    boto_session : boto3.Session, optional
        In AWS mode: credentials and region. In local mode it supplies only the region.
    sagemaker_client, sagemaker_runtime_client, sagemaker_featurestore_runtime_client, \
sagemaker_metrics_client : optional
        Ready boto3 clients for AWS mode; local mode does not use them.
    default_bucket : str, optional
        Bucket instead of ``sagemaker-{region}-{account}``.
    settings, sagemaker_config : optional
        Accepted for the SDK's sake and kept as attributes; no default is read from them.
    default_bucket_prefix : str, optional
        Key prefix that outputs get when no place is named.
    mode : {"local", "aws"}, optional
        See :func:`resolve_mode`.

    Raises
    ------
    ModeError
        A session of the other mode is alive in this process.
    ValueError
        AWS mode without a region.
    """

    def __init__(
        self,
        boto_session: Any = None,
        sagemaker_client: Any = None,
        sagemaker_runtime_client: Any = None,
        sagemaker_featurestore_runtime_client: Any = None,
        default_bucket: str | None = None,
        settings: Any = None,
        sagemaker_metrics_client: Any = None,
        sagemaker_config: Any = None,
        default_bucket_prefix: str | None = None,
        *,
        mode: str | None = None,
    ) -> None:
        self.mode = resolve_mode(mode)
        other = next((session for session in _LIVE if session.mode != self.mode), None)
        if other is not None:
            raise ModeError(
                f"this process already works in {other.mode!r} mode and this call would use {self.mode!r}: "
                "mixing modes is refused. Pass the existing session as sagemaker_session=, set SMHF_MODE "
                "for the whole process, or delete the other session first"
            )
        self.boto_session = boto_session
        self.local_mode = False  # the SDK's word for Docker-based local mode, which this never is
        self.settings = settings
        self.config = None
        self.sagemaker_config = sagemaker_config or {}
        self.default_bucket_prefix = default_bucket_prefix
        self._default_bucket_name = default_bucket
        self._default_bucket: str | None = None
        self._aws: Any = None
        self._runtime: Any = None
        if self.mode == "aws":
            from smhf_native.aws.client import AwsClient

            self._aws = AwsClient(boto_session, sagemaker_client, sagemaker_runtime_client)
            self.boto_session = self._aws.boto_session
            self._region = self._aws.region
            self.sagemaker_client = self._aws.sagemaker
        else:
            from smhf_native.jobs.local_client import LocalSageMakerClient

            self._region = LOCAL_REGION
            if boto_session is not None:
                self._region = boto_session.region_name or LOCAL_REGION
            given = [
                name
                for name, value in (
                    ("boto_session", boto_session),
                    ("sagemaker_client", sagemaker_client),
                    ("sagemaker_runtime_client", sagemaker_runtime_client),
                )
                if value is not None
            ]
            if given:
                print(
                    f"smhf_native works in local mode: {', '.join(given)} supplies only the region "
                    f"({self._region}); nothing is sent to AWS",
                    file=sys.stderr,
                )
            self.sagemaker_client = LocalSageMakerClient(self._region)
        _LIVE.add(self)

    def __repr__(self) -> str:
        return f"Session(mode={self.mode!r}, region={self._region!r})"

    # Identity --------------------------------------------------------------------------------

    @property
    def boto_region_name(self) -> str:
        """Region of the session, e.g. ``"us-west-2"``."""
        return str(self._region)

    @property
    def is_local(self) -> bool:
        """True in local mode."""
        return self.mode == "local"

    @property
    def store(self) -> Store:
        """The local folder store (local mode only)."""
        self._need_local("store")
        return Store()

    def account_id(self) -> str:
        """Return the account number (local mode: zeros)."""
        return LOCAL_ACCOUNT if self.is_local else str(self._aws.account_id())

    def default_bucket(self) -> str:
        """Return ``sagemaker-{region}-{account}``; in AWS mode it is created when absent."""
        if self._default_bucket is None:
            name = self._default_bucket_name or f"sagemaker-{self._region}-{self.account_id()}"
            if not self.is_local:
                self._aws.ensure_bucket(name, self.account_id())
            self._default_bucket = name
        return self._default_bucket

    def get_caller_identity_arn(self) -> str:
        """Return the ARN of the role that this session acts as."""
        return LOCAL_ROLE if self.is_local else str(self._aws.caller_role_arn())

    @property
    def sagemaker_runtime_client(self) -> Any:
        """The client for ``invoke_endpoint``: of this machine's endpoints, or boto3's in AWS mode."""
        if not self.is_local:
            return self._aws.runtime
        if self._runtime is None:
            from smhf_native.huggingface.local_runtime import LocalRuntimeClient

            self._runtime = LocalRuntimeClient()
        return self._runtime

    # Storage ---------------------------------------------------------------------------------

    def upload_data(
        self,
        path: str | os.PathLike[str],
        bucket: str | None = None,
        key_prefix: str = "data",
        callback: Any = None,
        extra_args: dict[str, Any] | None = None,
    ) -> str:
        """Copy a file, or a folder with everything in it, into a bucket.

        Returns
        -------
        str
            ``s3://bucket/key_prefix`` for a folder, ``s3://bucket/key_prefix/NAME`` for one file.

        Raises
        ------
        FileNotFoundError
            ``path`` does not exist.
        """
        source = Path(path)
        bucket = bucket or self.default_bucket()
        prefix = key_prefix.strip("/")
        files: list[tuple[Path, str]] = []
        if source.is_dir():
            for folder, folders, names in os.walk(source):
                folders.sort()
                relative = os.path.relpath(folder, source)
                middle = "" if relative == "." else relative.replace(os.sep, "/")
                for name in sorted(names):
                    files.append((Path(folder) / name, "/".join(p for p in (prefix, middle, name) if p)))
            result = join_uri(f"s3://{bucket}", prefix)
        elif source.exists():
            files.append((source, "/".join(p for p in (prefix, source.name) if p)))
            result = f"s3://{bucket}/{files[0][1]}"
        else:
            raise FileNotFoundError(f"upload_data: no file or folder {str(source)!r} (cwd {os.getcwd()})")
        for file, key in files:
            if self.is_local:
                Store().upload(file, f"s3://{bucket}/{key}")
            else:
                self._aws.upload_file(str(file), bucket, key, callback, extra_args)
        return result

    def download_data(
        self,
        path: str | os.PathLike[str],
        bucket: str,
        key_prefix: str = "",
        extra_args: dict[str, Any] | None = None,
    ) -> list[str]:
        """Copy every object whose key starts with ``key_prefix`` below the folder ``path``.

        When ``key_prefix`` has a file extension each object lands at ``path/NAME``, else the tree below
        the prefix is kept. A ``UserWarning`` says so when nothing matches, and the list is empty.

        Returns
        -------
        list of str
            The files written.
        """
        keys = self.list_s3_files(bucket, key_prefix)
        keys = [key for key in keys if not key.endswith("/")]
        if not keys:
            warnings.warn(
                f"download_data: nothing in bucket {bucket!r} starts with {key_prefix!r}"
                + self._nearest(bucket, key_prefix),
                stacklevel=2,
            )
            return []
        single = bool(os.path.splitext(key_prefix)[1])
        written: list[str] = []
        for key in keys:
            tail = os.path.basename(key) if single else relative_key(key, key_prefix)
            target = os.path.join(os.fspath(path), tail)
            if any(part in ("..", "") for part in tail.split("/")):
                raise ValueError(f"download_data: the key {key!r} would leave the folder {os.fspath(path)!r}")
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            if self.is_local:
                Store().download(f"s3://{bucket}/{key}", target)
            else:
                self._aws.download_file(bucket, key, target, extra_args)
            written.append(target)
        return written

    def list_s3_files(self, bucket: str, key_prefix: str) -> list[str]:
        """Return the keys in ``bucket`` that start with ``key_prefix``."""
        if self.is_local:
            return [parse_uri(uri)[1] for uri in Store().list(f"s3://{bucket}/{key_prefix.lstrip('/')}")]
        return list(self._aws.list_keys(bucket, key_prefix))

    def read_s3_file(self, bucket: str, key_prefix: str) -> str:
        """Return the content of the object with that key as text (UTF-8)."""
        if self.is_local:
            return Store().read(f"s3://{bucket}/{key_prefix}").decode("utf-8")
        return bytes(self._aws.read_object(bucket, key_prefix)).decode("utf-8")

    def upload_string_as_file_body(self, body: str, bucket: str, key: str, kms_key: str | None = None) -> str:
        """Write ``body`` as the object ``key``; return its address."""
        if self.is_local:
            return Store().write(f"s3://{bucket}/{key}", body.encode("utf-8"))
        self._aws.put_object(bucket, key, body.encode("utf-8"), kms_key)
        return f"s3://{bucket}/{key}"

    def _nearest(self, bucket: str, key_prefix: str) -> str:
        if not self.is_local:
            return ""
        parts = [part for part in key_prefix.split("/") if part]
        while parts:
            parts.pop()
            found = Store().list(f"s3://{bucket}/{''.join(part + '/' for part in parts)}")
            if found:
                return f"; the nearest objects are {', '.join(found[:3])}"
        return f"; the bucket is empty (folder {Store().root / bucket})"

    # Training jobs ---------------------------------------------------------------------------

    def describe_training_job(self, job_name: str) -> dict[str, Any]:
        """Return the DescribeTrainingJob dict (times are aware datetimes)."""
        result: dict[str, Any] = self.sagemaker_client.describe_training_job(TrainingJobName=job_name)
        return result

    def stop_training_job(self, job_name: str) -> None:
        """Ask the job to stop: SIGTERM, 120 s, SIGKILL. Returns at once; a finished job is left alone."""
        self.sagemaker_client.stop_training_job(TrainingJobName=job_name)

    def logs_for_job(
        self,
        job_name: str,
        wait: bool = False,
        poll: float = 10,
        log_type: str = "All",
        timeout: float | None = None,
    ) -> None:
        """Print the job's log lines and state changes; with ``wait`` until the job ends.

        Raises
        ------
        UnexpectedStatusException
            ``wait`` and the job failed; :class:`CapacityError` when the reason says so.
        """
        from smhf_native.jobs import wait as waiting

        if self.is_local:
            waiting.follow_local(job_name, wait=wait, log_type=log_type, timeout=timeout)
        else:
            self._aws.follow_logs(job_name, wait=wait, poll=poll, log_type=log_type, timeout=timeout)

    def wait_for_job(self, job: str, poll: float = 5) -> dict[str, Any]:
        """Wait until the job ends, printing state changes but no log; return its description."""
        from smhf_native.jobs import wait as waiting

        if not self.is_local:
            description: dict[str, Any] = self._aws.wait_for_job(job, poll)
            return description
        waiting.follow_local(job, wait=True, log_type="None")
        return self.describe_training_job(job)

    # Endpoints and models --------------------------------------------------------------------

    def delete_endpoint(self, endpoint_name: str) -> None:
        """Delete an endpoint by name."""
        self.sagemaker_client.delete_endpoint(EndpointName=endpoint_name)

    def delete_endpoint_config(self, endpoint_config_name: str) -> None:
        """Delete an endpoint configuration (local mode keeps none: nothing to do)."""
        self.sagemaker_client.delete_endpoint_config(EndpointConfigName=endpoint_config_name)

    def delete_model(self, model_name: str) -> None:
        """Delete a model entity (local mode keeps none; the artifacts in the store stay)."""
        self.sagemaker_client.delete_model(ModelName=model_name)

    @property
    def aws(self) -> Any:
        """The client of AWS mode (:class:`smhf_native.aws.client.AwsClient`)."""
        if self._aws is None:
            raise ModeError("this session is in local mode: it has no AWS client (use Session(mode='aws'))")
        return self._aws

    def _need_local(self, what: str) -> None:
        if not self.is_local:
            raise ModeError(f"{what} exists in local mode only; this session is in 'aws' mode")


def get_execution_role(sagemaker_session: Session | None = None, use_default: bool = False) -> str:
    """Return the ARN of the role that jobs run as.

    Local mode returns a placeholder without asking anybody. AWS mode reads SageMaker's metadata file,
    else the caller's identity.

    Raises
    ------
    ValueError
        AWS mode, and the caller is not a role.
    """
    session = default_session(sagemaker_session)
    return LOCAL_ROLE if session.is_local else str(session.aws.execution_role(use_default))


def production_variant(
    model_name: str,
    instance_type: str | None = None,
    initial_instance_count: int | None = None,
    variant_name: str = "AllTraffic",
    initial_weight: float = 1,
    **options: Any,
) -> dict[str, Any]:
    """Return one ProductionVariant of CreateEndpointConfig."""
    from smhf_native.aws import payloads

    return payloads.production_variant(
        model_name, instance_type, initial_instance_count, variant_name, initial_weight, **options
    )
