"""The main job of ``make run``: execute notebooks/finetune_deploy.ipynb and gather its results in out/.

    python tools/run_demo.py [--output out]

Local jobs and the store go to out/home, so nothing outside the folder is touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("profiler-report.html", "utilisation.svg", "predictions.csv")


def printed(notebook: Any) -> str:
    """Everything that the notebook's cells printed, in order."""
    parts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("output_type") == "stream":
                parts.append(output["text"])
    return "".join(parts)


def main() -> int:
    """Run the notebook; 0 when every result is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=str(ROOT / "out"))
    out = Path(parser.parse_args().output).resolve()
    work = out / "work"
    for stale in (work, out / "home"):
        if stale.exists():
            shutil.rmtree(stale)
    work.mkdir(parents=True)
    shutil.copytree(ROOT / "notebooks" / "src", work / "src")
    os.environ["SMHF_HOME"] = str(out / "home")
    # The package of this checkout, also for the kernel and the job, which start in other folders.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(ROOT))
    from smhf_native import runner

    executed = out / "finetune_deploy.ipynb"
    start = time.perf_counter()
    status = runner.run(ROOT / "notebooks" / "finetune_deploy.ipynb", cwd=work, output=executed)
    if status != 0:
        return status
    print(printed(runner.load(executed)))
    missing = [name for name in RESULTS if not (work / name).is_file()]
    if missing:
        print(f"not made: {', '.join(missing)}", file=sys.stderr)
        return 1
    for name in RESULTS:
        shutil.copy(work / name, out / name)
    print(f"main job: {time.perf_counter() - start:.1f} s; results in {out}:")
    for name in ("finetune_deploy.ipynb", *RESULTS):
        print(f"  {name:<22} {(out / name).stat().st_size:>9,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
