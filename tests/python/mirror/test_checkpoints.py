"""Checkpoints: whole or absent, whatever happens while one is written."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smhf_native.transformers import checkpoints
from smhf_native.transformers.checkpoints import CheckpointError, rotate_checkpoints, write_checkpoint
from smhf_native.transformers.trainer_utils import get_last_checkpoint


def fill(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(os.urandom(2000))
    (folder / "trainer_state.json").write_text("{}")


def test_the_last_whole_checkpoint_is_found_and_skipped_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_last_checkpoint(tmp_path) is None
    assert get_last_checkpoint(tmp_path / "missing") is None
    for step in (9, 100, 20):
        write_checkpoint(tmp_path, step, fill)
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    with open(tmp_path / "checkpoint-100" / "model.safetensors", "r+b") as file:
        file.seek(77)
        byte = file.read(1)
        file.seek(77)
        file.write(bytes([byte[0] ^ 1]))
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("{ }")
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-9")
    said = capsys.readouterr().err
    assert "checkpoint-100 is skipped: the SHA-256 of model.safetensors differs" in said
    assert "checkpoint-20 is skipped: trainer_state.json has 3 bytes, MANIFEST.json says 2" in said


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "MANIFEST.json").write_text("{"), "MANIFEST.json is unreadable"),
        (
            lambda folder: (folder / "MANIFEST.json").write_text('{"files": {"../x": {}}}'),
            "outside the folder",
        ),
        (
            lambda folder: ((folder / "MANIFEST.json").unlink(), (folder / "model.safetensors").unlink()),
            "lacks",
        ),
    ],
)
def test_each_kind_of_damage_is_seen(tmp_path: Path, damage: object, why: str) -> None:
    folder = write_checkpoint(tmp_path, 3, fill)
    assert checkpoints.checkpoint_problem(folder) is None
    damage(folder)  # type: ignore[operator]
    assert why in (checkpoints.checkpoint_problem(folder) or "")
    assert get_last_checkpoint(tmp_path) is None


def test_checkpoints_of_transformers_count_without_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    fill(folder)
    assert get_last_checkpoint(tmp_path) == str(folder)


def test_a_full_disk_leaves_the_previous_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, fill)

    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        CheckpointError, match=r"checkpoint-2 was not written: the disk is full.*checkpoint-1"
    ):
        write_checkpoint(tmp_path, 2, full)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file size limit makes the kernel itself refuse the write, in a child process."""
    write_checkpoint(tmp_path, 1, fill)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from smhf_native.transformers.checkpoints import write_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: write_checkpoint(sys.argv[1], 2, lambda f: (f / 'model.safetensors').write_bytes(b'x' * 9000))\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "checkpoint-2 was not written" in done.stdout and "checkpoint-1" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1"]


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11):
        write_checkpoint(tmp_path, step, fill)
    rotate_checkpoints(tmp_path, None)
    rotate_checkpoints(tmp_path, 2, str(tmp_path / "checkpoint-1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-11"]
    rotate_checkpoints(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-11"]


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 4, fill)
    write_checkpoint(tmp_path, 4, lambda folder: (folder / "other").write_text("x"))
    assert sorted(path.name for path in (tmp_path / "checkpoint-4").iterdir()) == ["MANIFEST.json", "other"]
    manifest = json.loads((tmp_path / "checkpoint-4" / "MANIFEST.json").read_text())
    assert manifest["step"] == 4 and manifest["files"]["other"]["size"] == 1


WRITER = """
import os, sys
from pathlib import Path
from smhf_native.transformers.checkpoints import rotate_checkpoints, write_checkpoint
step = int(sys.argv[2])
print("ready", flush=True)
while True:
    step += 1
    def fill(folder):
        (folder / "trainer_state.json").write_text(str(step))
        for part in range(4):
            (folder / f"part{part}").write_bytes(os.urandom(60_000))
        (folder / "model.safetensors").write_bytes(os.urandom(60_000))
    write_checkpoint(sys.argv[1], step, fill)
    rotate_checkpoints(sys.argv[1], 2)
    print(step, flush=True)
"""


def test_kill_nine_at_any_moment_leaves_a_verified_checkpoint(tmp_path: Path) -> None:
    """50 kills at random moments: what was announced as written is there, or a later one is."""
    rng = random.Random(5)
    start, period, inside = 0, 0.02, 0
    for _ in range(50):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(tmp_path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            announced: list[int] = []
            for _ in range(rng.randint(0, 1)):
                began = time.monotonic()
                announced.append(int(child.stdout.readline()))
                period = min(0.2, 0.5 * (period + time.monotonic() - began))
            time.sleep(rng.uniform(0.0, 1.2 * period))
            child.send_signal(signal.SIGKILL)
            announced += [int(line) for line in child.stdout.read().split()]
        inside += any(tmp_path.glob(f".tmp-*-{child.pid}*"))
        last = get_last_checkpoint(tmp_path)
        if announced:
            assert last is not None and int(last.rsplit("-", 1)[1]) >= announced[-1]
        if last is not None:
            assert checkpoints.checkpoint_problem(last) is None
            start = int(last.rsplit("-", 1)[1])
    assert start >= 20, "the writer got nowhere"
    assert inside >= 10, "the kills missed the writing"
    write_checkpoint(tmp_path, start + 1, fill)
    assert not list(tmp_path.glob(".tmp-*")), "folders of dead writers are cleared"
