"""``sagemaker.serializers``."""

from smhf_native.serializers import *  # noqa: F403
from smhf_native.serializers import __all__ as __all__
