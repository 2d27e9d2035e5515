"""requirements.txt: what is skipped, present, missing, and refused."""

from __future__ import annotations

import sys

import pytest

from smhf_native.exceptions import PreflightError
from smhf_native.jobs import requirements


def write(tmp_path, text, name="requirements.txt"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_lines_are_sorted_by_what_becomes_of_them(tmp_path):
    write(tmp_path, "definitely-not-here-2==1.0\n", "more.txt")
    plan = requirements.plan(
        write(
            tmp_path,
            "# comment\n"
            "transformers==4.6.1  # pinned\n"
            "Torch>=1.7\n"
            "sagemaker ; python_version >= '3'\n"
            "numpy\n"
            "pytest[testing]>=1\n"
            "definitely_not_here[extra]>=2,<3\n"
            "never-wanted ; python_version < '3'\n"
            "-r more.txt\n"
            "--extra-index-url https://host.invalid/simple\n"
            "long-name-\\\n"
            "continued\n"
            "\n",
        )
    )
    assert plan.skipped == ["transformers", "Torch", "sagemaker"]
    assert plan.present == ["numpy", "pytest"]
    assert plan.missing == [
        "definitely_not_here[extra]>=2,<3",
        "definitely-not-here-2==1.0",
        "long-name-continued",
    ]
    assert plan.options == ["--extra-index-url https://host.invalid/simple"]
    lines = plan.lines()
    assert len(lines) == 3 and "provided by smhf_native" in lines[0] and "already importable" in lines[1]


def test_bad_lines_are_named(tmp_path):
    with pytest.raises(PreflightError, match="line 2"):
        requirements.plan(write(tmp_path, "numpy\nnot a requirement\n"))
    with pytest.raises(PreflightError, match=r"line 1.*absent\.txt"):
        requirements.plan(write(tmp_path, "-r absent.txt\n"))


def test_the_job_is_refused_with_the_list(tmp_path, estimator, monkeypatch):
    job = estimator("print(1)")
    write(tmp_path / "src", "numpy\nnot-on-any-index-1\nnot-on-any-index-2>=3\n")
    with pytest.raises(PreflightError, match=r"not-on-any-index-1, not-on-any-index-2>=3.*SMHF_ALLOW_PIP=1"):
        job.fit()
    assert job.latest_training_job is None


def test_mirrored_names_are_skipped_with_a_line(tmp_path, estimator, capfd):
    job = estimator("print('ran')")
    write(tmp_path / "src", "transformers==4.6\ntorch\nnumpy\n")
    job.fit()
    output = capfd.readouterr().out
    assert "transformers, torch: provided by smhf_native; not installed" in output
    assert "numpy: already importable" in output and "ran" in output


def test_allowed_pip_installs_into_the_job_folder_only(tmp_path, estimator, monkeypatch, capfd):
    """A package from a local folder, without any index."""
    package = tmp_path / "zzpack"
    package.mkdir()
    (package / "zzonlyhere.py").write_text("value = 42\n")
    (package / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'zzonlyhere'\nversion = '1.0'\n"
    )
    # A build backend of thirty lines: no network, no setuptools.
    (package / "backend.py").write_text(
        "import zipfile\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        "    name = 'zzonlyhere-1.0-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(f'{folder}/{name}', 'w') as w:\n"
        "        w.write('zzonlyhere.py')\n"
        "        info = 'zzonlyhere-1.0.dist-info'\n"
        "        w.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\\nName: zzonlyhere\\nVersion: 1.0\\n')\n"
        "        w.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n')\n"
        "        w.writestr(f'{info}/RECORD', f'zzonlyhere.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n"
        "{info}/RECORD,,\\n')\n"
        "    return name\n"
    )
    monkeypatch.setenv("SMHF_ALLOW_PIP", "1")
    job = estimator("import zzonlyhere; print('value', zzonlyhere.value, zzonlyhere.__file__)")
    write(tmp_path / "src", f"--no-index\nzzonlyhere @ file://{package}\n")
    job.fit()
    output = capfd.readouterr().out
    assert "value 42" in output and f"/jobs/{job.latest_training_job.name}/packages/" in output
    assert "zzonlyhere" not in sys.modules


def test_a_failing_pip_fails_the_job(tmp_path, estimator, monkeypatch):
    from smhf_native.exceptions import UnexpectedStatusException

    monkeypatch.setenv("SMHF_ALLOW_PIP", "1")
    job = estimator("print(1)")
    write(tmp_path / "src", f"--no-index\nzznothere @ file://{tmp_path}/no-such-folder\n")
    with pytest.raises(UnexpectedStatusException, match="InstallRequirementsError"):
        job.fit(logs="None")
