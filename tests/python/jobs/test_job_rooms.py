"""A job with the other rooms in it: system samples, rules, report, and C code given /opt/ml paths."""

from __future__ import annotations

import json

import pytest

from smhf_native.jobs.records import JobRecord

pytest.importorskip("smhf_native.trace", reason="the trace room is not built")


def test_samples_rules_and_report(local, estimator):
    from smhf_native.debugger import FrameworkProfile, ProfilerConfig, ProfilerRule, Rule, rule_configs

    job = estimator(
        """
        import os, time
        from smhf_native.trace import EventWriter
        writer = EventWriter(os.environ["SMHF_PROFILER_FOLDER"], "algo-1")
        for step in range(10):
            begin = time.time_ns()
            print({"loss": 2.0 - step / 10, "epoch": 1.0}, flush=True)
            time.sleep(0.12)
            writer.span("Step:ModeKeys.TRAIN", begin, time.time_ns(), {"step_num": str(step)})
        writer.close()
        """,
        metric_definitions=[{"Name": "loss", "Regex": "'loss': ([0-9.]+)"}],
        profiler_config=ProfilerConfig(
            system_monitor_interval_millis=100, framework_profile_params=FrameworkProfile(num_steps=10)
        ),
        rules=[
            Rule.sagemaker(rule_configs.loss_not_decreasing()),
            ProfilerRule.sagemaker(rule_configs.LowGPUUtilization()),
            ProfilerRule.sagemaker(rule_configs.ProfilerReport()),
        ],
    )
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    files = list((record.profiler_folder / "system" / "incremental").rglob("*.algo-1.json"))
    assert files
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    times = {
        round(e["Timestamp"], 2) for e in events if e["Dimension"] == "CPUUtilization" and e["Name"] == "cpu0"
    }
    assert len(times) >= 5
    assert (record.profiler_folder / "system" / "training_job_end.ts").stat().st_size == 0
    assert list((record.profiler_folder / "framework" / "pevents").rglob("*.json"))
    summary = {rule["RuleConfigurationName"]: rule for rule in job.latest_training_job.rule_job_summary()}
    assert set(summary) == {"LossNotDecreasing", "LowGPUUtilization", "ProfilerReport"}
    assert {rule["RuleEvaluationStatus"] for rule in summary.values()} <= {"NoIssuesFound", "IssuesFound"}
    bucket = local.default_bucket()
    key = f"out/{record.name}/rule-output/ProfilerReport/profiler-output/profiler-report.html"
    (written,) = local.download_data("here", bucket, key)
    with open(written, encoding="utf-8") as stream:
        assert record.name in stream.read()


def test_compiled_code_follows_the_mapping(local, estimator, tmp_path):
    pytest.importorskip("smhf_native.tokenizer", reason="the tokenizer room is not built")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    job = estimator(
        f"""
        import os
        from smhf_native.tokenizer import Tokenizer
        words = {words!r}
        open("/opt/ml/input/vocab.txt", "w").write("\\n".join(words) + "\\n")
        tokenizer = Tokenizer.from_pretrained("/opt/ml/input/vocab.txt")
        print("ids", tokenizer(["a b"]).input_ids.tolist())
        tokenizer.save_pretrained("/opt/ml/model/tokenizer")
        print("again", Tokenizer.from_pretrained("/opt/ml/model/tokenizer")(["b"]).input_ids.tolist())
        """
    )
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    lines = [line for _, line in record.log_lines()]
    assert "ids [[2, 5, 6, 3]]" in lines and "again [[2, 6, 3]]" in lines
    assert (record.ml / "model" / "tokenizer" / "vocab.txt").read_text().split() == words


def test_missing_weights_are_refused_by_the_real_resolver(local, estimator, tmp_path, monkeypatch):
    hub = pytest.importorskip("smhf_native.hub", reason="the hub module is not there")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = estimator("print(1)", hyperparameters={"model_name": "no-such/model"})
    with pytest.raises(hub.ModelNotFoundError, match="no-such/model") as caught:
        job.fit()
    assert str(tmp_path / "hf") in str(caught.value)  # it says where it looked
    assert job.latest_training_job is None
