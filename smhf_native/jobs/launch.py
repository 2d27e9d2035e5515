"""Start and stop local training jobs."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smhf_native.exceptions import ResourceInUseError
from smhf_native.jobs import preflight, processes
from smhf_native.jobs.records import TERMINAL, JobRecord, home, jobs_root, write_json

__all__ = ["first_description", "python_path", "start", "stop"]

_DESCRIBED = (
    "AlgorithmSpecification", "CheckpointConfig", "DebugHookConfig", "DebugRuleConfigurations",
    "Environment", "ExperimentConfig", "HyperParameters", "InputDataConfig", "OutputDataConfig",
    "ProfilerConfig", "ProfilerRuleConfigurations", "ResourceConfig", "RetryStrategy", "RoleArn",
    "StoppingCondition", "TensorBoardOutputConfig", "VpcConfig",
)  # fmt: skip


def python_path(environment: dict[str, str]) -> None:
    """Make sure that a child Python finds this package, whatever its working folder."""
    root = str(Path(__file__).resolve().parents[2])
    known = {os.path.realpath(folder) for folder in [*site.getsitepackages(), site.getusersitepackages()]}
    if os.path.realpath(root) in known:
        return
    old = environment.get("PYTHONPATH", "")
    if root not in old.split(os.pathsep):
        environment["PYTHONPATH"] = root + (os.pathsep + old if old else "")


def first_description(request: dict[str, Any], *, region: str, account: str, now: float) -> dict[str, Any]:
    """Return the description of a job that was just accepted (times: epoch seconds)."""
    name = request["TrainingJobName"]
    description: dict[str, Any] = {
        "TrainingJobName": name,
        "TrainingJobArn": f"arn:aws:sagemaker:{region}:{account}:training-job/{name}",
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Starting",
        "CreationTime": now,
        "LastModifiedTime": now,
        "SecondaryStatusTransitions": [
            {
                "Status": "Starting",
                "StartTime": now,
                "StatusMessage": "Starting the training job's supervisor on this machine",
            }
        ],
        "FinalMetricDataList": [],
        "EnableNetworkIsolation": bool(request.get("EnableNetworkIsolation", False)),
        "EnableInterContainerTrafficEncryption": bool(
            request.get("EnableInterContainerTrafficEncryption", False)
        ),
        "EnableManagedSpotTraining": bool(request.get("EnableManagedSpotTraining", False)),
    }
    description.update({key: request[key] for key in _DESCRIBED if key in request})
    profiler = request.get("ProfilerConfig")
    enabled = bool(profiler) and not (profiler or {}).get("DisableProfiler", False)
    description["ProfilingStatus"] = "Enabled" if enabled else "Disabled"
    for source, target in (
        ("DebugRuleConfigurations", "DebugRuleEvaluationStatuses"),
        ("ProfilerRuleConfigurations", "ProfilerRuleEvaluationStatuses"),
    ):
        if request.get(source):
            description[target] = [
                {
                    "RuleConfigurationName": rule["RuleConfigurationName"],
                    "RuleEvaluationJobArn": (
                        f"arn:aws:sagemaker:{region}:{account}:processing-job/"
                        f"{name}-{rule['RuleConfigurationName']}".lower()
                    ),
                    "RuleEvaluationStatus": "InProgress",
                    "LastModifiedTime": now,
                }
                for rule in request[source]
            ]
    return description


def _print(line: str) -> None:
    print(f"smhf_native: {line}", flush=True)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the supervisor in the background, so that it leaves no zombie in this process."""
    threading.Thread(target=process.wait, name="smhf-reaper", daemon=True).start()


def start(
    request: dict[str, Any],
    *,
    region: str = "us-west-2",
    account: str = "000000000000",
    say: Callable[[str], None] = _print,
) -> JobRecord:
    """Check the request, write the job's record and start its supervisor; return the record.

    Parameters
    ----------
    request : dict
        CreateTrainingJob payload.
    say : callable
        Gets each sentence that the user should see before the job starts.

    Raises
    ------
    ResourceInUseError
        The name is taken.
    PreflightError, ObjectNotFoundError, ValueError
        Something is missing; nothing was started or written.
    """
    name = request["TrainingJobName"]
    folder = jobs_root() / name
    if folder.exists():
        raise ResourceInUseError(f"a training job named {name!r} exists already in {jobs_root()}")
    preflight.check(request, say)
    jobs_root().mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ResourceInUseError(f"a training job named {name!r} exists already in {jobs_root()}") from None
    now = time.time()
    write_json(folder / "describe.json", first_description(request, region=region, account=account, now=now))
    write_json(folder / "request.json", request, mode=0o600)

    environment = dict(os.environ)
    environment["SMHF_HOME"] = str(home())
    python_path(environment)
    with open(folder / "supervisor.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "smhf_native.jobs.supervisor", name],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    write_json(folder / "supervisor.json", {"pid": process.pid, "identity": processes.identity(process.pid)})
    _reap(process)
    return JobRecord.load(name)


def stop(record: JobRecord) -> None:
    """Ask a job to stop and return at once; a job that has ended is left alone."""
    if record.status in TERMINAL:
        return
    # The supervisor looks for this file ten times a second; a signal could meet it before it is ready.
    write_json(record.folder / "stop.json", {"requested": time.time()})
