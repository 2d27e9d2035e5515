"""evaluate_job: what a supervisor gets, and what lies in the store afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smhf_native.debugger import ProfilerRule, Rule, rule_configs
from smhf_native.profiler.rules import RULES, evaluate_job

START = 1783653720


def notebook_rules() -> dict[str, list[dict[str, Any]]]:
    return {
        "debug_rules": [Rule.sagemaker(rule_configs.loss_not_decreasing()).to_debugger_rule_config_dict()],
        "profiler_rules": [
            ProfilerRule.sagemaker(rule_configs.LowGPUUtilization()).to_profiler_rule_config_dict(),
            ProfilerRule.sagemaker(rule_configs.ProfilerReport()).to_profiler_rule_config_dict(),
        ],
    }


def store(home: Path, name: str = "job-1") -> Path:
    return home / "store" / "bucket" / "training_jobs" / name


def losses(n: int, falling: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "MetricName": "loss",
            "Value": 2.0 / (k + 1) if falling else 1.0,
            "Timestamp": START + 5 + 0.2 * k,
            "IterationNumber": k + 1,
        }
        for k in range(n)
    ]


def test_notebook_job(make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path) -> None:
    record = make_job(scalars=losses(150), status="InProgress", **notebook_rules())
    make_profile(240, folder=store(home) / "profiler-output")
    result = evaluate_job(record)
    assert set(result) == {"DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses"}
    (loss,) = result["DebugRuleEvaluationStatuses"]
    low, report = result["ProfilerRuleEvaluationStatuses"]
    assert (loss["RuleConfigurationName"], loss["RuleEvaluationStatus"]) == ("LossNotDecreasing", "NoIssuesFound")
    assert (low["RuleConfigurationName"], low["RuleEvaluationStatus"]) == ("LowGPUUtilization", "NoIssuesFound")
    assert low["StatusDetails"] == "not enough data: 240 of 1000"
    assert (report["RuleConfigurationName"], report["RuleEvaluationStatus"]) == ("ProfilerReport", "NoIssuesFound")
    for status in (loss, low, report):
        assert isinstance(status["LastModifiedTime"], float)
        assert status["RuleEvaluationJobArn"].startswith(
            "arn:aws:sagemaker:us-west-2:000000000000:processing-job/job-1-"
        )
    output = store(home) / "rule-output"
    page = (output / "ProfilerReport" / "profiler-output" / "profiler-report.html").read_text()
    assert "job-1" in page
    reports = output / "ProfilerReport" / "profiler-output" / "profiler-reports"
    assert {p.stem for p in reports.iterdir()} == set(RULES)
    for path in reports.iterdir():
        content = json.loads(path.read_text())
        assert list(content) == ["RuleTriggered", "Violations", "Details", "Datapoints", "RuleParameters"]
        assert isinstance(content["RuleTriggered"], int) and isinstance(content["RuleParameters"], str)
    assert (output / "LowGPUUtilization/profiler-output/profiler-reports/LowGPUUtilization.json").is_file()
    assert (output / "LossNotDecreasing/profiler-output/profiler-reports/LossNotDecreasing.json").is_file()


def test_the_statuses_fit_the_service_model(
    make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path, peer: Any
) -> None:
    loaders, model, validate = (peer(f"botocore.{m}") for m in ("loaders", "model", "validate"))
    record = make_job(scalars=losses(150, falling=False), **notebook_rules())
    make_profile(20, folder=store(home) / "profiler-output")
    result = evaluate_job(record)
    assert result["DebugRuleEvaluationStatuses"][0]["RuleEvaluationStatus"] == "IssuesFound"
    service = model.ServiceModel(loaders.Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
    for key in result:
        report = validate.ParamValidator().validate(result[key], service.shape_for(key))
        assert not report.has_errors(), report.generate_report()
        for status in result[key]:
            values = service.shape_for("RuleEvaluationStatus").enum
            assert status["RuleEvaluationStatus"] in values
            assert len(status.get("StatusDetails", "")) <= 1024


def test_no_gpu_and_issues(make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path) -> None:
    record = make_job(scalars=losses(150, falling=False), **notebook_rules())
    make_profile(40, folder=store(home) / "profiler-output", gpus=0)
    result = evaluate_job(record)
    loss = result["DebugRuleEvaluationStatuses"][0]
    assert loss["RuleEvaluationStatus"] == "IssuesFound" and "expected a fall of 0.1 %" in loss["StatusDetails"]
    assert result["ProfilerRuleEvaluationStatuses"][0]["StatusDetails"] == "no GPU: not evaluated"
    page = (store(home) / "rule-output/ProfilerReport/profiler-output/profiler-report.html").read_text()
    assert "LossNotDecreasing: loss" in page  # the report's verdict tells of the debugging rule too


def test_report_fires_when_a_sub_rule_does(
    make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path
) -> None:
    config = rule_configs.ProfilerReport(LowGPUUtilization_patience=50, LowGPUUtilization_threshold_p5=20)
    rules = [ProfilerRule.sagemaker(config, name="MyReport").to_profiler_rule_config_dict()]
    record = make_job(profiler_rules=rules)
    make_profile(240, folder=store(home) / "profiler-output")
    (status,) = evaluate_job(record)["ProfilerRuleEvaluationStatuses"]
    assert status["RuleEvaluationStatus"] == "IssuesFound"
    assert status["StatusDetails"] == "rules that fired: LowGPUUtilization"
    folder = store(home) / "rule-output" / "MyReport" / "profiler-output"
    assert (folder / "profiler-report.html").is_file()
    content = json.loads((folder / "profiler-reports" / "LowGPUUtilization.json").read_text())
    assert content["RuleParameters"] == "threshold_p95:70\nthreshold_p5:20\nwindow:500\npatience:50"
    assert content["RuleTriggered"] >= 1


def test_a_rule_that_is_not_built_in_is_named(
    make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path
) -> None:
    make_profile(10, folder=store(home) / "profiler-output")
    custom = Rule.custom("Own", "image", "ml.t3.medium", 30, source="s3://b/r.py", rule_to_invoke="OwnRule")
    low = ProfilerRule.sagemaker(rule_configs.LowGPUUtilization()).to_profiler_rule_config_dict()
    bad_value = {**low, "RuleConfigurationName": "BadValue", "RuleParameters": {**low["RuleParameters"], "window": "x"}}
    bad_key = {**low, "RuleConfigurationName": "BadKey", "RuleParameters": {**low["RuleParameters"], "windw": "1"}}
    escaping = {**low, "RuleConfigurationName": "../../outside"}
    report = ProfilerRule.sagemaker(rule_configs.ProfilerReport()).to_profiler_rule_config_dict()
    report["RuleParameters"]["custom_rule_parameters"] = "{'NoRule_x': 1}"
    record = make_job(
        debug_rules=[
            Rule.sagemaker(rule_configs.dead_relu()).to_debugger_rule_config_dict(),
            custom.to_debugger_rule_config_dict(),
        ],
        profiler_rules=[bad_value, bad_key, escaping, report, low],
    )
    result = evaluate_job(record)
    debug = result["DebugRuleEvaluationStatuses"]
    assert [s["RuleEvaluationStatus"] for s in debug] == ["Error", "Error"]
    assert "DeadRelu" in debug[0]["StatusDetails"] and "OwnRule" in debug[1]["StatusDetails"]
    profiler = result["ProfilerRuleEvaluationStatuses"]
    assert [s["RuleEvaluationStatus"] for s in profiler] == ["Error"] * 4 + ["NoIssuesFound"]
    for status, word in zip(profiler, ("window", "windw", "outside", "NoRule_x"), strict=False):
        assert word in status["StatusDetails"]
    written = {p.name for p in (store(home) / "rule-output").iterdir()}
    assert written == {"LowGPUUtilization"}
    assert not (home / "store" / "outside").exists() and not (store(home).parent / "outside").exists()


def test_own_output_path_and_actions(
    make_job: Callable[..., Any], make_profile: Callable[..., Path], home: Path
) -> None:
    rule = Rule.sagemaker(
        rule_configs.loss_not_decreasing(),
        name="Loss",
        s3_output_path="s3://other/rules",
        rule_parameters={"num_steps": "20"},
        actions=rule_configs.StopTraining(),
    )
    rule.prepare_actions("job-1")
    record = make_job(scalars=losses(60), debug_rules=[rule.to_debugger_rule_config_dict()])
    (status,) = evaluate_job(record)["DebugRuleEvaluationStatuses"]
    assert status["RuleEvaluationStatus"] == "NoIssuesFound"
    assert "Actions are not carried out" in status["StatusDetails"]
    target = home / "store/other/rules/job-1/rule-output/Loss/profiler-output/profiler-reports/LossNotDecreasing.json"
    assert "num_steps:20" in json.loads(target.read_text())["RuleParameters"]


def test_no_rules_no_files(make_job: Callable[..., Any], home: Path) -> None:
    record = make_job()
    assert evaluate_job(record) == {"DebugRuleEvaluationStatuses": [], "ProfilerRuleEvaluationStatuses": []}
    assert not store(home).exists()


def test_without_any_profiler_file(make_job: Callable[..., Any], home: Path) -> None:
    record = make_job(**notebook_rules())
    result = evaluate_job(record)
    assert [s["RuleEvaluationStatus"] for s in result["ProfilerRuleEvaluationStatuses"]] == ["NoIssuesFound"] * 2
    page = (store(home) / "rule-output/ProfilerReport/profiler-output/profiler-report.html").read_text()
    assert "No system metrics were recorded." in page


@pytest.mark.parametrize(("mark", "text"), [("success", "Completed"), ("failure", "Failed")])
def test_the_report_knows_how_the_script_ended(
    make_job: Callable[..., Any], home: Path, mark: str, text: str
) -> None:
    """Rules run before the supervisor records the last state; the script's marks are there already."""
    record = make_job(status="InProgress", SecondaryStatus="Uploading", **notebook_rules())
    (record.folder / "supervisor.json").write_text(json.dumps({"pid": 1, "identity": None}))
    output = record.folder / "ml" / "output"
    output.mkdir(parents=True)
    (output / mark).write_text("AlgorithmError: it broke <here>" if mark == "failure" else "")
    evaluate_job(record)
    page = (store(home) / "rule-output/ProfilerReport/profiler-output/profiler-report.html").read_text()
    assert f"<dt>Status</dt><dd>{text}</dd>" in page
    assert ("The job failed: AlgorithmError: it broke &lt;here&gt;" in page) is (mark == "failure")
