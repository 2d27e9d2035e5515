"""``smdebug.profiler.analysis.notebook_utils.timeline_charts``."""

from smhf_native.profiler.charts import TimelineCharts

__all__ = ["TimelineCharts"]
