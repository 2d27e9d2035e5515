"""``smdebug.profiler.analysis.utils.profiler_data_to_pandas``."""

from smhf_native.profiler.frames import PandasFrame

__all__ = ["PandasFrame"]
