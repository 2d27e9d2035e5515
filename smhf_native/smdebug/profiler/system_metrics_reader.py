"""``smdebug.profiler.system_metrics_reader``."""

from smhf_native.profiler.readers import LocalSystemMetricsReader, S3SystemMetricsReader

__all__ = ["LocalSystemMetricsReader", "S3SystemMetricsReader"]
