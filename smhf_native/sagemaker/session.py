"""``sagemaker.session``."""

from smhf_native.session import Session, get_execution_role, production_variant

__all__ = ["Session", "get_execution_role", "production_variant"]
