"""``sagemaker.analytics``."""

from smhf_native.analytics import TrainingJobAnalytics

__all__ = ["TrainingJobAnalytics"]
