"""rule_configs against the table of the fact sheet (spec/sagemaker.md A4)."""

from __future__ import annotations

import json

import pytest

from smhf_native.debugger import rule_configs

# function -> (name of the rule, {collection: parameters})
DEBUGGER_RULES = {
    "vanishing_gradient": ("VanishingGradient", {"gradients": {"save_interval": "500"}}),
    "similar_across_runs": ("SimilarAcrossRuns", {}),
    "weight_update_ratio": ("WeightUpdateRatio", {"weights": {"save_interval": "500"}}),
    "all_zero": ("AllZero", {}),
    "exploding_tensor": ("ExplodingTensor", {}),
    "unchanged_tensor": ("UnchangedTensor", {}),
    "loss_not_decreasing": ("LossNotDecreasing", {"losses": {"save_interval": "500"}}),
    "check_input_images": ("CheckInputImages", {"input_image": None}),
    "dead_relu": ("DeadRelu", {"relu_output": None}),
    "confusion": ("Confusion", {}),
    "tree_depth": ("TreeDepth", {}),
    "class_imbalance": ("ClassImbalance", {}),
    "overfit": ("Overfit", {}),
    "tensor_variance": ("TensorVariance", {}),
    "overtraining": ("Overtraining", {}),
    "poor_weight_initialization": ("PoorWeightInitialization", {"relu_input": None}),
    "saturated_activation": ("SaturatedActivation", {}),
    "nlp_sequence_ratio": ("NLPSequenceRatio", {"input_sequence": None}),
    "stalled_training_rule": ("StalledTrainingRule", {}),
    "feature_importance_overweight": (
        "FeatureImportanceOverweight",
        {"feature_importance": {"save_interval": "500"}},
    ),
}

SCAN = 60 * 1000 * 1000
PROFILER_RULES = {
    "BatchSize": dict(
        cpu_threshold_p95=70, gpu_threshold_p95=70, gpu_memory_threshold_p95=70, patience=1000, window=500
    ),
    "CPUBottleneck": dict(threshold=50, gpu_threshold=10, cpu_threshold=90, patience=1000),
    "Dataloader": dict(min_threshold=70, max_threshold=200),
    "GPUMemoryIncrease": dict(increase=5, patience=1000, window=10),
    "IOBottleneck": dict(threshold=50, gpu_threshold=10, io_threshold=50, patience=1000),
    "LoadBalancing": dict(threshold=0.5, patience=1000),
    "LowGPUUtilization": dict(threshold_p95=70, threshold_p5=10, window=500, patience=1000),
    "MaxInitializationTime": dict(threshold=20),
    "OverallSystemUsage": {},
    "StepOutlier": dict(stddev=3, mode=None, n_outliers=10),
}


@pytest.mark.parametrize("function", sorted(DEBUGGER_RULES))
def test_debugger_rule(function: str) -> None:
    name, collections = DEBUGGER_RULES[function]
    config = getattr(rule_configs, function)()
    assert config["DebugRuleConfiguration"] == {
        "RuleConfigurationName": name,
        "RuleParameters": {"rule_to_invoke": name},
    }
    found = {
        item["CollectionName"]: item["CollectionParameters"]
        for item in config.get("CollectionConfigurations", [])
    }
    assert set(found) == set(collections)
    for collection, parameters in collections.items():
        if parameters is None:  # these carry a pattern beside the interval
            assert found[collection]["save_interval"] == "500"
            assert found[collection]["include_regex"].startswith(".*")
        else:
            assert found[collection] == parameters


def test_there_are_21_and_xgboost_saves_five_collections() -> None:
    assert len(DEBUGGER_RULES) + 1 == 21
    config = rule_configs.create_xgboost_report()
    items = config["CollectionConfigurations"]
    assert len(items) == 5
    assert {item["CollectionParameters"]["save_interval"] for item in items} == {"5"}


def test_a_config_may_be_changed_without_changing_the_next() -> None:
    first = rule_configs.loss_not_decreasing()
    first["DebugRuleConfiguration"]["RuleParameters"]["num_steps"] = "3"
    first["CollectionConfigurations"][0]["CollectionParameters"]["save_interval"] = "1"
    second = rule_configs.loss_not_decreasing()
    assert "num_steps" not in second["DebugRuleConfiguration"]["RuleParameters"]
    assert second["CollectionConfigurations"][0]["CollectionParameters"] == {"save_interval": "500"}


@pytest.mark.parametrize("name", sorted(PROFILER_RULES))
def test_profiler_rule_defaults(name: str) -> None:
    rule = getattr(rule_configs, name)()
    assert rule.rule_name == name
    assert rule.rule_parameters == {**PROFILER_RULES[name], "scan_interval_us": SCAN, "rule_to_invoke": name}
    assert list(rule.rule_parameters)[-1] == "rule_to_invoke"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LowGPUUtilization", dict(threshold_p95=101)),
        ("LowGPUUtilization", dict(window=0)),
        ("LowGPUUtilization", dict(threshold_p5="10")),
        ("StepOutlier", dict(mode=3)),
        ("GPUMemoryIncrease", dict(increase=-1)),
        ("OverallSystemUsage", dict(scan_interval_us=True)),
        ("ProfilerReport", dict(opt_out_telemetry="yes")),
        ("ProfilerReport", dict(NoSuchRule_threshold=1)),
        ("ProfilerReport", dict(LowGPUUtilization=1)),
        ("ProfilerReport", dict(LowGPUUtilization_window=-4)),
    ],
)
def test_bad_values_raise_assertion_error(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        getattr(rule_configs, name)(**arguments)


def test_profiler_report_overrides() -> None:
    report = rule_configs.ProfilerReport(lowgpuutilization_threshold_p95=80, StepOutlier_stddev=5)
    assert json.loads(report.rule_parameters["custom_rule_parameters"]) == {
        "lowgpuutilization_threshold_p95": 80,
        "StepOutlier_stddev": 5,
    }
    with pytest.raises(TypeError, match="windows"):
        rule_configs.ProfilerReport(LowGPUUtilization_windows=3)
    sorted_by_rule = rule_configs.split_rule_parameters({"lowgpuUTILIZATION_threshold_P5": 1})
    assert sorted_by_rule == {"LowGPUUtilization": {"threshold_p5": 1}}


def test_opt_out_is_sent_only_when_asked_for() -> None:
    assert rule_configs.ProfilerReport().rule_parameters == {
        "custom_rule_parameters": "{}",
        "rule_to_invoke": "ProfilerReport",
    }
    assert rule_configs.ProfilerReport(opt_out_telemetry=True).rule_parameters["opt_out_telemetry"] is True


def test_get_collection() -> None:
    assert rule_configs.get_collection("losses") == {
        "CollectionName": "losses",
        "CollectionParameters": {"save_interval": "500"},
    }
    with pytest.raises(ValueError, match="nothing_like_it"):
        rule_configs.get_collection("nothing_like_it")


def test_actions() -> None:
    actions = rule_configs.ActionList(
        rule_configs.StopTraining(), rule_configs.Email("a@b.org"), rule_configs.SMS("+12345678901")
    )
    actions.update_training_job_prefix_if_not_specified("job-1")
    assert json.loads(actions.serialize()) == [
        {"name": "stoptraining", "training_job_prefix": "job-1"},
        {"name": "email", "endpoint": "a@b.org"},
        {"name": "sms", "endpoint": "+12345678901"},
    ]
    kept = rule_configs.StopTraining("mine")
    kept.update_training_job_prefix_if_not_specified("job-1")
    assert json.loads(kept.serialize())["training_job_prefix"] == "mine"
    assert rule_configs.is_valid_action_object(actions)
    assert rule_configs.is_valid_action_object(kept)
    assert not rule_configs.is_valid_action_object({"name": "email"})
    for make, bad in (
        (rule_configs.StopTraining, "a b"),
        (rule_configs.Email, 'x"y@b.org'),
        (rule_configs.Email, "nowhere"),
        (rule_configs.SMS, "12345678901"),
    ):
        with pytest.raises(ValueError):
            make(bad)
    with pytest.raises(TypeError):
        rule_configs.ActionList("stop")
