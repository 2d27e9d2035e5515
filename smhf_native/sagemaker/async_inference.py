"""``sagemaker.async_inference``."""

from smhf_native.huggingface.inference_configs import AsyncInferenceConfig

__all__ = ["AsyncInferenceConfig"]
