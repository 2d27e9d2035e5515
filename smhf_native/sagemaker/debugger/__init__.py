"""``sagemaker.debugger``."""

from smhf_native.debugger import *  # noqa: F403
from smhf_native.debugger import __all__ as __all__
from smhf_native.debugger import rule_configs as rule_configs
