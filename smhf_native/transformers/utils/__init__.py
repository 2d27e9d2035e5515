"""``transformers.utils``: the helpers that scripts import from there."""

from __future__ import annotations

from smhf_native.transformers.utils import logging

__all__ = [
    "check_min_version",
    "is_datasets_available",
    "is_sagemaker_mp_enabled",
    "is_torch_available",
    "logging",
    "send_example_telemetry",
]


def is_torch_available() -> bool:
    """Return False: models run on smhf_native's engine."""
    return False


def is_datasets_available() -> bool:
    """Return True: the datasets mirror is part of this package."""
    return True


def is_sagemaker_mp_enabled() -> bool:
    """Return False: there is no model parallelism here."""
    return False


def check_min_version(min_version: str) -> None:
    """Do nothing: the mirror is not versioned like transformers."""


def send_example_telemetry(*_args: object, **_kwargs: object) -> None:
    """Send nothing."""
