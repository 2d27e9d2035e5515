"""``sagemaker.serverless``."""

from smhf_native.huggingface.inference_configs import ServerlessInferenceConfig

__all__ = ["ServerlessInferenceConfig"]
