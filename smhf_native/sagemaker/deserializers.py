"""``sagemaker.deserializers``."""

from smhf_native.deserializers import *  # noqa: F403
from smhf_native.deserializers import __all__ as __all__
