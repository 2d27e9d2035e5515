"""The running copy of a checkpoint folder: whole or not at all."""

from __future__ import annotations

import os
import time

import pytest

from smhf_native.jobs.sync import FolderSync, prefill


def put(path, text, age=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    moment = time.time() - age
    os.utime(path, (moment, moment))


def names(folder):
    return sorted(os.path.relpath(os.path.join(c, f), folder) for c, _, fs in os.walk(folder) for f in fs)


def test_new_folders_wait_until_they_are_quiet(tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    sync = FolderSync(source, target)
    put(source / "checkpoint-1" / "a", "1")
    put(source / "checkpoint-2" / "a", "2", age=0.0)
    put(source / ".tmp-3-77" / "a", "3")
    put(source / "x.tmp", "3")
    sync.pass_once()
    assert names(target) == ["checkpoint-1/a"]
    sync.pass_once(final=True)
    assert names(target) == ["checkpoint-1/a", "checkpoint-2/a"]


def test_changed_files_replace_and_vanished_ones_stay(tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    sync = FolderSync(source, target)
    put(source / "c" / "a", "1")
    put(source / "top.json", "{}")
    sync.pass_once()
    put(source / "c" / "a", "22")
    put(source / "c" / "b", "new")
    (source / "top.json").unlink()
    sync.pass_once()
    assert (target / "c" / "a").read_text() == "22" and (target / "c" / "b").read_text() == "new"
    assert (target / "top.json").exists()


def test_prefilled_files_are_not_copied_back(tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    put(target / "checkpoint-5" / "a", "5")
    assert prefill(target, source) == 1
    sync = FolderSync(source, target)
    before = os.stat(target / "checkpoint-5" / "a").st_ino
    sync.pass_once(final=True)
    assert os.stat(target / "checkpoint-5" / "a").st_ino == before
    assert prefill(tmp_path / "absent", source) == 0


def test_the_manifest_is_copied_last(tmp_path, monkeypatch):
    from smhf_native.jobs import sync as module

    source, target = tmp_path / "s", tmp_path / "t"
    for name in ("MANIFEST.json", "a", "z"):
        put(source / "c" / name, name)
    order = []
    copy = module._copy
    monkeypatch.setattr(module, "_copy", lambda a, b: (order.append(a.name), copy(a, b)))
    sync = FolderSync(tmp_path / "other", target)
    sync.source = source
    sync.pass_once()
    assert order == ["a", "z", "MANIFEST.json"]


def test_a_failed_copy_leaves_no_half_folder_and_is_reported(tmp_path, monkeypatch):
    from smhf_native.jobs import sync as module

    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    sync = FolderSync(source, target)
    put(source / "c" / "a", "1")
    put(source / "c" / "b", "2")
    copy = module._copy

    def full(a, b):
        if a.name == "b":
            raise OSError(28, "No space left on device")
        copy(a, b)

    monkeypatch.setattr(module, "_copy", full)
    sync.pass_once()
    assert names(target) == [] and sync.errors == ["c: No space left on device"]
    monkeypatch.setattr(module, "_copy", copy)
    sync.pass_once()
    assert names(target) == ["c/a", "c/b"]


@pytest.mark.parametrize("rounds", [20])
def test_the_thread_keeps_up_with_a_busy_writer(tmp_path, rounds):
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    sync = FolderSync(source, target, interval=0.005)
    sync.start()
    for index in range(rounds):
        stage = source / f".tmp-{index}"
        for part in range(3):
            put(stage / f"f{part}", str(index) * 100)
        os.rename(stage, source / f"checkpoint-{index}")
        if index >= 3:
            import shutil

            shutil.rmtree(source / f"checkpoint-{index - 3}")
        time.sleep(0.01)
    sync.stop()
    for folder in target.iterdir():
        assert sorted(item.name for item in folder.iterdir()) == ["f0", "f1", "f2"]
    assert (target / f"checkpoint-{rounds - 1}" / "f2").exists()
