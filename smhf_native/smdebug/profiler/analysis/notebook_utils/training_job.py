"""``smdebug.profiler.analysis.notebook_utils.training_job``."""

from smhf_native.profiler.training_job import TrainingJob

__all__ = ["TrainingJob"]
