"""``sagemaker.huggingface``."""

from smhf_native.huggingface.estimator import HuggingFace
from smhf_native.huggingface.model import HuggingFaceModel
from smhf_native.huggingface.predictor import HuggingFacePredictor

__all__ = ["HuggingFace", "HuggingFaceModel", "HuggingFacePredictor"]
