"""``sagemaker.huggingface.model``."""

from smhf_native.huggingface.model import HuggingFaceModel
from smhf_native.huggingface.predictor import HuggingFacePredictor

__all__ = ["HuggingFaceModel", "HuggingFacePredictor"]
