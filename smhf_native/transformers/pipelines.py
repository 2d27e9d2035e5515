"""``transformers.pipelines``: :func:`smhf_native.pipeline` under its transformers name."""

from __future__ import annotations

from smhf_native.pipelines import TextClassificationPipeline, pipeline

__all__ = ["TextClassificationPipeline", "pipeline"]
