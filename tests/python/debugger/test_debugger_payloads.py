"""Payloads against what the real SDK was seen to send (spec/sagemaker.md A3, A4)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smhf_native.debugger import (
    CollectionConfig,
    DataloaderProfilingConfig,
    DebuggerHookConfig,
    DetailedProfilingConfig,
    FrameworkProfile,
    ProfilerConfig,
    ProfilerRule,
    PythonProfiler,
    PythonProfilingConfig,
    Rule,
    TensorBoardOutputConfig,
    cProfileTimer,
    get_default_profiler_rule,
    get_rule_container_image_uri,
    rule_configs,
)

IMAGE = "895741380848.dkr.ecr.us-west-2.amazonaws.com/sagemaker-debugger-rules:latest"
TRACE_FILES = {
    "LocalPath": "/opt/ml/output/profiler",
    "RotateMaxFileSizeInBytes": "10485760",
    "RotateFileCloseIntervalInSeconds": "60",
    "FileOpenFailThreshold": "50",
}


def test_notebook_profiler_config() -> None:
    config = ProfilerConfig(
        system_monitor_interval_millis=500, framework_profile_params=FrameworkProfile(num_steps=10)
    )
    config.s3_output_path = "s3://bucket/prefix/training_jobs/"
    steps = '{"StartStep": 0, "NumSteps": 10, '
    assert config._to_request_dict() == {
        "S3OutputPath": "s3://bucket/prefix/training_jobs/",
        "ProfilingIntervalInMilliseconds": 500,
        "ProfilingParameters": {
            **TRACE_FILES,
            "DetailedProfilingConfig": steps + "}",
            "DataloaderProfilingConfig": steps + '"MetricsRegex": ".*", }',
            "PythonProfilingConfig": steps + '"ProfilerName": "cprofile", "cProfileTimer": "total_time", }',
            "HorovodProfilingConfig": steps + "}",
            "SMDataParallelProfilingConfig": steps + "}",
        },
    }


def test_default_steps() -> None:
    parameters = FrameworkProfile().profiling_parameters
    assert parameters == {
        **TRACE_FILES,
        "DetailedProfilingConfig": '{"StartStep": 5, "NumSteps": 1, }',
        "DataloaderProfilingConfig": '{"StartStep": 7, "NumSteps": 1, "MetricsRegex": ".*", }',
        "PythonProfilingConfig": (
            '{"StartStep": 9, "NumSteps": 3, "ProfilerName": "cprofile", "cProfileTimer": "default", }'
        ),
        "HorovodProfilingConfig": '{"StartStep": 13, "NumSteps": 1, }',
        "SMDataParallelProfilingConfig": '{"StartStep": 15, "NumSteps": 1, }',
    }


def test_single_kinds_exclude_the_others_and_ignore_the_range() -> None:
    profile = FrameworkProfile(
        num_steps=3,
        detailed_profiling_config=DetailedProfilingConfig(start_step=10),
        python_profiling_config=PythonProfilingConfig(
            start_unix_time=1600000000, duration=2.5, python_profiler=PythonProfiler.PYINSTRUMENT
        ),
    )
    assert profile.profiling_parameters == {
        **TRACE_FILES,
        "DetailedProfilingConfig": '{"StartStep": 10, "NumSteps": 1, }',
        "PythonProfilingConfig": (
            '{"StartTimeInSecSinceEpoch": 1600000000, "Duration": 2.5, "ProfilerName": "pyinstrument", }'
        ),
    }


def test_configs_without_range_use_their_default_steps() -> None:
    assert DataloaderProfilingConfig(metrics_regex="a|b").to_json_string() == (
        '{"StartStep": 7, "NumSteps": 1, "MetricsRegex": "a|b", }'
    )
    assert PythonProfilingConfig(cprofile_timer=cProfileTimer.CPU_TIME).to_json_string() == (
        '{"StartStep": 9, "NumSteps": 3, "ProfilerName": "cprofile", "cProfileTimer": "cpu_time", }'
    )


@pytest.mark.parametrize(
    "arguments",
    [
        dict(start_step=1, duration=3),
        dict(start_step=-1),
        dict(num_steps=0),
        dict(num_steps=True),
        dict(start_unix_time=10**11),
        dict(duration=0),
        dict(file_max_size=0),
        dict(local_path=3),
        dict(file_close_interval="60"),
        dict(file_open_fail_threshold=0.5),
    ],
)
def test_framework_profile_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        FrameworkProfile(**arguments)


def test_dataloader_refuses_a_bad_pattern_and_python_a_bad_profiler() -> None:
    with pytest.raises(AssertionError):
        DataloaderProfilingConfig(metrics_regex="(")
    with pytest.raises(AssertionError):
        PythonProfilingConfig(python_profiler="cprofile")  # type: ignore[arg-type]


def test_profiler_config_disabled_and_refused() -> None:
    assert ProfilerConfig(disable_profiler=True)._to_request_dict() == {"DisableProfiler": True}
    assert ProfilerConfig._to_profiler_disabled_request_dict() == {"DisableProfiler": True}
    with pytest.raises(ValueError, match="250"):
        ProfilerConfig(system_monitor_interval_millis=250)
    with pytest.raises(AssertionError):
        ProfilerConfig(framework_profile_params={})  # type: ignore[arg-type]


def test_notebook_rules() -> None:
    rule = Rule.sagemaker(rule_configs.loss_not_decreasing())
    assert rule.image_uri == "DEFAULT_RULE_EVALUATOR_IMAGE"
    rule.image_uri = get_rule_container_image_uri("us-west-2")
    assert rule.to_debugger_rule_config_dict() == {
        "RuleConfigurationName": "LossNotDecreasing",
        "RuleEvaluatorImage": IMAGE,
        "RuleParameters": {"rule_to_invoke": "LossNotDecreasing"},
    }
    hook = DebuggerHookConfig(s3_output_path="s3://b/p/", collection_configs=rule.collection_configs)
    assert hook._to_request_dict() == {
        "S3OutputPath": "s3://b/p/",
        "CollectionConfigurations": [
            {"CollectionName": "losses", "CollectionParameters": {"save_interval": "500"}}
        ],
    }

    low = ProfilerRule.sagemaker(rule_configs.LowGPUUtilization())
    low.image_uri = IMAGE
    assert low.to_profiler_rule_config_dict() == {
        "RuleConfigurationName": "LowGPUUtilization",
        "RuleEvaluatorImage": IMAGE,
        "RuleParameters": {
            "threshold_p95": "70",
            "threshold_p5": "10",
            "window": "500",
            "patience": "1000",
            "scan_interval_us": "60000000",
            "rule_to_invoke": "LowGPUUtilization",
        },
    }
    report = ProfilerRule.sagemaker(rule_configs.ProfilerReport())
    assert report.to_profiler_rule_config_dict() == {
        "RuleConfigurationName": "ProfilerReport",
        "RuleEvaluatorImage": "DEFAULT_RULE_EVALUATOR_IMAGE",
        "RuleParameters": {"custom_rule_parameters": "{}", "rule_to_invoke": "ProfilerReport"},
    }


def test_rule_options() -> None:
    rule = Rule.sagemaker(
        rule_configs.similar_across_runs(),
        name="Twins",
        container_local_output_path="/out",
        s3_output_path="s3://b/rules",
        other_trials_s3_input_paths=["s3://b/a", "s3://b/c"],
        rule_parameters={"check_every": 5},
        collections_to_save=[CollectionConfig("mine", {"include_regex": ".*", "save_interval": 7})],
        actions=rule_configs.StopTraining(),
    )
    rule.prepare_actions("job-9")
    action = rule.rule_parameters.pop("action_json")
    assert json.loads(action) == {"training_job_prefix": "job-9", "name": "stoptraining"}
    assert rule.to_debugger_rule_config_dict() == {
        "RuleConfigurationName": "Twins",
        "RuleEvaluatorImage": "DEFAULT_RULE_EVALUATOR_IMAGE",
        "LocalPath": "/out",
        "S3OutputPath": "s3://b/rules",
        "RuleParameters": {
            "other_trial_0": "s3://b/a",
            "other_trial_1": "s3://b/c",
            "rule_to_invoke": "SimilarAcrossRuns",
            "check_every": "5",
        },
    }
    assert rule.collection_configs[0]._to_request_dict() == {
        "CollectionName": "mine",
        "CollectionParameters": {"include_regex": ".*", "save_interval": "7"},
    }


def test_custom_rules() -> None:
    rule = Rule.custom(
        "Own", "image", "ml.t3.medium", 30, source="s3://b/rule.py", rule_to_invoke="OwnRule"
    )
    assert rule.to_debugger_rule_config_dict() == {
        "RuleConfigurationName": "Own",
        "RuleEvaluatorImage": "image",
        "InstanceType": "ml.t3.medium",
        "VolumeSizeInGB": 30,
        "RuleParameters": {"source_s3_uri": "s3://b/rule.py", "rule_to_invoke": "OwnRule"},
    }
    profiler = ProfilerRule.custom("Own", "image", "ml.t3.medium", 30, rule_parameters={"a": 1})
    assert profiler.to_profiler_rule_config_dict()["RuleParameters"] == {"a": "1"}
    with pytest.raises(ValueError, match="rule_to_invoke"):
        Rule.custom("Own", "image", "ml.t3.medium", 30, source="s3://b/rule.py")


def test_rule_refuses() -> None:
    with pytest.raises(RuntimeError, match="rule_to_invoke"):
        Rule.sagemaker(rule_configs.overfit(), rule_parameters={"rule_to_invoke": "Other"})
    with pytest.raises(RuntimeError, match="dict"):
        Rule.sagemaker(rule_configs.overfit(), actions={})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ProfilerRule\.sagemaker"):
        Rule.sagemaker(rule_configs.LowGPUUtilization())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Rule\.sagemaker"):
        ProfilerRule.sagemaker(rule_configs.overfit())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mars-1"):
        get_rule_container_image_uri("mars-1")
    host = get_rule_container_image_uri("cn-north-1").partition("/")[0]
    assert host == "618459771430.dkr.ecr.cn-north-1.amazonaws.com.cn"


def test_default_profiler_rule_has_its_own_name() -> None:
    rule = get_default_profiler_rule()
    head, _, tail = rule.name.partition("-")
    assert head == "ProfilerReport" and tail.isdigit() and len(tail) == 10


def test_service_model_accepts_everything(peer: Any) -> None:
    """botocore's own validator, without a client or a network."""
    loaders = peer("botocore.loaders")
    model = peer("botocore.model")
    validate = peer("botocore.validate")
    description = loaders.Loader().load_service_model("sagemaker", "service-2")
    shape = model.ServiceModel(description, "sagemaker").operation_model("CreateTrainingJob").input_shape
    debug_rules = [
        Rule.sagemaker(getattr(rule_configs, name)()).to_debugger_rule_config_dict()
        for name in ("loss_not_decreasing", "create_xgboost_report", "dead_relu")
    ]
    profiler_rules = [
        ProfilerRule.sagemaker(rule()).to_profiler_rule_config_dict()
        for rule in (*rule_configs.REPORT_RULES, rule_configs.ProfilerReport)
    ]
    request = {
        "TrainingJobName": "job",
        "AlgorithmSpecification": {"TrainingInputMode": "File", "TrainingImage": "image"},
        "RoleArn": "arn:aws:iam::111122223333:role/any-role-here",
        "OutputDataConfig": {"S3OutputPath": "s3://b/p"},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge", "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        "DebugRuleConfigurations": debug_rules,
        "ProfilerRuleConfigurations": profiler_rules,
        "ProfilerConfig": ProfilerConfig("s3://b/p", 500, FrameworkProfile())._to_request_dict(),
        "DebugHookConfig": DebuggerHookConfig(
            "s3://b/p", "/l", {"save_interval": 10}, [CollectionConfig("losses", {"save_interval": 500})]
        )._to_request_dict(),
        "TensorBoardOutputConfig": TensorBoardOutputConfig("s3://b/tb", "/tb")._to_request_dict(),
    }
    report = validate.ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    # Every parameter key that is sent must be one the service knows: unknown ones are errors too.
    request["ProfilerConfig"]["Nonsense"] = 1
    assert validate.ParamValidator().validate(request, shape).has_errors()
