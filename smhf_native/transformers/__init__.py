"""The part of ``transformers`` that training scripts use, without torch, over smhf_native's engine.

Names load when first used.  What is not here is not supported: importing it fails with its name.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "AutoConfig": "configuration",
    "AutoModel": "modeling_auto",
    "AutoModelForMaskedLM": "modeling_auto",
    "AutoModelForQuestionAnswering": "modeling_auto",
    "AutoModelForSequenceClassification": "modeling_auto",
    "AutoModelForTokenClassification": "modeling_auto",
    "AutoTokenizer": "tokenization",
    "BatchEncoding": "tokenization",
    "BertConfig": "configuration",
    "BertForMaskedLM": "modeling",
    "BertForQuestionAnswering": "modeling",
    "BertForSequenceClassification": "modeling",
    "BertForTokenClassification": "modeling",
    "BertModel": "modeling",
    "DataCollatorForLanguageModeling": "data_collator_masked",
    "DataCollatorForTokenClassification": "data_collator",
    "DataCollatorWithPadding": "data_collator",
    "DefaultDataCollator": "data_collator",
    "DefaultFlowCallback": "trainer_callback",
    "DistilBertConfig": "configuration",
    "DistilBertForMaskedLM": "modeling",
    "DistilBertForQuestionAnswering": "modeling",
    "DistilBertForSequenceClassification": "modeling",
    "DistilBertForTokenClassification": "modeling",
    "DistilBertModel": "modeling",
    "EarlyStoppingCallback": "trainer_callback",
    "EvalPrediction": "trainer_utils",
    "FeatureExtractionPipeline": "pipelines",
    "FillMaskPipeline": "pipelines",
    "IntervalStrategy": "trainer_utils",
    "PreTrainedModel": "modeling",
    "PreTrainedTokenizerFast": "tokenization",
    "PretrainedConfig": "configuration",
    "PrinterCallback": "trainer_callback",
    "ProgressCallback": "trainer_callback",
    "QuestionAnsweringPipeline": "pipelines",
    "SchedulerType": "trainer_utils",
    "TextClassificationPipeline": "pipelines",
    "TokenClassificationPipeline": "pipelines",
    "Trainer": "trainer",
    "TrainerCallback": "trainer_callback",
    "TrainerControl": "trainer_callback",
    "TrainerState": "trainer_callback",
    "TrainingArguments": "training_args",
    "default_data_collator": "data_collator",
    "enable_full_determinism": "trainer_utils",
    "is_torch_available": "utils",
    "logging": "utils.logging",
    "pipeline": "pipelines",
    "set_seed": "trainer_utils",
}
# Other names of the same classes.
_ALIASES = {
    "AutoTokenizer": ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"),
    "PreTrainedTokenizerFast": ("PreTrainedTokenizer", "PreTrainedTokenizerBase"),
}
_SAME = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_MODULES = {
    "batches", "checkpoints", "configuration", "data", "data_collator", "engine", "losses", "modeling",
    "modeling_auto", "modeling_outputs", "pipelines", "tokenization", "trainer", "trainer_callback",
    "trainer_utils", "training_args", "utils",
}  # fmt: skip

__version__ = "4.57.0+smhf"  # scripts compare it; old spellings are accepted beside the new ones

__all__ = ["__version__", *sorted([*_EXPORTS, *_SAME])]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    target = _SAME.get(name, name)
    if target in _EXPORTS:
        module = importlib.import_module(f"{__name__}.{_EXPORTS[target]}")
        value = module if target == "logging" else getattr(module, target)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(
            f"smhf_native's transformers mirror has no {name!r}; it has {', '.join(_EXPORTS)}"
        )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
