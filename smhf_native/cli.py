"""The ``smhf`` command: the Python API from a terminal.

Every command is a thin call; errors print one sentence and exit 1 (``SMHF_DEBUG=1`` shows where).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _pairs(items: Sequence[str], what: str) -> dict[str, str]:
    """``NAME=VALUE`` arguments as a dict."""
    result = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValueError(f"{what} {item!r}: expected NAME=VALUE")
        result[name] = value
    return result


def _literal(text: str) -> Any:
    """A hyperparameter value: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _run(args: argparse.Namespace) -> int:
    from smhf_native import runner

    return runner.run(args.path, cwd=args.cwd, output=args.output, timeout=args.timeout)


def _train(args: argparse.Namespace) -> int:
    from smhf_native.huggingface.estimator import HuggingFace
    from smhf_native.session import Session

    session = Session()
    bucket = session.default_bucket()
    script = Path(args.script)
    estimator = HuggingFace(
        entry_point=script.name,
        source_dir=args.source_dir or str(script.parent),
        role="local",
        instance_type=args.instance_type,
        instance_count=1,
        transformers_version="4.6",
        pytorch_version="1.7",
        py_version="py36",
        base_job_name=args.job_name,
        hyperparameters={k: _literal(v) for k, v in _pairs(args.hyperparameter, "hyperparameter").items()},
        sagemaker_session=session,
    )
    inputs = {}
    for channel, path in _pairs(args.channel, "channel").items():
        if path.startswith("s3://"):
            inputs[channel] = path
        elif Path(path).exists():
            inputs[channel] = session.upload_data(path, bucket=bucket, key_prefix=f"cli/{channel}")
        else:
            raise FileNotFoundError(f"channel {channel}: {path} does not exist")
    estimator.fit(inputs, wait=True)
    print(f"model: {estimator.model_data}")
    return 0


def _serve(args: argparse.Namespace) -> int:
    from smhf_native.server import serve

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serve(args.model, port=args.port, host=args.host, name=args.name, precision=args.precision)
    print(f"serving {args.model} at {server.url} (Ctrl-C stops)", flush=True)
    while server.running and not stop.wait(0.2):  # it may be stopped by name from outside
        pass
    server.stop()
    return 0


def _predict(args: argparse.Namespace) -> int:
    import pandas as pd

    from smhf_native.pipelines import pipeline

    table = pd.read_json(args.input, lines=True) if args.input.endswith("l") else pd.read_csv(args.input)
    if args.text not in table.columns:
        raise KeyError(f"column {args.text!r} not found in {args.input}; it has {list(table.columns)}")
    if args.endpoint:
        from smhf_native.invoker import Invoker

        result = Invoker(args.endpoint).predict(table[args.text])
    else:
        classifier = pipeline("text-classification", model=args.model, precision=args.precision)
        if classifier.precision_report is not None:
            print(f"precision {classifier.precision_report['reason']}", file=sys.stderr)
        result = classifier.predict(table[args.text])
    joined = table.join(result.add_prefix("predicted_"))
    if args.output:
        joined.to_csv(args.output, index=False)
        print(f"{len(joined)} rows: {args.output}")
    else:
        joined.to_csv(sys.stdout, index=False)
    return 0


def _report(args: argparse.Namespace) -> int:
    from smhf_native.jobs.records import JobRecord
    from smhf_native.profiler.report import job_report

    Path(args.output).write_text(job_report(JobRecord.load(args.job)), encoding="utf-8")
    print(args.output)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from smhf_native.configuration import config, format_config

    value = config()
    print(json.dumps(value, indent=1, default=str) if args.json else format_config(value))
    return 0 if all(room["available"] for room in value["rooms"].values()) else 1


def _kernel(args: argparse.Namespace) -> int:
    from smhf_native import kernel

    folder = Path(os.environ.get("JUPYTER_DATA_DIR", Path.home() / ".local/share/jupyter")) / "kernels"
    if args.prefix:
        folder = Path(args.prefix) / "share/jupyter/kernels"
    target = folder / kernel.KERNEL_NAME
    if args.action == "install":
        print(kernel.write_spec(target))
    else:
        (target / "kernel.json").unlink(missing_ok=True)
        if target.is_dir():
            target.rmdir()
        print(f"removed {target}")
    return 0


def _jobs(args: argparse.Namespace) -> int:
    from smhf_native.jobs.records import JobRecord, job_names
    from smhf_native.session import Session

    if args.action == "list":
        for name in job_names():
            description = JobRecord.load(name).describe()
            print(f"{description['TrainingJobStatus']:<11} {name}")
        return 0
    if not args.name:
        raise ValueError(f"smhf jobs {args.action}: which job? (smhf jobs lists them)")
    if args.action == "show":
        print(json.dumps(JobRecord.load(args.name).describe(), indent=1, default=str))
    elif args.action == "logs":
        for _, line in JobRecord.load(args.name).log_lines():
            print(line)
    else:
        Session().stop_training_job(args.name)
    return 0


def _endpoints(args: argparse.Namespace) -> int:
    from smhf_native import endpoints

    if args.action == "list":
        for entry in endpoints.list_endpoints():
            print(f"{entry.name:<40} {entry.invocations_url}")
        return 0
    if not args.name:
        raise ValueError("smhf endpoints stop: which endpoint? (smhf endpoints lists them)")
    endpoints.stop_endpoint(args.name)
    return 0


def _clean(args: argparse.Namespace) -> int:
    import shutil

    from smhf_native.jobs.records import JobRecord, home, job_names

    running = [n for n in job_names() if JobRecord.load(n).status == "InProgress"] if args.jobs else []
    if running:
        raise RuntimeError(f"still running: {', '.join(running)}; stop them first (smhf jobs stop NAME)")
    folders = [home() / part for part in ("jobs", "store") if getattr(args, part)]
    if not folders:
        raise ValueError("smhf clean: say what to remove: --jobs, --store")
    for folder in folders:
        if not args.yes:
            print(f"would remove {folder} (add --yes)")
        elif folder.exists():
            shutil.rmtree(folder)
            print(f"removed {folder}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from smhf_native import convert

    print(convert.convert_folder(args.source, args.output) / "model.safetensors")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smhf", description="The notebook of 2021 on one machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, work: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(work=work)
        return sub

    run = add("run", _run, "execute a notebook or a Markdown page, unchanged, in a real kernel")
    run.add_argument("path", help="NOTEBOOK.ipynb or PAGE.md")
    run.add_argument("--cwd", help="folder that the cells run in (default: the notebook's)")
    run.add_argument("--output", help="write the executed notebook here")
    run.add_argument("--timeout", type=float, help="seconds for one cell (default: no bound)")

    train = add("train", _train, "run a training script as a local job")
    train.add_argument("script", help="train.py")
    train.add_argument("--source-dir", help="folder packed with it (default: the script's)")
    train.add_argument("--channel", action="append", default=[], metavar="NAME=PATH")
    train.add_argument("--hyperparameter", "-p", action="append", default=[], metavar="NAME=VALUE")
    train.add_argument("--job-name", help="base of the job's name")
    train.add_argument("--instance-type", default="ml.m5.xlarge", help=argparse.SUPPRESS)

    serve = add("serve", _serve, "serve a model folder or model.tar.gz")
    serve.add_argument("model")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--name", help="endpoint name (default: none)")
    precision = "fp32, bf16, int8 or auto (default: SMHF_PRECISION, else fp32)"
    serve.add_argument("--precision", help=precision)

    predict = add("predict", _predict, "classify a CSV or JSON-lines file")
    predict.add_argument("input")
    where = predict.add_mutually_exclusive_group(required=True)
    where.add_argument("--model", help="model folder")
    where.add_argument("--endpoint", help="endpoint name or URL")
    predict.add_argument("--text", default="text", help="name of the text column")
    predict.add_argument("--output", help="CSV to write (default: standard output)")
    predict.add_argument("--precision", help=precision + "; only with --model")

    report = add("report", _report, "write the profiler report of a job")
    report.add_argument("job")
    report.add_argument("--output", default="profiler-report.html", help="default: %(default)s")

    doctor = add("doctor", _doctor, "what is built, what is missing and why")
    doctor.add_argument("--json", action="store_true")

    kernel = add("kernel", _kernel, "install or remove the Jupyter kernel")
    kernel.add_argument("action", choices=["install", "remove"])
    kernel.add_argument("--prefix", help="environment to install into (default: the user's folder)")

    jobs = add("jobs", _jobs, "list, show, stop jobs; print their logs")
    jobs.add_argument("action", nargs="?", default="list", choices=["list", "show", "logs", "stop"])
    jobs.add_argument("name", nargs="?")

    endpoints = add("endpoints", _endpoints, "list or stop local endpoints")
    endpoints.add_argument("action", nargs="?", default="list", choices=["list", "stop"])
    endpoints.add_argument("name", nargs="?")

    clean = add("clean", _clean, "remove local jobs or the local store")
    clean.add_argument("--jobs", action="store_true")
    clean.add_argument("--store", action="store_true")
    clean.add_argument("--yes", action="store_true", help="do it, do not only say it")

    convert = add("convert", _convert, "pytorch_model.bin to model.safetensors, without unpickling")
    convert.add_argument("source", help="model folder that holds pytorch_model.bin")
    convert.add_argument("output", nargs="?", help="folder to create (default: write into the source)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.work(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("SMHF_DEBUG"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"smhf {args.command}: {text}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
