"""``smdebug.profiler.utils``."""

from smhf_native.profiler.readers import TimeUnits

__all__ = ["TimeUnits"]
