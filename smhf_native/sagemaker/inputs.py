"""``sagemaker.inputs``."""

from smhf_native.inputs import TrainingInput

__all__ = ["TrainingInput"]
