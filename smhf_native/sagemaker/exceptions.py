"""``sagemaker.exceptions``."""

from smhf_native.exceptions import CapacityError, UnexpectedStatusException

__all__ = ["CapacityError", "UnexpectedStatusException"]
