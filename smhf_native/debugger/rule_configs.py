"""Configurations of the built-in rules under the names that ``sagemaker.debugger.rule_configs`` has.

Debugging rules are functions that return a dict for :meth:`Rule.sagemaker`; profiling rules are classes for
:meth:`ProfilerRule.sagemaker`.  Defaults are those of the published package (spec A4); the table in
``tests/python/debugger/test_rule_configs.py`` pins them.
"""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any

from smhf_native.debugger.actions import (
    SMS,
    Action,
    ActionList,
    Email,
    StopTraining,
    is_valid_action_object,
)

__all__ = [
    "Action",
    "ActionList",
    "BatchSize",
    "CPUBottleneck",
    "Dataloader",
    "Email",
    "GPUMemoryIncrease",
    "IOBottleneck",
    "LoadBalancing",
    "LowGPUUtilization",
    "MaxInitializationTime",
    "OverallFrameworkMetrics",
    "OverallSystemUsage",
    "ProfilerReport",
    "ProfilerRuleBase",
    "SMS",
    "StepOutlier",
    "StopTraining",
    "all_zero",
    "check_input_images",
    "class_imbalance",
    "confusion",
    "create_xgboost_report",
    "dead_relu",
    "exploding_tensor",
    "feature_importance_overweight",
    "get_collection",
    "is_valid_action_object",
    "loss_not_decreasing",
    "nlp_sequence_ratio",
    "overfit",
    "overtraining",
    "poor_weight_initialization",
    "saturated_activation",
    "similar_across_runs",
    "stalled_training_rule",
    "tensor_variance",
    "tree_depth",
    "unchanged_tensor",
    "vanishing_gradient",
    "weight_update_ratio",
]

RuleConfig = dict[str, Any]

# Collections that built-in rules read: parameters as the service gets them.
_COLLECTIONS: dict[str, dict[str, str]] = {
    "weights": {"save_interval": "500"},
    "gradients": {"save_interval": "500"},
    "losses": {"save_interval": "500"},
    "feature_importance": {"save_interval": "500"},
    "input_image": {"include_regex": ".*hybridsequential0_input_0", "save_interval": "500"},
    "relu_output": {"include_regex": ".*relu_output", "save_interval": "500"},
    "relu_input": {"include_regex": ".*relu_input", "save_interval": "500"},
    "input_sequence": {"include_regex": ".*embedding0_input_0", "save_interval": "500"},
}
_XGBOOST_COLLECTIONS = ("metrics", "feature_importance", "hyperparameters", "predictions", "labels")


def get_collection(name: str) -> dict[str, Any]:
    """Return the configuration of a built-in collection.

    Parameters
    ----------
    name : str
        E.g. ``"losses"``.

    Raises
    ------
    ValueError
        No built-in collection has this name.
    """
    if name not in _COLLECTIONS:
        raise ValueError(f"no built-in collection {name!r}; there are {', '.join(sorted(_COLLECTIONS))}")
    return {"CollectionName": name, "CollectionParameters": dict(_COLLECTIONS[name])}


def _rule(name: str, collection: str | None = None) -> RuleConfig:
    config: RuleConfig = {
        "DebugRuleConfiguration": {
            "RuleConfigurationName": name,
            "RuleParameters": {"rule_to_invoke": name},
        }
    }
    if collection is not None:
        config["CollectionConfigurations"] = [get_collection(collection)]
    return config


def vanishing_gradient() -> RuleConfig:
    """Gradients too small to learn from."""
    return _rule("VanishingGradient", "gradients")


def similar_across_runs() -> RuleConfig:
    """Tensors too alike between two jobs (``other_trials_s3_input_paths``)."""
    return _rule("SimilarAcrossRuns")


def weight_update_ratio() -> RuleConfig:
    """Updates too large or too small against the weights."""
    return _rule("WeightUpdateRatio", "weights")


def all_zero() -> RuleConfig:
    """Tensors full of zeros."""
    return _rule("AllZero")


def exploding_tensor() -> RuleConfig:
    """Tensors with infinities or NaN."""
    return _rule("ExplodingTensor")


def unchanged_tensor() -> RuleConfig:
    """Tensors that stay the same."""
    return _rule("UnchangedTensor")


def loss_not_decreasing() -> RuleConfig:
    """A loss that does not fall; evaluated by smhf_native in local jobs."""
    return _rule("LossNotDecreasing", "losses")


def check_input_images() -> RuleConfig:
    """Input images that are not normalised."""
    return _rule("CheckInputImages", "input_image")


def dead_relu() -> RuleConfig:
    """ReLU units that are always off."""
    return _rule("DeadRelu", "relu_output")


def confusion() -> RuleConfig:
    """A confusion matrix with too much off its diagonal."""
    return _rule("Confusion")


def tree_depth() -> RuleConfig:
    """Trees that grow too deep."""
    return _rule("TreeDepth")


def class_imbalance() -> RuleConfig:
    """Labels too unevenly spread."""
    return _rule("ClassImbalance")


def overfit() -> RuleConfig:
    """Validation loss rising away from training loss."""
    return _rule("Overfit")


def tensor_variance() -> RuleConfig:
    """Variance of tensors out of bounds."""
    return _rule("TensorVariance")


def overtraining() -> RuleConfig:
    """Training that goes on without getting better."""
    return _rule("Overtraining")


def poor_weight_initialization() -> RuleConfig:
    """Weights that started badly."""
    return _rule("PoorWeightInitialization", "relu_input")


def saturated_activation() -> RuleConfig:
    """Activations in the flat part of tanh or sigmoid."""
    return _rule("SaturatedActivation")


def nlp_sequence_ratio() -> RuleConfig:
    """Too many padding or unknown tokens."""
    return _rule("NLPSequenceRatio", "input_sequence")


def stalled_training_rule() -> RuleConfig:
    """No progress for a long time."""
    return _rule("StalledTrainingRule")


def feature_importance_overweight() -> RuleConfig:
    """A few features that carry too much weight."""
    return _rule("FeatureImportanceOverweight", "feature_importance")


def create_xgboost_report() -> RuleConfig:
    """A report for XGBoost jobs."""
    config = _rule("CreateXgboostReport")
    config["CollectionConfigurations"] = [
        {"CollectionName": name, "CollectionParameters": {"save_interval": "5"}}
        for name in _XGBOOST_COLLECTIONS
    ]
    return config


# Profiling rules.  Each __init__ lists its parameters in the order in which they are sent.


class ProfilerRuleBase:
    """Base of the profiling rule configurations.

    Attributes
    ----------
    rule_name : str
        The class name; also the default name of the rule.
    rule_parameters : dict
        What goes to the service, ``rule_to_invoke`` last.
    """

    def __init__(self, **rule_parameters: Any) -> None:
        self.rule_name = type(self).__name__
        self.rule_parameters: dict[str, Any] = {**rule_parameters, "rule_to_invoke": self.rule_name}


class BatchSize(ProfilerRuleBase):
    """CPU, GPU and GPU memory all little used: the batch may grow."""

    def __init__(
        self,
        cpu_threshold_p95: float = 70,
        gpu_threshold_p95: float = 70,
        gpu_memory_threshold_p95: float = 70,
        patience: int = 1000,
        window: int = 500,
        scan_interval_us: int = 60 * 1000 * 1000,
    ) -> None:
        _percent("cpu_threshold_p95", cpu_threshold_p95)
        _percent("gpu_threshold_p95", gpu_threshold_p95)
        _percent("gpu_memory_threshold_p95", gpu_memory_threshold_p95)
        _positive(patience=patience, window=window, scan_interval_us=scan_interval_us)
        super().__init__(
            cpu_threshold_p95=cpu_threshold_p95,
            gpu_threshold_p95=gpu_threshold_p95,
            gpu_memory_threshold_p95=gpu_memory_threshold_p95,
            patience=patience,
            window=window,
            scan_interval_us=scan_interval_us,
        )


class CPUBottleneck(ProfilerRuleBase):
    """A GPU that waits while a core is busy."""

    def __init__(
        self,
        threshold: float = 50,
        gpu_threshold: float = 10,
        cpu_threshold: float = 90,
        patience: int = 1000,
        scan_interval_us: int = 60 * 1000 * 1000,
    ) -> None:
        _percent("threshold", threshold)
        _percent("gpu_threshold", gpu_threshold)
        _percent("cpu_threshold", cpu_threshold)
        _positive(patience=patience, scan_interval_us=scan_interval_us)
        super().__init__(
            threshold=threshold,
            gpu_threshold=gpu_threshold,
            cpu_threshold=cpu_threshold,
            patience=patience,
            scan_interval_us=scan_interval_us,
        )


class Dataloader(ProfilerRuleBase):
    """Too few or too many data loader processes for the cores."""

    def __init__(
        self, min_threshold: float = 70, max_threshold: float = 200, scan_interval_us: int = 60 * 1000 * 1000
    ) -> None:
        _positive(min_threshold=min_threshold, max_threshold=max_threshold, scan_interval_us=scan_interval_us)
        super().__init__(
            min_threshold=min_threshold, max_threshold=max_threshold, scan_interval_us=scan_interval_us
        )


class GPUMemoryIncrease(ProfilerRuleBase):
    """GPU memory that keeps growing."""

    def __init__(
        self,
        increase: float = 5,
        patience: int = 1000,
        window: int = 10,
        scan_interval_us: int = 60 * 1000 * 1000,
    ) -> None:
        _positive(increase=increase, patience=patience, window=window, scan_interval_us=scan_interval_us)
        super().__init__(
            increase=increase, patience=patience, window=window, scan_interval_us=scan_interval_us
        )


class IOBottleneck(ProfilerRuleBase):
    """A GPU that waits while a core waits for the disk."""

    def __init__(
        self,
        threshold: float = 50,
        gpu_threshold: float = 10,
        io_threshold: float = 50,
        patience: int = 1000,
        scan_interval_us: int = 60 * 1000 * 1000,
    ) -> None:
        _percent("threshold", threshold)
        _percent("gpu_threshold", gpu_threshold)
        _percent("io_threshold", io_threshold)
        _positive(patience=patience, scan_interval_us=scan_interval_us)
        super().__init__(
            threshold=threshold,
            gpu_threshold=gpu_threshold,
            io_threshold=io_threshold,
            patience=patience,
            scan_interval_us=scan_interval_us,
        )


class LoadBalancing(ProfilerRuleBase):
    """GPUs that do not share the work evenly (``threshold`` is a distance of 0 to 1)."""

    def __init__(
        self, threshold: float = 0.5, patience: int = 1000, scan_interval_us: int = 60 * 1000 * 1000
    ) -> None:
        _percent("threshold", threshold)
        _positive(patience=patience, scan_interval_us=scan_interval_us)
        super().__init__(threshold=threshold, patience=patience, scan_interval_us=scan_interval_us)


class LowGPUUtilization(ProfilerRuleBase):
    """A GPU that is little or unevenly used."""

    def __init__(
        self,
        threshold_p95: float = 70,
        threshold_p5: float = 10,
        window: int = 500,
        patience: int = 1000,
        scan_interval_us: int = 60 * 1000 * 1000,
    ) -> None:
        _percent("threshold_p95", threshold_p95)
        _percent("threshold_p5", threshold_p5)
        _positive(window=window, patience=patience, scan_interval_us=scan_interval_us)
        super().__init__(
            threshold_p95=threshold_p95,
            threshold_p5=threshold_p5,
            window=window,
            patience=patience,
            scan_interval_us=scan_interval_us,
        )


class MaxInitializationTime(ProfilerRuleBase):
    """A first step that takes too long to come (``threshold`` in minutes)."""

    def __init__(self, threshold: float = 20, scan_interval_us: int = 60 * 1000 * 1000) -> None:
        _positive(threshold=threshold, scan_interval_us=scan_interval_us)
        super().__init__(threshold=threshold, scan_interval_us=scan_interval_us)


class OverallSystemUsage(ProfilerRuleBase):
    """Usage per node; never fires."""

    def __init__(self, scan_interval_us: int = 60 * 1000 * 1000) -> None:
        _positive(scan_interval_us=scan_interval_us)
        super().__init__(scan_interval_us=scan_interval_us)


class OverallFrameworkMetrics(ProfilerRuleBase):
    """Time shares inside the framework; never fires."""

    def __init__(self, scan_interval_us: int = 60 * 1000 * 1000) -> None:
        _positive(scan_interval_us=scan_interval_us)
        super().__init__(scan_interval_us=scan_interval_us)


class StepOutlier(ProfilerRuleBase):
    """Single steps that take far longer than the others."""

    def __init__(
        self,
        stddev: float = 3,
        mode: str | None = None,
        n_outliers: int = 10,
        scan_interval_us: int = 60 * 1000 * 1000,
    ) -> None:
        _positive(stddev=stddev, n_outliers=n_outliers, scan_interval_us=scan_interval_us)
        assert mode is None or isinstance(mode, str), f"mode must be a str or None, not {mode!r}"
        super().__init__(stddev=stddev, mode=mode, n_outliers=n_outliers, scan_interval_us=scan_interval_us)


# The rules of a ProfilerReport, in the order in which they run (spec D1).
REPORT_RULES: tuple[type[ProfilerRuleBase], ...] = (
    CPUBottleneck,
    IOBottleneck,
    LowGPUUtilization,
    StepOutlier,
    GPUMemoryIncrease,
    BatchSize,
    MaxInitializationTime,
    LoadBalancing,
    OverallSystemUsage,
    Dataloader,
    OverallFrameworkMetrics,
)


class ProfilerReport(ProfilerRuleBase):
    """Every profiling rule and one HTML report.

    Parameters
    ----------
    opt_out_telemetry : bool
        Sent only when given as True: the rules package that SDK v2 pins does not know it.  smhf_native never
        sends telemetry.
    **rule_parameters
        ``<Rule>_<parameter>=value``, e.g. ``LowGPUUtilization_threshold_p95=80``; rule names in any case.

    Raises
    ------
    AssertionError
        A key of another form, an unknown rule, or a value that the rule refuses.
    TypeError
        An unknown parameter of a known rule.
    """

    def __init__(self, opt_out_telemetry: bool = False, **rule_parameters: Any) -> None:
        assert isinstance(opt_out_telemetry, bool), (
            f"opt_out_telemetry must be True or False, not {opt_out_telemetry!r}"
        )
        split_rule_parameters(rule_parameters)
        sent: dict[str, Any] = {"custom_rule_parameters": json.dumps(rule_parameters)}
        if opt_out_telemetry:
            sent["opt_out_telemetry"] = True
        super().__init__(**sent)
        self.custom_rule_parameters = copy.deepcopy(rule_parameters)


def split_rule_parameters(overrides: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort ``{"LowGPUUtilization_window": 100}`` by rule and check every value.

    Parameters
    ----------
    overrides : dict
        Keys ``<Rule>_<parameter>``.

    Returns
    -------
    dict of str to dict
        Rule class name to its changed parameters.

    Raises
    ------
    AssertionError, TypeError
        As in :class:`ProfilerReport`.
    """
    classes = {rule.__name__.lower(): rule for rule in REPORT_RULES}
    result: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        rule_word, mark, parameter = key.partition("_")
        assert mark and parameter, f"key {key!r} does not have the form <Rule>_<parameter>"
        rule = classes.get(rule_word.lower())
        assert rule is not None, (
            f"{rule_word!r} is no rule of the report; "
            f"rules (in any case): {', '.join(r.__name__ for r in REPORT_RULES)}"
        )
        accepted = [name for name in inspect.signature(rule.__init__).parameters if name != "self"]
        if parameter.lower() not in accepted:
            raise TypeError(f"{rule.__name__} has no parameter {parameter!r}; it has {', '.join(accepted)}")
        rule(**{parameter.lower(): value})
        result.setdefault(rule.__name__, {})[parameter.lower()] = value
    return result


def _percent(name: str, value: object) -> None:
    assert isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100, (
        f"{name} must be a number from 0 to 100, not {value!r}"
    )


def _positive(**values: object) -> None:
    for name, value in values.items():
        assert isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0, (
            f"{name} must be a number above 0, not {value!r}"
        )
