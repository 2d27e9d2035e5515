"""``transformers.pipelines``: :func:`smhf_native.pipeline` under its transformers name."""

from __future__ import annotations

from smhf_native.pipelines import Pipeline, TextClassificationPipeline, pipeline
from smhf_native.pipelines.answers import QuestionAnsweringPipeline
from smhf_native.pipelines.features import FeatureExtractionPipeline
from smhf_native.pipelines.masks import FillMaskPipeline
from smhf_native.pipelines.tokens import TokenClassificationPipeline

__all__ = [
    "FeatureExtractionPipeline",
    "FillMaskPipeline",
    "Pipeline",
    "QuestionAnsweringPipeline",
    "TextClassificationPipeline",
    "TokenClassificationPipeline",
    "pipeline",
]
