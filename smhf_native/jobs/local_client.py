"""The few calls of boto3's ``sagemaker`` client that local mode answers itself."""

from __future__ import annotations

import importlib
from typing import Any

from smhf_native.exceptions import ModeError
from smhf_native.jobs.records import JobRecord, job_names

__all__ = ["LocalSageMakerClient"]


class LocalSageMakerClient:
    """Answers training-job calls from ``$SMHF_HOME/jobs`` and endpoint calls from the endpoint host.

    Calls that local mode does not have raise :class:`ModeError` naming the call.
    """

    def __init__(self, region: str) -> None:
        self.region = region

    def create_training_job(self, **request: Any) -> dict[str, Any]:
        """Start a local job from a CreateTrainingJob payload."""
        from smhf_native.jobs import launch

        return {"TrainingJobArn": launch.start(request, region=self.region).describe()["TrainingJobArn"]}

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:
        """Return the description of a local job."""
        return JobRecord.load(TrainingJobName).describe()

    def stop_training_job(self, TrainingJobName: str) -> dict[str, Any]:
        """Ask a local job to stop."""
        from smhf_native.jobs import launch

        launch.stop(JobRecord.load(TrainingJobName))
        return {}

    def list_training_jobs(self, MaxResults: int = 10, **_: Any) -> dict[str, Any]:
        """Return summaries of the newest local jobs."""
        keys = ("TrainingJobName", "TrainingJobArn", "CreationTime", "LastModifiedTime", "TrainingJobStatus")
        found = []
        for name in reversed(job_names()[-MaxResults:]):
            description = JobRecord.load(name).describe()
            found.append({key: description[key] for key in keys})
        return {"TrainingJobSummaries": found}

    def list_tags(self, ResourceArn: str, **_: Any) -> dict[str, Any]:
        """Return the tags that a local job was created with."""
        return {"Tags": JobRecord.load(ResourceArn.rpartition("/")[2]).request().get("Tags", [])}

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:
        """Return the description of a local endpoint."""
        from smhf_native import endpoints

        return endpoints.describe(EndpointName)

    def list_endpoints(self, **_: Any) -> dict[str, Any]:
        """Return summaries of the local endpoints that are up, newest first."""
        from smhf_native import endpoints

        keys = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")
        found = [endpoints.describe(record.name) for record in reversed(endpoints.list_endpoints())]
        return {"Endpoints": [{key: each[key] for key in keys} for each in found]}

    def delete_endpoint(self, EndpointName: str) -> dict[str, Any]:
        """Remove a local endpoint."""
        host = importlib.import_module("smhf_native.jobs.endpoint_host")
        host.delete_endpoint(EndpointName)
        return {}

    def delete_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:
        """Do nothing: local endpoints have no separate configuration."""
        return {}

    def delete_model(self, ModelName: str) -> dict[str, Any]:
        """Do nothing: a local model is its artifact in the store."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise ModeError(f"the SageMaker call {name!r} does not exist in local mode")
