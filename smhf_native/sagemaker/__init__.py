"""The names of the ``sagemaker`` package (SDK v2) that notebooks use, over smhf_native."""

from __future__ import annotations

from smhf_native._version import __version__ as _ours
from smhf_native.analytics import TrainingJobAnalytics
from smhf_native.inputs import TrainingInput
from smhf_native.session import Session, get_execution_role

__version__ = f"2.257.6+smhf_native.{_ours}"

__all__ = ["Session", "TrainingInput", "TrainingJobAnalytics", "get_execution_role"]
