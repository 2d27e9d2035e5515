"""AWS mode: the calls that the notebook makes, through boto3.

Payloads come from :mod:`smhf_native.aws.payloads`; this file only sends, waits and prints. No telemetry,
no configuration files of its own. Needs the extra ``aws`` (boto3), imported when a session is made.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from smhf_native.aws import payloads
from smhf_native.errors import MissingExtraError
from smhf_native.exceptions import CapacityError, UnexpectedStatusException

__all__ = ["AwsClient"]

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_METADATA = Path("/opt/ml/metadata/resource-metadata.json")
_TERMINAL = ("Completed", "Failed", "Stopped")
_DESCRIBE_SECONDS = 30.0


class AwsClient:
    """Clients of one boto session and the calls over them.

    Parameters
    ----------
    boto_session : boto3.Session, optional
        Default: a new one from the usual AWS settings.
    sagemaker_client, runtime_client : optional
        Ready clients to use instead of new ones.

    Raises
    ------
    MissingExtraError
        boto3 is not installed.
    ValueError
        No region is configured.
    """

    def __init__(
        self, boto_session: Any = None, sagemaker_client: Any = None, runtime_client: Any = None
    ) -> None:
        try:
            import boto3
            import botocore.config
        except ImportError:
            raise MissingExtraError.of("boto3", "aws", "AWS mode") from None
        self.boto_session = boto_session or boto3.Session()
        self.region = self.boto_session.region_name
        if self.region is None and sagemaker_client is not None:
            self.region = sagemaker_client.meta.region_name
        if not self.region:
            raise ValueError(
                "AWS mode needs a local AWS configuration with a region that SageMaker supports: give "
                "boto_session=boto3.Session(region_name=...) or set AWS_DEFAULT_REGION"
            )
        self.sagemaker = sagemaker_client or self.client("sagemaker")
        # Answers may take 60 s by contract.
        self.runtime = runtime_client or self.client(
            "sagemaker-runtime", config=botocore.config.Config(read_timeout=80)
        )
        self._clients: dict[str, Any] = {}
        self._account: str | None = None

    def client(self, service: str, **options: Any) -> Any:
        """Return a new boto3 client of ``service`` in this session's region."""
        return self.boto_session.client(service, region_name=self.region, **options)

    def _cached(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self.client(service)
        return self._clients[service]

    # Identity --------------------------------------------------------------------------------

    def account_id(self) -> str:
        """Return the caller's account number."""
        if self._account is None:
            self._account = str(self._cached("sts").get_caller_identity()["Account"])
        return self._account

    def caller_role_arn(self) -> str:
        """Return the ARN of the role that the caller has assumed, or of the user."""
        from_metadata = self._metadata_role()
        if from_metadata:
            return from_metadata
        arn = str(self._cached("sts").get_caller_identity()["Arn"])
        match = re.match(r"^(arn:[^:]+):sts::(\d+):assumed-role/([^/]+)/.+$", arn)
        if match is None:
            return arn
        name = match.group(3)
        try:
            return str(self._cached("iam").get_role(RoleName=name)["Role"]["Arn"])
        except Exception as error:
            if not _is_client_error(error):
                raise
        # Without the right to ask for the role its path can only be guessed.
        path = "service-role/" if name.startswith("AmazonSageMaker-ExecutionRole") else ""
        return f"{match.group(1)}:iam::{match.group(2)}:role/{path}{name}"

    def _metadata_role(self) -> str | None:
        try:
            data = json.loads(_METADATA.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if data.get("ExecutionRoleArn"):
            return str(data["ExecutionRoleArn"])
        if data.get("DomainId"):
            settings: dict[str, Any] = {}
            if data.get("UserProfileName"):
                settings = self.sagemaker.describe_user_profile(
                    DomainId=data["DomainId"], UserProfileName=data["UserProfileName"]
                ).get("UserSettings", {})
            role = settings.get("ExecutionRole")
            if role is None:
                domain = self.sagemaker.describe_domain(DomainId=data["DomainId"])
                role = domain["DefaultUserSettings"]["ExecutionRole"]
            return str(role)
        if data.get("ResourceName"):
            name = data["ResourceName"]
            return str(self.sagemaker.describe_notebook_instance(NotebookInstanceName=name)["RoleArn"])
        return None

    def execution_role(self, use_default: bool = False) -> str:
        """Return the role for jobs; raises ValueError when the caller is not a role."""
        arn = self.caller_role_arn()
        if ":role/" in arn:
            return arn
        if use_default:
            raise ValueError("get_execution_role(use_default=True) is not supported: pass a role's ARN")
        raise ValueError(
            f"The current AWS identity is not a role: {arn}, so it cannot be a SageMaker execution role"
        )

    def expand_role(self, role: str) -> str:
        """Return the ARN of a role given by its name."""
        return role if "/" in role else str(self._cached("iam").get_role(RoleName=role)["Role"]["Arn"])

    # Storage ---------------------------------------------------------------------------------

    def ensure_bucket(self, name: str, account: str) -> None:
        """Create bucket ``name`` when it does not exist; refuse one of another account."""
        s3 = self._cached("s3")
        try:
            s3.head_bucket(Bucket=name, ExpectedBucketOwner=account)
            return
        except Exception as error:
            if not _is_client_error(error):
                raise
            code = _error_code(error)
            if code not in ("404", "NoSuchBucket"):
                raise
        # us-east-1 is the default location and may not be named.
        options = {} if self.region == "us-east-1" else {"LocationConstraint": self.region}
        try:
            if options:
                s3.create_bucket(Bucket=name, CreateBucketConfiguration=options)
            else:
                s3.create_bucket(Bucket=name)
        except Exception as error:
            if not _is_client_error(error) or _error_code(error) not in (
                "BucketAlreadyOwnedByYou",
                "OperationAborted",
            ):
                raise

    def upload_file(self, path: str, bucket: str, key: str, callback: Any = None, extra: Any = None) -> None:
        """Upload one file."""
        self._cached("s3").upload_file(path, bucket, key, ExtraArgs=extra, Callback=callback)

    def download_file(self, bucket: str, key: str, path: str, extra: Any = None) -> None:
        """Download one object."""
        self._cached("s3").download_file(bucket, key, path, ExtraArgs=extra)

    def list_keys(self, bucket: str, prefix: str) -> list[str]:
        """Return all keys that start with ``prefix``."""
        keys: list[str] = []
        for page in (
            self._cached("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        ):
            keys += [item["Key"] for item in page.get("Contents", [])]
        return keys

    def read_object(self, bucket: str, key: str) -> bytes:
        """Return the content of one object."""
        return bytes(self._cached("s3").get_object(Bucket=bucket, Key=key)["Body"].read())

    def put_object(self, bucket: str, key: str, body: bytes, kms_key: str | None = None) -> None:
        """Write one object."""
        options = {"SSEKMSKeyId": kms_key, "ServerSideEncryption": "aws:kms"} if kms_key else {}
        self._cached("s3").put_object(Bucket=bucket, Key=key, Body=body, **options)

    # Training jobs ---------------------------------------------------------------------------

    def wait_for_job(self, name: str, poll: float = 5) -> dict[str, Any]:
        """Wait until job ``name`` ends, printing a dot per look; raise when it failed."""
        while True:
            description: dict[str, Any] = self.sagemaker.describe_training_job(TrainingJobName=name)
            if description["TrainingJobStatus"] in _TERMINAL:
                print("!", flush=True)
                break
            print(".", end="", flush=True)
            time.sleep(poll)
        self._check(name, description)
        return description

    @staticmethod
    def _check(name: str, description: dict[str, Any]) -> None:
        from smhf_native.jobs.wait import raise_for_status

        raise_for_status(name, description)

    def follow_logs(
        self,
        name: str,
        *,
        wait: bool = False,
        poll: float = 10,
        log_type: str = "All",
        timeout: float | None = None,
    ) -> None:
        """Print the log of job ``name`` from CloudWatch and its state changes; see Session.logs_for_job."""
        from smhf_native.jobs.wait import rule_lines, summary_lines, transition_line

        logs = self._cached("logs")
        tokens: dict[str, str] = {}
        seen: dict[str, str] = {}
        printed = 0
        begin = time.monotonic()
        described = float("-inf")
        description: dict[str, Any] = {}
        while True:
            if time.monotonic() - described >= _DESCRIBE_SECONDS or not description:
                description = self.sagemaker.describe_training_job(TrainingJobName=name)
                described = time.monotonic()
                transitions = description.get("SecondaryStatusTransitions", [])
                for transition in transitions[printed:]:
                    print(transition_line(transition, transition["StartTime"]), flush=True)
                printed = len(transitions)
                if log_type in ("All", "Rules"):
                    for line in rule_lines(description, seen):
                        print(line, flush=True)
            ended = description["TrainingJobStatus"] in _TERMINAL
            if log_type in ("All", "Training"):
                self._print_events(logs, name, tokens)
            if ended or not wait:
                break
            if timeout is not None and time.monotonic() - begin > timeout:
                raise TimeoutError(f"training job {name} is still running after {timeout} seconds")
            time.sleep(poll)
        if ended and wait:
            for line in summary_lines(description):
                print(line, flush=True)
            self._check(name, description)

    def _print_events(self, logs: Any, name: str, tokens: dict[str, str]) -> None:
        try:
            streams = logs.describe_log_streams(
                logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/", orderBy="LogStreamName"
            )["logStreams"]
        except Exception as error:
            # The group appears with the account's first job, the streams with the container.
            if _is_client_error(error) and _error_code(error) == "ResourceNotFoundException":
                return
            raise
        for stream in streams:
            stream_name = stream["logStreamName"]
            while True:
                options = {"nextToken": tokens[stream_name]} if stream_name in tokens else {}
                page = logs.get_log_events(
                    logGroupName=LOG_GROUP, logStreamName=stream_name, startFromHead=True, **options
                )
                for event in page["events"]:
                    print(event["message"], flush=True)
                last = tokens.get(stream_name)
                tokens[stream_name] = page["nextForwardToken"]
                if page["nextForwardToken"] == last or not page["events"]:
                    break

    def metric_statistics(
        self, job_name: str, metric_name: str, start: Any, end: Any, period: int = 60
    ) -> list[dict[str, Any]]:
        """Return the datapoints (``Timestamp``, ``Average``) of one training metric."""
        answer = self._cached("cloudwatch").get_metric_statistics(
            **payloads.metric_statistics(job_name, metric_name, start, end, period)
        )
        return list(answer["Datapoints"])

    # Models and endpoints --------------------------------------------------------------------

    def create_model(self, **arguments: Any) -> str:
        """Create a model entity (arguments: :func:`payloads.create_model`); return its name."""
        payload = payloads.create_model(**arguments)
        self.sagemaker.create_model(**payload)
        return str(payload["ModelName"])

    def create_endpoint(
        self,
        name: str,
        variants: list[dict[str, Any]],
        *,
        tags: list[dict[str, str]] | None = None,
        wait: bool = True,
        **config: Any,
    ) -> str:
        """Create configuration and endpoint of the same name; wait until it is in service."""
        self.sagemaker.create_endpoint_config(
            **payloads.create_endpoint_config(name, variants, tags=tags, **config)
        )
        self.sagemaker.create_endpoint(**payloads.create_endpoint(name, name, tags))
        if wait:
            self.wait_for_endpoint(name)
        return name

    def wait_for_endpoint(self, name: str, poll: float = 30) -> dict[str, Any]:
        """Print ``-`` per look and ``!`` when the endpoint is in service.

        Raises
        ------
        UnexpectedStatusException
            It reached another final state.
        """
        while True:
            description: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=name)
            status = description["EndpointStatus"]
            if status not in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
                break
            print("-", end="", flush=True)
            time.sleep(poll)
        if status == "InService":
            print("!", end="", flush=True)
            return description
        reason = description.get("FailureReason", "(No reason provided)")
        kind = CapacityError if "CapacityError" in reason else UnexpectedStatusException
        raise kind(
            f"Error hosting endpoint {name}: {status}. Reason: {reason}",
            allowed_statuses=["InService"],
            actual_status=status,
        )

    def delete_endpoint(self, name: str, delete_config: bool = True) -> None:
        """Delete an endpoint and, with ``delete_config``, its configuration."""
        if delete_config:
            description = self.sagemaker.describe_endpoint(EndpointName=name)
            self.sagemaker.delete_endpoint_config(EndpointConfigName=description["EndpointConfigName"])
        self.sagemaker.delete_endpoint(EndpointName=name)


def _is_client_error(error: BaseException) -> bool:
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError)


def _error_code(error: BaseException) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
