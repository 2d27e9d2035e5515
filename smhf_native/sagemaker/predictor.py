"""``sagemaker.predictor``."""

from smhf_native.huggingface.predictor import Predictor

__all__ = ["Predictor"]
