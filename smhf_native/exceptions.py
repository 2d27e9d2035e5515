"""Exceptions of the job and session layer (the names of ``sagemaker.exceptions``)."""

from __future__ import annotations

from collections.abc import Sequence

from smhf_native.errors import SmhfError

__all__ = [
    "CapacityError",
    "JobNotFoundError",
    "ModeError",
    "ObjectNotFoundError",
    "PreflightError",
    "ResourceInUseError",
    "UnexpectedStatusException",
]


class UnexpectedStatusException(SmhfError, ValueError):
    """A job or endpoint ended in a state that the caller did not allow.

    Parameters
    ----------
    message : str
        The sentence shown to the user.
    allowed_statuses : sequence of str
        The states that would have been fine.
    actual_status : str
        The state that was reached.
    """

    def __init__(self, message: str, allowed_statuses: Sequence[str], actual_status: str) -> None:
        super().__init__(message)
        self.allowed_statuses = list(allowed_statuses)
        self.actual_status = actual_status


class CapacityError(UnexpectedStatusException):
    """The job failed because the service had no machine for it (its reason says CapacityError)."""


class ModeError(SmhfError, RuntimeError):
    """Local mode and AWS mode were mixed, or an operation does not exist in the current mode."""


class JobNotFoundError(SmhfError, LookupError):
    """No local job of that name exists."""


class ObjectNotFoundError(SmhfError, FileNotFoundError):
    """No object of that ``s3://`` address exists in the local store."""


class ResourceInUseError(SmhfError, ValueError):
    """A job of that name exists already."""


class PreflightError(SmhfError, ValueError):
    """A job was refused before it started: something that it needs is missing."""
