"""``pipeline(task, model=…)``: texts in, answers out; tasks and results are those of transformers' pipelines.

::

    import smhf_native as smhf
    clf = smhf.pipeline("text-classification", model="model-folder")
    clf(["fits well", "too small"])      # [{'label': 'LABEL_4', 'score': 0.93}, …] like transformers
    frame = clf.predict(df["text"])      # DataFrame label, score, same index, any number of rows
    smhf.pipeline("ner", model="…", aggregation_strategy="simple")("Ada lives in London")
    smhf.pipeline("question-answering", model="…")(question="Where?", context="Ada lives in London")
    smhf.pipeline("sentence-embeddings", model="…")(["one text", "another"])   # (2, hidden) float32

Rows are handed to the model packed, without padding, in batches of a token budget that follows the
machine's pace, so that Ctrl-C acts at once and loses nothing (:class:`PredictInterrupted`); results come
back in the order of the input and do not depend on how rows were batched.  Texts longer than the model's
maximum are truncated, counted in ``clf.truncated`` and announced by one warning; ``truncation=False`` refuses
them by row.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from smhf_native.hub import CONFIG_FILES, resolve
from smhf_native.pipelines.base import Opened, Pipeline, PredictInterrupted, open_parts
from smhf_native.pipelines.classification import TextClassificationPipeline

__all__ = ["Pipeline", "PredictInterrupted", "TextClassificationPipeline", "pipeline"]

# Task -> module and class.
_TASKS = {
    "text-classification": ("classification", "TextClassificationPipeline"),
    "token-classification": ("tokens", "TokenClassificationPipeline"),
    "question-answering": ("answers", "QuestionAnsweringPipeline"),
    "fill-mask": ("masks", "FillMaskPipeline"),
    "feature-extraction": ("features", "FeatureExtractionPipeline"),
    "sentence-embeddings": ("features", "SentenceEmbeddingsPipeline"),
}
_ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
_ENDINGS = {
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
}
_IGNORED = ("framework", "torch_dtype", "dtype", "device_map", "use_fast", "trust_remote_code", "config")


def pipeline(
    task: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    *,
    device: Any = None,
    batch_size: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    precision: str | None = None,
    calibration: Any = None,
    **options: Any,
) -> Any:
    """Make a pipeline.

    Parameters
    ----------
    task : "text-classification" (or "sentiment-analysis"), "token-classification" (or "ner"),
        "question-answering", "fill-mask", "feature-extraction", "sentence-embeddings"; left out: what the model's
        ``architectures`` says, else text classification
    model : folder, hub name, or a model of the transformers mirror (then ``tokenizer`` is needed too)
    tokenizer : folder, hub name or tokenizer; default: the one beside the model
    device : "auto", "cpu", "cuda" or -1 (transformers' word for the processor)
    batch_size : rows per batch at most; None: by token budget alone
    precision : "fp32", "bf16", "int8" or "auto" (see :meth:`smhf_native.Model.from_pretrained`); None: the
        environment's ``SMHF_PRECISION``, else "fp32".  A model object keeps its own unless this is given
    calibration : list of texts like those that will come, for ``precision="auto"`` of text classification;
        default: the folder's own ``calibration.json``.  ``clf.precision_report`` says what was measured
    options : defaults of the call, e.g. ``top_k``, ``aggregation_strategy``, ``max_length``

    Raises
    ------
    ValueError
        Another task.
    smhf_native.hub.ModelNotFoundError, smhf_native.errors.ParseError
    """
    name = _ALIASES.get(task, task) if task is not None else None
    if name is not None and name not in _TASKS:
        raise ValueError(f"task {task!r} is not supported; supported: {', '.join([*_TASKS, *_ALIASES])}")
    if model is None:
        raise ValueError("pipeline needs model=: a folder, a hub name or a model")
    for ignored in _IGNORED:
        options.pop(ignored, None)
    if name is None:
        name = _task_of(model, revision, token)
    module, class_name = _TASKS[name]
    kind = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    parts = open_parts(kind.model_task, model, tokenizer, revision, token, device, precision)
    report = _choose_precision(parts, name, precision, calibration)
    made: Pipeline = kind(
        parts.model,
        parts.tokenizer,
        parts.config,
        parts.limit,
        batch_size=batch_size,
        folder=parts.folder,
        **options,
    )
    made.precision_report = report
    return made


def _task_of(model: Any, revision: Any, token: Any) -> str:
    """Task of a model: of an object its own, of a folder what its first architecture is called."""
    if not isinstance(model, (str, os.PathLike)):
        found = str(getattr(getattr(model, "native", model), "task", ""))
        return {"embedding": "feature-extraction", "masked-lm": "fill-mask"}.get(
            found, found if found in _TASKS else "text-classification"
        )
    folder = resolve(model, revision, needs=CONFIG_FILES, token=token)
    values = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    first = str((values.get("architectures") or [""])[0])
    return next((task for end, task in _ENDINGS.items() if first.endswith(end)), "text-classification")


def _choose_precision(
    parts: Opened, task: str, precision: str | None, calibration: Any
) -> dict[str, Any] | None:
    """Measure for ``"auto"``; the report."""
    from smhf_native.model import precision as precisions

    folder = parts.folder
    wanted = precisions.resolve(precision) if folder is not None or precision is not None else None
    if wanted != "auto":
        if folder is None and wanted is not None:
            parts.model.set_precision(wanted)
        return None
    if task != "text-classification":
        raise ValueError(
            f'precision="auto" compares the labels of texts, {task} has none: give "fp32", "bf16" or "int8"'
        )
    if calibration is not None:
        batch: Any = parts.tokenizer(list(calibration), truncation=True, max_length=parts.limit)
    else:
        batch = precisions.read_calibration(folder / precisions.CALIBRATION_NAME) if folder else None
    report = precisions.choose(parts.model, batch)
    logging.getLogger("smhf_native").info("precision %s", report["reason"])
    return report
