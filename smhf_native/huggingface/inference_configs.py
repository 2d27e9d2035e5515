"""``ServerlessInferenceConfig`` and ``AsyncInferenceConfig`` (names and payloads of SDK v2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["AsyncInferenceConfig", "ServerlessInferenceConfig"]


@dataclass
class ServerlessInferenceConfig:
    """An endpoint without instances. Local mode accepts it and serves as always.

    Parameters
    ----------
    memory_size_in_mb : int
        1024 to 6144 in steps of 1024.
    max_concurrency : int
    provisioned_concurrency : int, optional
    """

    memory_size_in_mb: int = 2048
    max_concurrency: int = 5
    provisioned_concurrency: int | None = None

    def _to_request_dict(self) -> dict[str, Any]:
        request = {"MemorySizeInMB": self.memory_size_in_mb, "MaxConcurrency": self.max_concurrency}
        if self.provisioned_concurrency is not None:
            request["ProvisionedConcurrency"] = self.provisioned_concurrency
        return request


@dataclass
class AsyncInferenceConfig:
    """An endpoint that reads from and writes to S3. Not there yet: ``deploy`` refuses it by name."""

    output_path: str | None = None
    max_concurrent_invocations_per_instance: int | None = None
    kms_key_id: str | None = None
    notification_config: dict[str, Any] | None = None
    failure_path: str | None = None
