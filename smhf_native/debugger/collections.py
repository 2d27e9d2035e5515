"""Tensor collections, the debugger hook and the TensorBoard output: plain request builders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["CollectionConfig", "DebuggerHookConfig", "TensorBoardOutputConfig"]


class CollectionConfig:
    """A named set of tensors to save.

    Parameters
    ----------
    name : str
        E.g. ``"losses"``.
    parameters : mapping, optional
        E.g. ``{"save_interval": "500"}``.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.parameters = parameters

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CollectionConfig):
            return NotImplemented
        return self.name == other.name and self.parameters == other.parameters

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted((self.parameters or {}).items()))))

    def __repr__(self) -> str:
        return f"CollectionConfig(name={self.name!r}, parameters={self.parameters!r})"

    def _to_request_dict(self) -> dict[str, Any]:
        """Return one entry of ``CollectionConfigurations``."""
        request: dict[str, Any] = {"CollectionName": self.name}
        if self.parameters is not None:
            request["CollectionParameters"] = {key: str(value) for key, value in self.parameters.items()}
        return request


class DebuggerHookConfig:
    """Where and what the debugger hook saves.

    Parameters
    ----------
    s3_output_path : str, optional
        Filled in by the estimator when missing.
    container_local_output_path : str, optional
        Folder inside the container.
    hook_parameters : mapping, optional
        Hook options.
    collection_configs : sequence of CollectionConfig, optional
        The estimator adds the collections that rules need.
    """

    def __init__(
        self,
        s3_output_path: str | None = None,
        container_local_output_path: str | None = None,
        hook_parameters: Mapping[str, Any] | None = None,
        collection_configs: Sequence[CollectionConfig] | None = None,
    ) -> None:
        self.s3_output_path = s3_output_path
        self.container_local_output_path = container_local_output_path
        self.hook_parameters = hook_parameters
        self.collection_configs = collection_configs

    def _to_request_dict(self) -> dict[str, Any]:
        """Return ``DebugHookConfig`` of CreateTrainingJob."""
        request: dict[str, Any] = {"S3OutputPath": self.s3_output_path}
        if self.container_local_output_path is not None:
            request["LocalPath"] = self.container_local_output_path
        if self.hook_parameters is not None:
            request["HookParameters"] = {key: str(value) for key, value in self.hook_parameters.items()}
        if self.collection_configs is not None:
            request["CollectionConfigurations"] = [c._to_request_dict() for c in self.collection_configs]
        return request


class TensorBoardOutputConfig:
    """Where TensorBoard files go.

    Parameters
    ----------
    s3_output_path : str
        ``s3://bucket/prefix``.
    container_local_output_path : str, optional
        Folder inside the container.
    """

    def __init__(self, s3_output_path: str, container_local_output_path: str | None = None) -> None:
        self.s3_output_path = s3_output_path
        self.container_local_output_path = container_local_output_path

    def _to_request_dict(self) -> dict[str, Any]:
        """Return ``TensorBoardOutputConfig`` of CreateTrainingJob."""
        request: dict[str, Any] = {"S3OutputPath": self.s3_output_path}
        if self.container_local_output_path is not None:
            request["LocalPath"] = self.container_local_output_path
        return request
