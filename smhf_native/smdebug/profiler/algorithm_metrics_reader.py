"""``smdebug.profiler.algorithm_metrics_reader``."""

from smhf_native.profiler.readers import LocalAlgorithmMetricsReader, S3AlgorithmMetricsReader

__all__ = ["LocalAlgorithmMetricsReader", "S3AlgorithmMetricsReader"]
