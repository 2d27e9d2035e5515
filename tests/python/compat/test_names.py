"""The mirrored names, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )


def test_imports_of_the_page(tmp_path: Path) -> None:
    code = """
import smhf_native.compat
import sagemaker
from sagemaker import TrainingJobAnalytics
from sagemaker.debugger import Rule, ProfilerRule, rule_configs
from sagemaker.debugger import ProfilerConfig, FrameworkProfile, DebuggerHookConfig
from sagemaker.huggingface import HuggingFace, HuggingFaceModel, HuggingFacePredictor
from smdebug.profiler.analysis.notebook_utils.training_job import TrainingJob
from smdebug.profiler.analysis.notebook_utils.timeline_charts import TimelineCharts
from transformers.trainer_utils import get_last_checkpoint
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, AutoTokenizer
from datasets import load_dataset
import transformers, smhf_native.transformers
assert transformers is smhf_native.transformers
assert Trainer.__module__.startswith("smhf_native.")
print("ok")
"""
    result = python(code, tmp_path)
    assert result.stdout == "ok\n", result.stderr


def test_ours_win_and_say_so_once(tmp_path: Path) -> None:
    real = tmp_path / "transformers"
    real.mkdir()
    (real / "__init__.py").write_text("REAL = True\n")
    code = """
import sys
sys.path.insert(0, ".")
import smhf_native.compat
smhf_native.compat.activate()
import transformers
assert not hasattr(transformers, "REAL")
"""
    result = python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("transformers") >= 1
    assert result.stderr.count("installed here") == 1


def test_unknown_submodule_names_the_mirror(tmp_path: Path) -> None:
    code = """
import smhf_native.compat
try:
    import sagemaker.tensorflow
except ModuleNotFoundError as error:
    print(error)
"""
    result = python(code, tmp_path)
    assert "sagemaker.tensorflow" in result.stdout and "mirrors sagemaker" in result.stdout, result.stderr


def test_nothing_changes_without_compat(tmp_path: Path) -> None:
    code = """
import smhf_native, importlib.util, os
before = dict(os.environ)
import smhf_native.compat
assert dict(os.environ) == before
print("ok")
"""
    assert python(code, tmp_path).stdout == "ok\n"


def test_import_is_quiet_and_light(tmp_path: Path) -> None:
    code = """
import sys, time, numpy
start = time.perf_counter()
import smhf_native
took = time.perf_counter() - start
heavy = {"pandas", "boto3", "sklearn", "torch", "IPython"} & set(sys.modules)
print(took < 0.025, sorted(heavy))
"""
    results = [python(code, tmp_path) for _ in range(3)]
    assert any(r.stdout == "True []\n" for r in results), [r.stdout + r.stderr for r in results]
    assert all(r.stderr == "" for r in results)
