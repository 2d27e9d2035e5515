"""Paths below /opt/ml mean the job's tree, in every function that scripts use."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from smhf_native.jobs import opt_ml


def run(base, body):
    """Run ``body`` in a fresh Python with the mapping installed; return its output lines."""
    code = f"from smhf_native.jobs import opt_ml\nopt_ml.install({str(base)!r})\n" + textwrap.dedent(body)
    root = os.path.dirname(os.path.dirname(os.path.dirname(opt_ml.__file__)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# Each case ends in an expression that is True when the call reached the job's tree.
CASES = {
    "open": "open(P('w.txt'), 'w').write('x'); ok = there('w.txt')",
    "io.open": "import io; io.open(P('w.txt'), 'w').write('x'); ok = there('w.txt')",
    "codecs.open": "import io; io.open(P('a.txt'), 'w', encoding='utf-8').close(); ok = there('a.txt')",
    "bytes path": "open(os.fsencode(P('b.txt')), 'w').close(); ok = there('b.txt')",
    "os.open": "os.close(os.open(P('o'), os.O_CREAT | os.O_WRONLY)); ok = there('o')",
    "os.mkdir": "os.mkdir(P('d')); ok = there('d')",
    "os.makedirs": "os.makedirs(P('a/b/c')); ok = there('a/b/c')",
    "os.makedirs exist_ok": "os.makedirs('/opt/ml', exist_ok=True); ok = True",
    "os.listdir": "make('l/x'); ok = os.listdir(P('l')) == ['x']",
    "os.scandir": "make('l/x'); ok = [e.name for e in os.scandir(P('l'))] == ['x']",
    "os.walk": "make('w/s/x'); ok = [t[0] for t in os.walk(P('w'))] == [P('w'), P('w/s')]",
    "os.stat": "make('s'); ok = os.stat(P('s')).st_size == 1",
    "os.lstat": "make('s'); ok = os.lstat(P('s')).st_size == 1",
    "os.path.exists": "make('s'); ok = os.path.exists(P('s')) and not os.path.exists(P('t'))",
    "os.path.isdir": "ok = os.path.isdir('/opt/ml') and os.path.isdir('/opt/ml/')",
    "os.path.getsize": "make('s'); ok = os.path.getsize(P('s')) == 1",
    "os.path.realpath": "make('s'); ok = os.path.exists(os.path.realpath(P('s')))",
    "os.rename": "make('s'); os.rename(P('s'), P('t')); ok = there('t')",
    "os.replace": "make('s'); make('t'); os.replace(P('s'), P('t')); ok = there('t') and not there('s')",
    "os.remove": "make('s'); os.remove(P('s')); ok = not there('s')",
    "os.unlink": "make('s'); os.unlink(P('s')); ok = not there('s')",
    "os.rmdir": "os.mkdir(P('d')); os.rmdir(P('d')); ok = not there('d')",
    "os.removedirs": "make('keep'); os.makedirs(P('k/d')); os.removedirs(P('k/d')); ok = not there('k')",
    "os.access": "make('s'); ok = os.access(P('s'), os.R_OK)",
    "os.chmod": "make('s'); os.chmod(P('s'), 0o600); ok = os.stat(P('s')).st_mode & 0o777 == 0o600",
    "os.utime": "make('s'); os.utime(P('s'), (1, 2)); ok = os.stat(P('s')).st_mtime == 2",
    "os.symlink": "make('s'); os.symlink(P('s'), P('ln')); ok = open(P('ln')).read() == 'x'",
    "os.readlink": "make('s'); os.symlink(P('s'), P('ln')); ok = os.readlink(P('ln')).endswith('/s')",
    "os.link": "make('s'); os.link(P('s'), P('h')); ok = there('h')",
    "os.truncate": "make('s'); os.truncate(P('s'), 0); ok = os.path.getsize(P('s')) == 0",
    "os.statvfs": "ok = os.statvfs('/opt/ml').f_bsize > 0",
    "os.chdir": "os.mkdir(P('d')); os.chdir(P('d')); open('x', 'w').close(); ok = there('d/x')",
    "keyword": "os.makedirs(name=P('kw')); ok = there('kw')",
    "fd": "fd = os.open('/opt/ml', os.O_RDONLY); make('q'); ok = 'q' in os.listdir(fd)",
    "pathlib write": "Path(P('p')).write_text('x'); ok = there('p')",
    "pathlib mkdir": "Path(P('p/q')).mkdir(parents=True); ok = there('p/q')",
    "pathlib iterdir": "make('i/x'); ok = [p.name for p in Path(P('i')).iterdir()] == ['x']",
    "pathlib glob": "make('g/x.txt'); ok = list(Path('/opt/ml').glob('g/*.txt')) == [Path(P('g/x.txt'))]",
    "pathlib rglob": "make('r/s/x.txt'); ok = len(list(Path('/opt/ml').rglob('x.txt'))) == 1",
    "pathlib unlink": "make('u'); Path(P('u')).unlink(); ok = not there('u')",
    "pathlib rename": "make('u'); Path(P('u')).rename(P('v')); ok = there('v')",
    "pathlib exists": "ok = Path('/opt/ml').is_dir() and not Path(P('none')).exists()",
    "pathlib touch": "Path(P('t')).touch(); ok = there('t')",
    "glob": "import glob; make('g/x.txt'); ok = glob.glob('/opt/ml/g/*') == [P('g/x.txt')]",
    "shutil.copy": "import shutil; make('s'); shutil.copy(P('s'), P('c')); ok = there('c')",
    "shutil.copytree": "import shutil; make('t/x'); shutil.copytree(P('t'), P('t2')); ok = there('t2/x')",
    "shutil.move": "import shutil; make('s'); shutil.move(P('s'), P('m')); ok = there('m')",
    "shutil.rmtree": "import shutil; make('t/x'); shutil.rmtree(P('t')); ok = not there('t')",
    "shutil.disk_usage": "import shutil; ok = shutil.disk_usage('/opt/ml').free > 0",
    "shutil out": "import shutil; shutil.copy(__import__('tempfile').mkstemp()[1], P('in')); ok = there('in')",
    "tempfile": "import tempfile; os.mkdir(P('tmp')); n = tempfile.mkdtemp(dir=P('tmp')); ok = os.path.isdir(n)",
    "named file": "import tempfile; f = tempfile.NamedTemporaryFile(dir='/opt/ml'); ok = os.path.exists(f.name)",
    "zipfile": "import zipfile; zipfile.ZipFile(P('z.zip'), 'w').close(); ok = there('z.zip')",
    "tarfile": "import tarfile; tarfile.open(P('z.tar'), 'w').close(); ok = there('z.tar')",
    "gzip": "import gzip; gzip.open(P('z.gz'), 'wb').close(); ok = there('z.gz')",
    "logging": "import logging; logging.FileHandler(P('l.log')).close(); ok = there('l.log')",
    "json": "import json; json.dump([1], open(P('j.json'), 'w')); ok = there('j.json')",
    "dotdot": "make('s'); ok = os.path.exists('/opt/ml/../ml/s') and os.path.exists('/opt//ml/./s')",
    "relative": "make('s'); os.chdir('/opt'); ok = os.path.exists('ml/s')",
    "import": "make('mod/zzmod.py'); open(P('mod/zzmod.py'), 'w').write('v = 7'); "
    "sys.path.insert(0, P('mod')); import zzmod; ok = zzmod.v == 7",
    "from import": "from os import listdir, mkdir; mkdir(P('d')); ok = 'd' in listdir('/opt/ml')",
    "numpy": "import numpy; numpy.save(P('a.npy'), numpy.arange(3)); ok = numpy.load(P('a.npy'))[2] == 2",
    "error": "try: open(P('no/such'))\nexcept FileNotFoundError as e: ok = e.filename.endswith('no/such')",
    "not ours": "ok = not os.path.exists('/opt/mlx') and opt_ml.real_path('/opt/mlx') == '/opt/mlx'",
    "none": "ok = opt_ml.real_path(None) is None and os.listdir() is not None and os.scandir() is not None",
}


def test_every_function(tmp_path):
    base = tmp_path / "ml"
    base.mkdir()
    names = list(CASES)
    body = [
        "import os, shutil, sys, tempfile, traceback",
        "from pathlib import Path",
        f"BASE = {str(base)!r}",
        "START = os.getcwd()",
        "P = lambda name: '/opt/ml/' + name",
        "there = lambda name: os.path.lexists(os.path.join(BASE, name))",
        "def make(name):",
        "    target = Path(BASE, name); target.parent.mkdir(parents=True, exist_ok=True); target.write_text('x')",
        f"CASES = {CASES!r}",
        "for name, code in CASES.items():",
        "    for entry in os.listdir(BASE):",
        "        full = os.path.join(BASE, entry)",
        "        shutil.rmtree(full) if os.path.isdir(full) and not os.path.islink(full) else os.remove(full)",
        "    scope = dict(globals())",
        "    try:",
        "        exec(code, scope)",
        "        print(name, bool(scope['ok']))",
        "    except Exception:",
        "        print(name, traceback.format_exc().replace(chr(10), ' | '))",
        "    os.chdir(START)",
    ]
    lines = run(base, "\n".join(body))
    assert lines == [f"{name} True" for name in names]
    assert not os.path.exists("/opt/ml/checkpoints")


def test_real_path_costs_nothing_when_not_installed():
    assert opt_ml.installed_base() is None
    marker = object()
    for value in ("/opt/ml/x", b"/opt/ml/x", 3, None, marker):
        assert opt_ml.real_path(value) is value


def test_uninstall_restores_everything(tmp_path):
    import builtins
    import io
    import pathlib

    before = (builtins.open, io.open, os.listdir, os.stat, list(sys.path_hooks))
    opt_ml.install(tmp_path)
    try:
        assert opt_ml.installed_base() == os.path.realpath(tmp_path)
        pathlib.Path("/opt/ml/x").write_text("1")
        assert (tmp_path / "x").read_text() == "1"
        with pytest.raises(RuntimeError):
            opt_ml.install(tmp_path / "other")
        assert opt_ml.real_path(b"/opt/ml/x") == os.fsencode(os.path.realpath(tmp_path)) + b"/x"
    finally:
        opt_ml.uninstall()
    assert (builtins.open, io.open, os.listdir, os.stat, list(sys.path_hooks)) == before


def test_symlinked_base(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    lines = run(
        link,
        "import os\nos.mkdir('/opt/ml/d')\nprint(os.path.islink('/opt/ml'), os.path.realpath('/opt/ml/d'))",
    )
    assert (real / "d").is_dir()
    assert lines[0].startswith("False ")
