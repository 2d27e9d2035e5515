"""First code of a job's process: ``python -P -m smhf_native.jobs.bootstrap train.py ARGS…``.

Order matters. The mapping of ``/opt/ml`` comes first, so that modules imported later only ever see
the wrapped functions; then the names that this project mirrors are activated; then the script runs as
``__main__`` with the argument list, working folder and ``sys.path`` that ``python train.py`` gives it.
``-m PACKAGE`` instead of a file runs a package; ``--shell LINE`` replaces the process by ``/bin/sh``.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its supervisor dies (Linux)."""
    parent = os.environ.pop("SMHF_SUPERVISOR_PID", "")
    if not parent:
        return
    try:
        import ctypes
        import signal

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != int(parent):
        os._exit(143)  # the supervisor died before the request was in place


def _activate_mirrors() -> None:
    """Let ``sagemaker``, ``smdebug``, ``transformers`` and ``datasets`` resolve to the mirrors."""
    try:
        from smhf_native import compat
    except ImportError as error:
        print(f"smhf_native: the mirrored names are not active: {error}", flush=True)
        return
    compat.activate()


def main(argv: list[str]) -> None:
    """Prepare the process and run the script; returns normally, or raises what the script raises."""
    if not argv:
        raise SystemExit("usage: python -m smhf_native.jobs.bootstrap SCRIPT.py [ARG…] | -m PACKAGE [ARG…]")
    _die_with_parent()
    if argv[0] == "--shell":
        os.execv("/bin/sh", ["/bin/sh", "-c", f"exec {argv[1]}"])
    base = os.environ.get("SAGEMAKER_BASE_DIR")
    if base:
        from smhf_native.jobs import opt_ml

        opt_ml.install(base)
    _activate_mirrors()
    code = os.getcwd()
    if argv[0] == "-m":
        import runpy

        sys.path.insert(0, code)
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    script = argv[0]
    sys.argv = list(argv)
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    import types

    with open(script, "rb") as stream:
        source = stream.read()
    module = types.ModuleType("__main__")
    module.__dict__.update({"__file__": script, "__builtins__": __builtins__, "__cached__": None})
    sys.modules["__main__"] = module
    exec(compile(source, script, "exec", dont_inherit=True), module.__dict__)


def _run() -> None:
    try:
        main(sys.argv[1:])
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        # Show the script's own frames, as `python train.py` would: ours stand above them.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.stdout.flush()
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.stderr.flush()
        sys.exit(1)


if __name__ == "__main__":
    _run()
