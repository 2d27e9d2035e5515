"""A Jupyter kernel in which the notebook of 2021 finds its names.

``python -m smhf_native.kernel -f CONNECTION_FILE`` starts it; :func:`write_spec` describes it to
Jupyter (``smhf kernel install``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from smhf_native.errors import MissingExtraError

__all__ = ["KERNEL_NAME", "main", "write_spec"]

KERNEL_NAME = "smhf"


def write_spec(folder: Path) -> Path:
    """Write ``folder/kernel.json`` for this interpreter; the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [sys.executable, "-m", "smhf_native.kernel", "-f", "{connection_file}"],
        "display_name": "Python 3 (smhf_native)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    path = folder / "kernel.json"
    path.write_text(json.dumps(spec, indent=1) + "\n")
    return path


def load_ipython_extension(shell: Any) -> None:
    """Activate the mirrors and the shell hooks once the kernel's shell exists."""
    from smhf_native import compat

    compat.activate()


def main() -> None:
    """Start the kernel."""
    try:
        from ipykernel.kernelapp import IPKernelApp
    except ImportError as error:
        raise MissingExtraError.of("ipykernel", "notebook", "the Jupyter kernel") from error
    IPKernelApp.launch_instance(extensions=["smhf_native.kernel"])


if __name__ == "__main__":
    main()
