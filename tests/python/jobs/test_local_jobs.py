"""Whole local jobs with tiny scripts: what a script finds, how jobs end, who survives whom."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest

import smhf_native
from smhf_native.exceptions import (
    JobNotFoundError,
    ObjectNotFoundError,
    PreflightError,
    ResourceInUseError,
    UnexpectedStatusException,
)
from smhf_native.jobs import launch
from smhf_native.jobs.records import JobRecord, jobs_root

LOSS = [{"Name": "loss", "Regex": "'loss': ([0-9]+(.|e\\-)[0-9]+),?"}]


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.05)


def log_text(name):
    return "\n".join(line for _, line in JobRecord.load(name).log_lines())


def test_a_whole_job(local, estimator, tmp_path, capfd):
    (tmp_path / "train.csv").write_text("text,label\na,1\n")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "x.txt").write_text("x")
    local.upload_data(str(tmp_path / "train.csv"), key_prefix="p/data")
    folder = local.upload_data(str(tmp_path / "folder"), key_prefix="p/folder")
    hyperparameters = {"epochs": 1, "train_batch_size": 32, "name": "a b"}
    job = estimator(
        """
        import json, os, sys
        print("ARGV", json.dumps(sys.argv))
        print("CWD", os.getcwd(), sys.path[0])
        print("FILES", sorted(os.listdir(os.environ["SM_CHANNEL_TRAIN"])),
              open("/opt/ml/input/data/all/sub/x.txt").read(), os.listdir("/opt/ml/code"))
        print("HP", json.load(open("/opt/ml/input/config/hyperparameters.json"))["epochs"])
        print("MAIN", __name__, __file__)
        for step in range(3):
            print({"loss": 1.25 - step / 4, "step": step})
        sys.stderr.write("to stderr\\n")
        os.makedirs("/opt/ml/checkpoints/checkpoint-3")
        open("/opt/ml/checkpoints/checkpoint-3/state", "w").write("3")
        open(os.path.join(os.environ["SM_MODEL_DIR"], "config.json"), "w").write("{}")
        open(os.environ["SM_OUTPUT_DATA_DIR"] + "/eval_results.txt", "w").write("a = 1")
        """,
        hyperparameters=hyperparameters,
        metric_definitions=LOSS,
        instance_type="ml.p3.2xlarge",
        instance_count=1,
        checkpoint_s3_uri=f"s3://{local.default_bucket()}/ck",
    )
    job.fit({"train": f"s3://{local.default_bucket()}/p/data/train.csv", "all": folder})
    name = job.latest_training_job.name
    assert name == job.latest_training_job.job_name
    output = capfd.readouterr().out
    lines = output.splitlines()
    arguments = ["train.py", "--epochs", "1", "--name", "a b", "--train_batch_size", "32"]
    assert f"ARGV {json.dumps(arguments)}" in lines
    record = JobRecord.load(name)
    code = str(record.ml / "code")
    assert f"CWD {code} {code}" in lines
    assert "FILES ['train.csv'] x ['train.py']" in lines
    assert "HP 1" in lines and "MAIN __main__ train.py" in lines and "to stderr" in lines
    assert any("has a GPU, this machine has none" in line for line in lines) or os.path.exists("/dev/nvidia0")
    assert "Invoking script with the following command:" in lines
    assert "Reporting training SUCCESS" in lines
    states = [
        line.split(" ")[2] for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+ - ", line)
    ]
    assert states == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert lines[-2].startswith("Training seconds: ") and lines[-1].startswith("Billable seconds: ")
    assert lines.index("Invoking script with the following command:") < lines.index("HP 1")

    description = job.latest_training_job.describe()
    assert description["TrainingJobStatus"] == description["SecondaryStatus"] == "Completed"
    assert description["ModelArtifacts"]["S3ModelArtifacts"] == job.model_data
    assert job.model_data == f"{job.output_path}{name}/output/model.tar.gz"
    assert description["CreationTime"] <= description["TrainingStartTime"] < description["TrainingEndTime"]
    assert description["TrainingTimeInSeconds"] == description["BillableTimeInSeconds"] >= 1
    assert [entry["Value"] for entry in record.metrics()] == [1.25, 1.0, 0.75]
    final = description["FinalMetricDataList"]
    assert [(item["MetricName"], item["Value"]) for item in final] == [("loss", 0.75)]
    assert final[0]["Timestamp"].tzinfo is not None
    for earlier, later in zip(
        description["SecondaryStatusTransitions"], description["SecondaryStatusTransitions"][1:], strict=False
    ):
        assert earlier["EndTime"] == later["StartTime"]

    store = local.store
    with tarfile.open(store.path(job.model_data)) as archive:
        assert archive.getnames() == ["config.json"]
    with tarfile.open(store.path(job.model_data).with_name("output.tar.gz")) as archive:
        assert archive.getnames() == ["eval_results.txt"]
    assert store.read(f"s3://{local.default_bucket()}/ck/checkpoint-3/state") == b"3"
    # As in the SDK, the caller's own dict now holds the platform's entries.
    assert hyperparameters["sagemaker_program"] == "train.py"
    assert hyperparameters["sagemaker_job_name"] == name
    assert os.stat(record.folder).st_mode & 0o077 == 0
    assert record.pid() is None


def test_failure_reason_is_the_exception(estimator, capfd):
    job = estimator(
        """
        print("before")
        def inner():
            raise ValueError("boom: a value")
        inner()
        """,
        hyperparameters={"api_token": "planted-canary-123", "epochs": 2},
    )
    with pytest.raises(UnexpectedStatusException) as caught:
        job.fit()
    name = job.latest_training_job.name
    error = caught.value
    assert error.actual_status == "Failed" and error.allowed_statuses == ["Completed", "Stopped"]
    assert str(error).startswith(
        f"Error for Training job {name}: Failed. Reason: ExecuteUserScriptError:\nExitCode 1\n"
    )
    assert 'ErrorMessage "ValueError: boom: a value"' in str(error)
    output = capfd.readouterr().out
    assert "bootstrap.py" not in output  # the traceback shows the script's frames only
    assert 'File "train.py", line' in output
    assert "planted-canary-123" not in output and "planted-canary-123" not in str(error)
    description = job.latest_training_job.describe()
    assert description["TrainingJobStatus"] == "Failed" and "ModelArtifacts" not in description
    record = JobRecord.load(name)
    failure = (record.ml / "output" / "failure").read_text()
    assert failure.startswith(description["FailureReason"])
    with pytest.raises(ValueError, match=r"no model artifact.*Failed"):
        _ = job.model_data


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import sys; sys.exit(3)", "ExitCode 3\n"),
        ("import sys; sys.exit('all wrong')", 'ExitCode 1\nErrorMessage "all wrong"'),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ExitCode 137\n"),
        ("import os; os.abort()", "SIGABRT"),
        ("x = (", "SyntaxError"),
        ("open('/opt/ml/output/failure', 'w').write('my own words'); raise SystemExit(9)", "my own words"),
        ("raise ValueError('x' * 5000)", "ExecuteUserScriptError"),
    ],
)
def test_failure_reasons(estimator, script, expected):
    job = estimator(script)
    with pytest.raises(UnexpectedStatusException):
        job.fit(logs="None")
    reason = job.latest_training_job.describe()["FailureReason"]
    assert expected in reason and len(reason) <= 1024
    if "SIGKILL" in script:
        assert "out of memory" in reason


def test_stop_gives_the_script_time_to_save(estimator, local):
    job = estimator(
        """
        import os, signal, sys, time
        def save(*_):
            open(os.environ["SM_MODEL_DIR"] + "/weights", "w").write("saved at the end")
            print("saved", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    job.fit(wait=False)
    name = job.latest_training_job.name
    wait_until(lambda: "ready" in log_text(name))
    local.stop_training_job(name)
    with pytest.warns(UserWarning, match="was stopped"):
        job.latest_training_job.wait(logs="None")
    description = job.latest_training_job.describe()
    assert (description["TrainingJobStatus"], description["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert "Stopping" in [item["Status"] for item in description["SecondaryStatusTransitions"]]
    assert "saved" in log_text(name)
    with tarfile.open(local.store.path(job.model_data)) as archive:
        assert archive.getnames() == ["weights"]
    local.stop_training_job(name)  # a finished job is left alone


def test_sigkill_after_the_grace(estimator, monkeypatch):
    monkeypatch.setenv("SMHF_STOP_SECONDS", "0.5")
    job = estimator(
        """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("child", child.pid, flush=True)
        time.sleep(60)
        """
    )
    job.fit(wait=False)
    name = job.latest_training_job.name
    wait_until(lambda: "child" in log_text(name))
    child = int(re.search(r"child (\d+)", log_text(name)).group(1))
    job.latest_training_job.stop()
    with pytest.warns(UserWarning, match="was stopped"):
        job.latest_training_job.wait(logs="None")
    assert job.latest_training_job.describe()["TrainingJobStatus"] == "Stopped"
    wait_until(lambda: gone(child))


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("limits", "secondary"),
    [
        ({"max_run": 1}, "MaxRuntimeExceeded"),
        ({"max_run": 1, "max_wait": 1, "use_spot_instances": True}, "Max(Runtime|WaitTime)Exceeded"),
    ],
)
def test_time_limits(estimator, limits, secondary):
    job = estimator("import time; time.sleep(60)", **limits)
    with pytest.warns(UserWarning, match="was stopped"):
        job.fit(logs="None")
    description = job.latest_training_job.describe()
    assert description["TrainingJobStatus"] == "Stopped"
    assert re.fullmatch(secondary, description["SecondaryStatus"])
    assert description["EnableManagedSpotTraining"] is ("use_spot_instances" in limits)


def test_resume_from_the_checkpoint_place(estimator, local, capfd):
    uri = f"s3://{local.default_bucket()}/ck"
    local.store.write(f"{uri}/checkpoint-7/state", b"7")
    script = """
        import os
        names = os.listdir("/opt/ml/checkpoints")
        last = max([int(name.split("-")[1]) for name in names], default=0)
        print("from step", last)
        os.mkdir(f"/opt/ml/checkpoints/checkpoint-{last + 1}")
        open(f"/opt/ml/checkpoints/checkpoint-{last + 1}/state", "w").write(str(last + 1))
        os.mkdir("/opt/ml/checkpoints/.tmp-9-1")
        open("/opt/ml/checkpoints/.tmp-9-1/state", "w").write("half")
        """
    job = estimator(script, checkpoint_s3_uri=uri)
    job.fit()
    output = capfd.readouterr().out
    assert "from step 7" in output
    assert sum("already holds 1 checkpoint files" in line for line in output.splitlines()) == 1
    assert local.store.read(f"{uri}/checkpoint-8/state") == b"8"
    assert local.store.list(f"{uri}/.tmp") == []
    # Another job without that place starts at step 0.
    fresh = estimator(script, checkpoint_s3_uri=f"{uri}-other")
    fresh.fit()
    assert "from step 0" in capfd.readouterr().out
    without = estimator(script)
    without.fit()
    assert "from step 0" in capfd.readouterr().out


def test_checkpoints_reach_the_store_while_the_script_runs(estimator, local, monkeypatch):
    monkeypatch.setenv("SMHF_SYNC_SECONDS", "0.1")
    uri = f"s3://{local.default_bucket()}/ck"
    job = estimator(
        """
        import os, time
        os.mkdir("/opt/ml/checkpoints/checkpoint-1")
        open("/opt/ml/checkpoints/checkpoint-1/state", "w").write("1")
        past = time.time() - 10
        os.utime("/opt/ml/checkpoints/checkpoint-1/state", (past, past))
        while not os.path.exists("/opt/ml/checkpoints/go"):
            time.sleep(0.05)
        """,
        checkpoint_s3_uri=uri,
    )
    job.fit(wait=False)
    wait_until(lambda: local.store.exists(f"{uri}/checkpoint-1/state"))
    record = JobRecord.load(job.latest_training_job.name)
    assert record.status == "InProgress" and record.pid() is not None
    (record.ml / "checkpoints" / "go").touch()
    job.latest_training_job.wait(logs="None")


def test_the_job_outlives_its_notebook(estimator, local, tmp_path):
    """The process that called fit() is killed; the job completes and any process can attach."""
    (tmp_path / "src").mkdir(exist_ok=True)
    (tmp_path / "src" / "train.py").write_text(
        "import os, time\n"
        "print('working', flush=True)\n"
        "while not os.path.exists('/opt/ml/output/go'):\n    time.sleep(0.05)\n"
        "open(os.environ['SM_MODEL_DIR'] + '/m', 'w').write('m')\nprint('done')\n"
    )
    program = textwrap.dedent(
        f"""
        from smhf_native.huggingface.estimator import HuggingFace
        job = HuggingFace(entry_point="train.py", source_dir={str(tmp_path / "src")!r}, role="r",
                          image_uri="none", base_job_name="kernel")
        job.fit(job_name="kernel-job")
        """
    )
    root = str(Path(smhf_native.__file__).parents[1])
    kernel = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root})
    wait_until(
        lambda: (jobs_root() / "kernel-job" / "log.txt").exists() and "working" in log_text("kernel-job")
    )
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    record = JobRecord.load("kernel-job")
    assert record.status == "InProgress"
    (record.ml / "output" / "go").touch()
    from smhf_native.huggingface.estimator import HuggingFace

    attached = HuggingFace.attach("kernel-job", sagemaker_session=local)
    assert record.status == "Completed"
    assert local.store.path(attached.model_data).is_file()
    assert attached.latest_training_job.name == "kernel-job"


def test_a_dead_supervisor_shows_as_failed(estimator):
    job = estimator("import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)")
    job.fit(wait=False)
    name = job.latest_training_job.name
    wait_until(lambda: "pid " in log_text(name))
    script = int(re.search(r"^pid (\d+)", log_text(name), re.MULTILINE).group(1))
    record = JobRecord.load(name)
    supervisor = record.pid()
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: gone(supervisor))
    description = record.describe()
    assert description["TrainingJobStatus"] == "Failed"
    assert f"supervisor process (pid {supervisor}) died" in description["FailureReason"]
    wait_until(lambda: gone(script))  # the script does not go on alone
    with pytest.raises(UnexpectedStatusException, match="supervisor"):
        job.latest_training_job.wait(logs="None")


def test_a_reused_pid_is_not_taken_for_the_supervisor(estimator):
    job = estimator("print('x')")
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    description = json.loads((record.folder / "describe.json").read_text())
    description["TrainingJobStatus"] = "InProgress"
    (record.folder / "describe.json").write_text(json.dumps(description))
    (record.folder / "supervisor.json").write_text(json.dumps({"pid": os.getpid(), "identity": "boot:1"}))
    assert record.status == "Failed"


def test_ctrl_c_in_fit_stops_the_job(tmp_path, home):
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    program = textwrap.dedent(
        """
        from smhf_native.huggingface.estimator import HuggingFace
        job = HuggingFace(entry_point="train.py", role="r", image_uri="none")
        try:
            job.fit(job_name="interrupted")
        except KeyboardInterrupt:
            print("caught", job.latest_training_job.describe()["TrainingJobStatus"], flush=True)
        """
    )
    root = str(Path(smhf_native.__file__).parents[1])
    kernel = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    wait_until(
        lambda: (jobs_root() / "interrupted" / "log.txt").exists() and "ready" in log_text("interrupted")
    )
    kernel.send_signal(signal.SIGINT)
    output, _ = kernel.communicate(timeout=30)
    assert "caught Stopped" in output and "stopping training job interrupted" in output


def test_missing_input_is_named_before_anything_starts(estimator, local, home):
    job = estimator("print(1)")
    bucket = local.default_bucket()
    with pytest.raises(ObjectNotFoundError) as caught:
        job.fit({"train": f"s3://{bucket}/p/data/train.csv"})
    text = str(caught.value)
    assert "channel 'train'" in text and f"s3://{bucket}/p/data/train.csv" in text and "upload_data" in text
    assert not jobs_root().exists() or os.listdir(jobs_root()) == []
    assert local.list_s3_files(bucket, "") == []  # not even the source archive stays
    assert job.latest_training_job is None


def test_taken_names_are_refused(estimator):
    job = estimator("print(1)")
    job.fit(job_name="twice", logs="None")
    with pytest.raises(ResourceInUseError, match="'twice' exists already"):
        job.fit(job_name="twice")
    with pytest.raises(PreflightError, match="job name"):
        job.fit(job_name="no_underscores_")
    with pytest.raises(JobNotFoundError, match="twice"):
        JobRecord.load("absent")


def test_secrets_of_the_environment_do_not_reach_the_log(estimator, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_plantedcanary0123456789")
    job = estimator(
        "import os; print('token', os.environ['HF_TOKEN'], os.environ['MY_API_KEY'])",
        environment={"MY_API_KEY": "another-planted-canary"},
    )
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    assert "token *** ***" in log_text(record.name)
    for path in (record.log_path, record.folder / "supervisor.log", record.metrics_path):
        content = path.read_bytes()
        assert b"plantedcanary" not in content and b"planted-canary" not in content
    assert os.stat(record.folder / "request.json").st_mode & 0o077 == 0


def test_progress_bars_long_lines_and_bad_bytes(estimator):
    job = estimator(
        r"""
        import sys
        sys.stderr.write("\r 10%|x\r 50%|xx\r100%|xxx{'loss': 0.25, 'a': 1}\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\xff\xfe bytes\n")
        print("y" * 3_000_000)
        print("no newline at the end", end="")
        """,
        metric_definitions=LOSS,
    )
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    lines = [line for _, line in record.log_lines()]
    assert "100%|xxx{'loss': 0.25, 'a': 1}" in lines
    assert "\ufffd\ufffd bytes" in lines
    assert "no newline at the end" in lines
    assert sum(line.count("y") for line in lines if set(line) == {"y"}) == 3_000_000
    assert [entry["Value"] for entry in record.metrics()] == [0.25]


def test_shell_scripts_and_packages(estimator, tmp_path):
    job = estimator('echo "shell $1 $2 $SM_HP_A"\n', entry_point="run.sh", hyperparameters={"a": "b c"})
    job.fit(logs="None")
    assert "shell -a b c b c" in log_text(job.latest_training_job.name)
    source = tmp_path / "src"
    (source / "setup.py").write_text("from setuptools import setup\nsetup(name='pack')\n")
    (source / "pack").mkdir()
    (source / "pack" / "__init__.py").write_text("")
    (source / "pack" / "__main__.py").write_text("import sys\nprint('package', sys.argv[1:])\n")
    (source / "pack.py").write_text("")
    packed = estimator("", entry_point="pack.py", hyperparameters={"k": 1})
    packed.fit(logs="None")
    assert "package ['-k', '1']" in log_text(packed.latest_training_job.name)


def test_children_that_hold_the_pipe_do_not_hang_the_job(estimator):
    job = estimator(
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("child", child.pid)
        """
    )
    begin = time.monotonic()
    job.fit(logs="None")
    assert time.monotonic() - begin < 20
    name = job.latest_training_job.name
    wait_until(lambda: gone(int(re.search(r"child (\d+)", log_text(name)).group(1))))


def test_the_script_does_not_see_our_internals(estimator):
    job = estimator(
        """
        import os, sys
        print("KEYS", sorted(k for k in os.environ if k.startswith("SMHF_SUPER")), "smhf_native" in sys.path[0])
        """
    )
    job.fit(logs="None")
    assert "KEYS [] False" in log_text(job.latest_training_job.name)


def test_rules_that_cannot_run_are_errors_not_silence(local, monkeypatch, estimator):
    class Rule:
        image_uri = "x"

        def to_profiler_rule_config_dict(self):
            return {
                "RuleConfigurationName": "Custom",
                "RuleEvaluatorImage": "x",
                "RuleParameters": {"rule_to_invoke": "NoSuchRule"},
            }

    class Config:
        s3_output_path = None

        def _to_request_dict(self):
            return {"S3OutputPath": self.s3_output_path, "DisableProfiler": True}

    job = estimator("print(1)", rules=[Rule()], profiler_config=Config())
    job.fit(logs="None")
    description = job.latest_training_job.describe()
    assert description["TrainingJobStatus"] == "Completed"
    assert description["ProfilingStatus"] == "Disabled"
    summary = job.latest_training_job.rule_job_summary()
    assert [rule["RuleConfigurationName"] for rule in summary] == ["Custom"]
    assert summary[0]["RuleEvaluationStatus"] in ("Error", "NoIssuesFound")
    assert summary[0]["StatusDetails"]


def test_launch_from_a_plain_payload(home, local):
    store = local.store
    from smhf_native.jobs import archives

    script = home.parent / "t.py"
    script.write_text("print('plain')")
    archives.create(store.path("s3://b/s/sourcedir.tar.gz"), [("t.py", script)])
    record = launch.start(
        {
            "TrainingJobName": "plain",
            "AlgorithmSpecification": {"TrainingImage": "x", "TrainingInputMode": "File"},
            "OutputDataConfig": {"S3OutputPath": "s3://b/out"},
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "local", "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "HyperParameters": {
                "sagemaker_program": "t.py",
                "sagemaker_submit_directory": "s3://b/s/sourcedir.tar.gz",
            },
        }
    )
    wait_until(lambda: record.status == "Completed")
    assert "plain" in log_text("plain")
    assert record.output_uri == "s3://b/out/plain"
    assert record.profiler_folder == store.path("s3://b/out/plain/profiler-output")


def test_a_full_disk_costs_output_not_the_job(estimator, monkeypatch):
    """The log's file refuses to grow for a while; the job goes on and says what was lost."""
    from smhf_native.jobs import supervisor as module

    job = estimator("print('x')")
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    supervisor = module.Supervisor(record.name)

    class Full:
        def __init__(self):
            self.lines, self.full = [], True

        def write(self, data):
            if self.full:
                raise OSError(28, "No space left on device")
            self.lines.append(data.decode())

        def close(self):
            pass

    supervisor._log.close()
    log = supervisor._log = Full()
    supervisor.say("one")
    supervisor.say("two")
    log.full = False
    supervisor.say("three")
    assert "2 lines of output were lost" in "".join(log.lines) and "three" in log.lines[-1]
    # The last word is written from the reserve.
    written = []

    def write_json(path, value, **_):
        if supervisor._reserve.exists():
            raise OSError(28, "No space left on device")
        written.append(value["TrainingJobStatus"])

    monkeypatch.setattr(module, "write_json", write_json)
    supervisor.write()
    assert written == ["Completed"]
    supervisor.close()


def test_a_script_that_closes_its_output_is_waited_for(estimator):
    job = estimator(
        """
        import os, time
        print("closing", flush=True)
        os.close(1); os.close(2)
        time.sleep(0.5)
        open("/opt/ml/output/data/late", "w").write("1")
        os._exit(0)
        """
    )
    job.fit(logs="None")
    record = JobRecord.load(job.latest_training_job.name)
    assert (record.ml / "output" / "data" / "late").exists() and record.status == "Completed"
    assert not (record.folder / ".reserve").exists()


def test_a_stop_before_the_script_began(estimator):
    job = estimator("import time; time.sleep(60)")
    job.fit(wait=False)
    job.latest_training_job.stop()
    with pytest.warns(UserWarning, match="was stopped"):
        job.latest_training_job.wait(logs="None")
    assert job.latest_training_job.describe()["SecondaryStatus"] == "Stopped"


def test_sigterm_to_the_supervisor_stops_the_job(estimator):
    job = estimator("import time; print('ready', flush=True); time.sleep(60)")
    job.fit(wait=False)
    name = job.latest_training_job.name
    wait_until(lambda: "ready" in log_text(name))
    os.kill(JobRecord.load(name).pid(), signal.SIGTERM)
    with pytest.warns(UserWarning, match="was stopped"):
        job.latest_training_job.wait(logs="None")
    assert job.latest_training_job.describe()["TrainingJobStatus"] == "Stopped"
