"""``sagemaker.huggingface.estimator``."""

from smhf_native.huggingface.estimator import HuggingFace

__all__ = ["HuggingFace"]
