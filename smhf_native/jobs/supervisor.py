"""The process that owns one local training job: ``python -m smhf_native.jobs.supervisor NAME``.

It prepares the job's tree, runs the script, writes log and metrics, samples the machine, keeps the
checkpoints in the store, packs the artifacts, evaluates the rules, and records each state in
``describe.json``. It lives in a session of its own, so it outlasts the notebook that started it.
SIGTERM asks it to stop the job: the script gets SIGTERM, 120 seconds, then SIGKILL.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from smhf_native.errors import SmhfError
from smhf_native.jobs import archives, environment, launch, processes, requirements
from smhf_native.jobs.metrics import MetricScanner
from smhf_native.jobs.opt_ml import PREFIX
from smhf_native.jobs.records import JobRecord, write_json
from smhf_native.jobs.sync import FolderSync, prefill
from smhf_native.store import Store, join_uri, parse_uri, relative_key

__all__ = ["Supervisor", "main"]

_MAX_LINE = 1 << 20
_DESCRIBE_SECONDS = 2.0


class JobFailure(Exception):
    """The job ends as Failed; the text is its failure reason."""


def _stop_seconds() -> float:
    """Grace between SIGTERM and SIGKILL: 120 s as in SageMaker; ``SMHF_STOP_SECONDS`` overrides."""
    return float(os.environ.get("SMHF_STOP_SECONDS", "120"))


class _Masker:
    """Replaces secret values that stand in variables of the environment by ``***``."""

    def __init__(self, variables: dict[str, str]) -> None:
        values = {
            value
            for name, value in variables.items()
            if environment.is_secret_name(name) and len(value) >= 12
        }
        self._regex = (
            re.compile("|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)))
            if values
            else None
        )

    def __call__(self, line: str) -> str:
        return line if self._regex is None else self._regex.sub("***", line)


class Supervisor:
    """Runs one job from its record to its end."""

    def __init__(self, name: str) -> None:
        self.record = JobRecord.load(name)
        self.request = self.record.request()
        self.description = self.record.describe_raw()
        self.ml = self.record.ml
        self.store = Store()
        self.stop_requested = False
        self.stop_reason: str | None = None
        self._final: dict[str, dict[str, Any]] = {}
        self._final_written = 0.0
        self._mask = _Masker({**os.environ, **self.request.get("Environment", {})})
        self._log = open(self.record.log_path, "ab", buffering=0)
        self._metrics = open(self.record.metrics_path, "ab", buffering=0)
        self._scanner = MetricScanner(
            self.request.get("AlgorithmSpecification", {}).get("MetricDefinitions"), self.say
        )
        self._tail: list[str] = []
        self._lost_lines = 0
        self._reserve = self.record.folder / ".reserve"
        self._reserve.write_bytes(b"\0" * (256 << 10))

    # Record ----------------------------------------------------------------------------------

    def write(self) -> None:
        """Replace describe.json; on a full disk the reserve makes room for this last word."""
        self.description["LastModifiedTime"] = time.time()
        path = self.record.folder / "describe.json"
        try:
            write_json(path, self.description)
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            try:
                write_json(path, self.description)
            except OSError:
                # Readers keep the last state that could be written.
                print(f"describe.json could not be written: {error}", file=sys.stderr, flush=True)

    def enter(self, secondary: str, message: str, status: str | None = None) -> None:
        """Record the change into another secondary status."""
        now = time.time()
        transitions = self.description.setdefault("SecondaryStatusTransitions", [])
        if transitions:
            transitions[-1].setdefault("EndTime", now)
        transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message[:1024]})
        self.description["SecondaryStatus"] = secondary
        if status is not None:
            self.description["TrainingJobStatus"] = status
            if status in ("Completed", "Failed", "Stopped"):
                transitions[-1]["EndTime"] = now
        self.write()

    def say(self, line: str) -> None:
        """Write a line of our own to the job's log."""
        self._write_line(f"smhf_native: {line}")

    def _write_line(self, line: str) -> None:
        text = self._mask(line)
        data = f"{time.time():.6f} {text}\n".encode("utf-8", "replace")
        if self._lost_lines:
            note = f"smhf_native: {self._lost_lines} lines of output were lost: the disk was full"
            data = f"{time.time():.6f} {note}\n".encode() + data
        try:
            self._log.write(data)
            self._lost_lines = 0
        except OSError:
            self._lost_lines += 1  # a full disk costs output, not the job

    # Life ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the job to its end; every failure ends in the record."""
        try:
            code, command = self._train()
            self._finish(code, command)
        except JobFailure as failure:
            self._fail(str(failure))
        except BaseException as error:
            traceback.print_exc()
            self._fail(f"InternalServerError: {type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Close the job's files and give the reserve back."""
        self._reserve.unlink(missing_ok=True)
        self._log.close()
        self._metrics.close()

    def _check_stop(self) -> bool:
        if not self.stop_requested and (self.record.folder / "stop.json").exists():
            self.stop_requested = True
        return self.stop_requested

    def _train(self) -> tuple[int, list[str]]:
        self.description["TrainingStartTime"] = time.time()
        self.enter("Downloading", "Copying the input data into the job's folder")
        environment.build_tree(self.ml, self.request)
        self._copy_inputs()
        self._unpack_source()
        self._install_requirements()
        if self.stop_reason is not None:
            return 0, []
        checkpoints = self._prefill()
        region = self.description["TrainingJobArn"].split(":")[3]
        variables, arguments = environment.build_environment(
            self.ml, self.request, region=region, arn=self.description["TrainingJobArn"]
        )
        command, shown = self._command(variables["SM_USER_ENTRY_POINT"], arguments)
        self.enter("Training", "The script runs on this machine")
        self._announce(variables, shown)
        sampler = self._start_sampler()
        syncs = [item for item in (checkpoints, self._profiler_sync()) if item is not None]
        for sync in syncs:
            sync.start()
        try:
            code = self._run_script(command, variables)
        finally:
            self._stop_sampler(sampler)
            for sync in syncs:
                sync.stop()
                for error in sync.errors:
                    self.say(f"could not copy to {sync.target}: {error}")
            self._mark_profiler_end()
        return code, shown

    # Before the script -----------------------------------------------------------------------

    def _copy_inputs(self) -> None:
        for channel in self.request.get("InputDataConfig", []):
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            folder = self.ml / "input" / "data" / channel["ChannelName"]
            folder.mkdir(parents=True, exist_ok=True)
            if uri.startswith("file://"):
                source = Path(uri.removeprefix("file://"))
                files = [source] if source.is_file() else [f for f in source.rglob("*") if f.is_file()]
                for file in files:
                    target = folder / (file.name if file == source else file.relative_to(source))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
                continue
            found = self.store.list(uri)
            if not found:
                raise JobFailure(f"ClientError: {self.store.missing(uri)}")
            prefix = parse_uri(uri)[1]
            for item in found:
                key = parse_uri(item)[1]
                self.store.download(item, folder.joinpath(*relative_key(key, prefix).split("/")))

    def _unpack_source(self) -> None:
        parameters = environment.decode_hyperparameters(self.request.get("HyperParameters", {}))
        archive = self.store.path(str(parameters["sagemaker_submit_directory"]))
        if not archive.is_file():
            raise JobFailure(
                f"ClientError: {self.store.missing(str(parameters['sagemaker_submit_directory']))}"
            )
        archives.extract(archive, self.ml / "code")

    def _install_requirements(self) -> None:
        path = self.ml / "code" / "requirements.txt"
        if not path.is_file():
            return
        found = requirements.plan(path)
        for line in found.lines():
            self.say(line)
        if not found.missing:
            return
        if not requirements.pip_allowed():
            raise JobFailure(f"ClientError: requirements.txt needs {', '.join(found.missing)}")
        command = requirements.pip_command(found, self.record.folder / "packages")
        code = self._stream(command, self.ml / "code", dict(os.environ))
        if code != 0 and self.stop_reason is None:
            raise JobFailure(
                f'InstallRequirementsError:\nExitCode {code}\nErrorMessage "{self._error_message()}"\n'
                f'Command "{shlex.join(command)}"'
            )

    def _prefill(self) -> FolderSync | None:
        config = self.request.get("CheckpointConfig")
        if not config:
            return None
        local = self._in_tree(config.get("LocalPath", f"{PREFIX}/checkpoints"))
        local.mkdir(parents=True, exist_ok=True)
        uri = config["S3Uri"]
        count = prefill(self.store.path(uri), local)
        if count:
            self.say(f"{uri} already holds {count} checkpoint files: copied, the script can resume from them")
        return FolderSync(local, self.store.path(uri), interval=self._sync_seconds())

    @staticmethod
    def _sync_seconds() -> float:
        return float(os.environ.get("SMHF_SYNC_SECONDS", "5"))

    def _in_tree(self, path: str) -> Path:
        return self.ml / os.path.relpath(path, PREFIX)

    def _command(self, program: str, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Return the real command, and the one that a container would show."""
        code = self.ml / "code"
        bootstrap = [sys.executable, "-P", "-m", "smhf_native.jobs.bootstrap"]
        if (code / "setup.py").is_file():
            module = program.removesuffix(".py")
            return [*bootstrap, "-m", module, *arguments], [sys.executable, "-m", module, *arguments]
        if program.endswith(".py"):
            return [*bootstrap, program, *arguments], [sys.executable, program, *arguments]
        (code / program).chmod(0o755)
        line = shlex.join([f"./{program}", *arguments])
        return [*bootstrap, "--shell", line], ["/bin/sh", "-c", line]

    def _announce(self, variables: dict[str, str], shown: list[str]) -> None:
        summary = json.loads(variables["SM_TRAINING_ENV"])
        summary["hyperparameters"] = environment.redact(summary["hyperparameters"])
        self._write_line("Training Env:")
        for line in json.dumps(summary, indent=4, sort_keys=True, ensure_ascii=False).split("\n"):
            self._write_line(line)
        self._write_line("Invoking script with the following command:")
        self._write_line(shlex.join(self._redacted_command(shown)))

    def _redacted_command(self, shown: list[str]) -> list[str]:
        hidden = list(shown)
        for index, part in enumerate(shown[:-1]):
            if part.startswith("-") and environment.is_secret_name(part):
                hidden[index + 1] = "***"
        return hidden

    def _start_sampler(self) -> Any:
        config = self.request.get("ProfilerConfig")
        if not config or config.get("DisableProfiler"):
            return None
        try:
            trace = importlib.import_module("smhf_native.trace")
            folder = self.record.profiler_folder
            folder.mkdir(parents=True, exist_ok=True)
            interval = int(config.get("ProfilingIntervalInMilliseconds") or 500)
            sampler = trace.Sampler(str(folder), interval_ms=interval, node_id="algo-1")
            sampler.start()
        except (ImportError, AttributeError, OSError, SmhfError) as error:
            self.say(f"no system metrics: the sampler did not start: {error}")
            return None
        return sampler

    def _stop_sampler(self, sampler: Any) -> None:
        if sampler is None:
            return
        try:
            sampler.stop()
        except (OSError, SmhfError) as error:
            self.say(f"the system metrics may be incomplete: {error}")

    def _profiler_path(self) -> str:
        parameters = (self.request.get("ProfilerConfig") or {}).get("ProfilingParameters") or {}
        return str(parameters.get("LocalPath") or f"{PREFIX}/output/profiler")

    def _profiler_sync(self) -> FolderSync | None:
        if not self.request.get("ProfilerConfig"):
            return None
        local = self._in_tree(self._profiler_path())
        local.mkdir(parents=True, exist_ok=True)
        return FolderSync(local, self.record.profiler_folder, interval=self._sync_seconds())

    def _mark_profiler_end(self) -> None:
        """Leave the empty files that tell readers of the profiler's data that no more will come."""
        if not self.request.get("ProfilerConfig"):
            return
        for name in ("system", "framework"):
            folder = self.record.profiler_folder / name
            if name == "system" or folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "training_job_end.ts").touch()

    # The script ------------------------------------------------------------------------------

    def _run_script(self, command: list[str], variables: dict[str, str]) -> int:
        child = dict(os.environ)
        if child.get("MPLBACKEND", "").startswith("module:"):
            del child["MPLBACKEND"]  # a notebook's backend draws nowhere in a script
        child.update(variables)
        child["SMHF_SCALARS_PATH"] = str(self.record.scalars_path)
        child["SMHF_PROFILER_FOLDER"] = str(self._in_tree(self._profiler_path()))
        child["SMHF_SUPERVISOR_PID"] = str(os.getpid())
        launch.python_path(child)
        packages = self.record.folder / "packages"
        if packages.is_dir():
            child["PYTHONPATH"] = os.pathsep.join(filter(None, [child.get("PYTHONPATH"), str(packages)]))
        return self._stream(command, self.ml / "code", child, limits=True)

    def _stream(
        self, command: list[str], cwd: Path, variables: dict[str, str], *, limits: bool = False
    ) -> int:
        """Run ``command``, copy its output to the log line by line, obey stop and time limits."""
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._pump(process, limits)
        finally:
            # Whatever the script started ends with it, as in a container.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            process.wait()
        self._flush_final(force=True)
        return process.returncode

    def _pump(self, process: subprocess.Popen[bytes], limits: bool) -> None:
        """Copy the output until the process has ended."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        pending = b""
        kill_at: float | None = None
        drain_until: float | None = None
        with process.stdout, selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=0.1):
                    data = os.read(descriptor, 1 << 16)
                    if not data:
                        break
                    pending = self._lines(pending + data)
                self._flush_final()
                now = time.time()
                if process.poll() is None:
                    kill_at = self._enforce(process, now, kill_at, limits)
                elif drain_until is None:
                    drain_until = now + 1.0
                elif now > drain_until:
                    break  # a child of the script still holds the pipe
        if pending:
            self._lines(pending + b"\n")
        while process.poll() is None:  # it closed its output and works on
            kill_at = self._enforce(process, time.time(), kill_at, limits)
            time.sleep(0.05)

    def _enforce(
        self, process: subprocess.Popen[bytes], now: float, kill_at: float | None, limits: bool
    ) -> float | None:
        """Send SIGTERM when the job must end, SIGKILL when the grace is over."""
        if kill_at is not None:
            if now >= kill_at:
                os.killpg(process.pid, signal.SIGKILL)
                return now + 5.0
            return kill_at
        reason = None
        if self._check_stop():
            reason = "Stopped"
        elif limits:
            stopping = self.request.get("StoppingCondition", {})
            if now - self.description["TrainingStartTime"] > stopping.get("MaxRuntimeInSeconds", 86400):
                reason = "MaxRuntimeExceeded"
            elif now - self.description["CreationTime"] > stopping.get("MaxWaitTimeInSeconds", float("inf")):
                reason = "MaxWaitTimeExceeded"
        if reason is None:
            return None
        self.stop_reason = reason
        grace = _stop_seconds()
        self.enter(
            "Stopping",
            f"Stopping the script ({reason}): SIGTERM, then SIGKILL after {grace:g} s",
            status="Stopping",
        )
        process.terminate()
        return now + grace

    def _lines(self, data: bytes) -> bytes:
        """Handle all whole lines of ``data``; return the rest."""
        *lines, rest = data.split(b"\n")
        for raw in lines:
            self._line(raw.decode("utf-8", "replace"))
        if len(rest) > _MAX_LINE:
            self._line(rest.decode("utf-8", "replace"))
            rest = b""
        return rest

    def _line(self, text: str) -> None:
        # A progress bar rewrites its line: keep what a terminal would show in the end.
        shown = text.rstrip("\r").rpartition("\r")[2]
        self._write_line(shown)
        self._tail.append(self._mask(shown))
        if len(self._tail) > 200:
            del self._tail[:100]
        for name, value in self._scanner.scan(text):
            now = time.time()
            entry = {"MetricName": name, "Value": value, "Timestamp": now}
            self._final[name] = entry
            try:
                self._metrics.write((json.dumps(entry) + "\n").encode("utf-8"))
            except OSError:
                self._lost_lines += 1

    def _flush_final(self, force: bool = False) -> None:
        now = time.time()
        current = [self._final[name] for name in self._final]
        if current == self.description.get("FinalMetricDataList"):
            return
        if force or now - self._final_written > _DESCRIBE_SECONDS:
            self._final_written = now
            self.description["FinalMetricDataList"] = [dict(entry) for entry in current][:40]
            self.write()

    # After the script ------------------------------------------------------------------------

    def _error_message(self) -> str:
        """Return the exception of the last traceback in the log, else its last line."""
        begin = next(
            (
                index
                for index in range(len(self._tail) - 1, -1, -1)
                if self._tail[index].startswith("Traceback (most recent call last)")
            ),
            None,
        )
        if begin is not None:
            for index in range(begin + 1, len(self._tail)):
                line = self._tail[index]
                if line and not line[0].isspace():
                    return "\n".join(self._tail[index : index + 10]).strip()
        return next((line.strip() for line in reversed(self._tail) if line.strip()), "")

    def _failure_text(self, code: int, shown: list[str]) -> str:
        shown_code = 128 - code if code < 0 else code
        parts = [
            "ExecuteUserScriptError:",
            f"ExitCode {shown_code}",
            f'ErrorMessage "{self._error_message()}"',
        ]
        if shown_code == 137:
            parts.append('ExtraInfo "the process was killed by SIGKILL (signal 9): probably out of memory"')
        elif code < 0:
            parts.append(f'ExtraInfo "the process was killed by {signal.Signals(-code).name}"')
        parts.append(f'Command "{shlex.join(self._redacted_command(shown))}"')
        return "\n".join(parts)

    def _finish(self, code: int, shown: list[str]) -> None:
        failed = code != 0 and self.stop_reason is None
        failure = self.ml / "output" / "failure"
        reason = None
        if failed:
            if not failure.is_file() or failure.stat().st_size == 0:
                failure.write_text(self._failure_text(code, shown), encoding="utf-8")
            reason = failure.read_text(encoding="utf-8", errors="replace")[:1024]
            self._write_line(f"Reporting training FAILURE (exit code {128 - code if code < 0 else code})")
        elif self.stop_reason is None:
            (self.ml / "output" / "success").touch()
            self._write_line("Reporting training SUCCESS")
        self.enter("Uploading", "Packing the model and the output files")
        try:
            self._upload(failed)
        except OSError as error:
            problem = f"ClientError: the artifacts could not be packed: {error}"
            reason = f"{reason}\n{problem}" if reason else problem
        now = time.time()
        self.description["TrainingEndTime"] = now
        seconds = math.ceil(now - self.description["TrainingStartTime"])
        self.description["TrainingTimeInSeconds"] = self.description["BillableTimeInSeconds"] = seconds
        self.write()
        self._evaluate_rules()
        if reason is not None:
            self._fail(reason)
        elif self.stop_reason is not None:
            self.enter(self.stop_reason, f"The training job was stopped ({self.stop_reason})", "Stopped")
        else:
            self.enter("Completed", "Training job completed", "Completed")

    def _upload(self, failed: bool) -> None:
        output = join_uri(self.record.output_uri, "output")
        model = self.ml / "model"
        has_model = any(True for _ in archives.folder_members(model))
        if self.request["OutputDataConfig"].get("CompressionType") == "NONE":
            artifact = join_uri(output, "model") + "/"
            if has_model and not failed:
                prefill(model, self.store.path(artifact))
        else:
            artifact = join_uri(output, "model.tar.gz")
            if has_model and not failed:
                members = list(archives.folder_members(model))
                archives.create(self.store.path(artifact), members, level=archives.fitting_level(members))
        if not failed:
            self.description["ModelArtifacts"] = {"S3ModelArtifacts": artifact}
            if not has_model:
                self.say("the script left nothing in SM_MODEL_DIR: there is no model artifact")
        outputs = list(archives.folder_members(self.ml / "output" / "data"))
        if (self.ml / "output" / "failure").is_file() and all(name != "failure" for name, _ in outputs):
            outputs.append(("failure", self.ml / "output" / "failure"))
        if outputs:
            archives.create(self.store.path(join_uri(output, "output.tar.gz")), outputs)

    def _evaluate_rules(self) -> None:
        keys = ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses")
        if not any(self.description.get(key) for key in keys):
            return
        try:
            rules = importlib.import_module("smhf_native.profiler.rules")
            result = rules.evaluate_job(self.record)
        except Exception as error:
            traceback.print_exc()
            self.say(f"the rules could not be evaluated: {type(error).__name__}: {error}")
            result = {}
        now = time.time()
        for key in keys:
            found = {item["RuleConfigurationName"]: item for item in result.get(key) or ()}
            for status in self.description.get(key) or ():
                verdict = found.get(status["RuleConfigurationName"])
                if verdict is None:
                    status.update(
                        RuleEvaluationStatus="Error", StatusDetails="the rule was not evaluated; see the log"
                    )
                else:
                    status["RuleEvaluationStatus"] = verdict["RuleEvaluationStatus"]
                    if verdict.get("StatusDetails"):
                        status["StatusDetails"] = str(verdict["StatusDetails"])[:1024]
                status["LastModifiedTime"] = now
        self.write()

    def _fail(self, reason: str) -> None:
        now = time.time()
        self.description["FailureReason"] = reason[:1024]
        self.description.setdefault("TrainingEndTime", now)
        begin = self.description.get("TrainingStartTime", now)
        seconds = math.ceil(self.description["TrainingEndTime"] - begin)
        self.description.setdefault("TrainingTimeInSeconds", seconds)
        self.description.setdefault("BillableTimeInSeconds", seconds)
        for key in ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses"):
            for status in self.description.get(key) or ():
                if status["RuleEvaluationStatus"] == "InProgress":
                    status.update(
                        RuleEvaluationStatus="Stopped",
                        StatusDetails="the job failed before the rule ran",
                        LastModifiedTime=now,
                    )
        self.enter("Failed", "Training job failed", "Failed")


def main(argv: list[str]) -> int:
    """Run the job named by the only argument; return the exit code."""
    if len(argv) != 1:
        print("usage: python -m smhf_native.jobs.supervisor NAME", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = Supervisor(argv[0])

    def on_term(_number: int, _frame: Any) -> None:
        supervisor.stop_requested = True

    signal.signal(signal.SIGTERM, on_term)
    write_json(
        supervisor.record.folder / "supervisor.json",
        {"pid": os.getpid(), "identity": processes.identity(os.getpid())},
    )
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
