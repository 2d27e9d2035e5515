"""backends, archives, torch's order, capsule, stub."""

from __future__ import annotations

import ctypes
import gc
import inspect
import subprocess
import sys
import tarfile
import weakref

import numpy as np
import pytest

import smhf_native
from smhf_native.model import Model, _model, backends, create_archive, extract_archive, torch_randperm


def test_backends_say_what_is_there_and_why_the_rest_is_not():
    found = backends()
    assert {"cpu", "cuda"} <= set(found)
    assert found["cpu"]["available"] is True and found["cpu"]["reason"] == ""
    assert found["cpu"]["tier"] and found["cpu"]["units"] >= 1
    for entry in found.values():
        assert entry["available"] is True or len(entry["reason"]) > 10


def test_cuda_is_refused_with_the_same_reason(tiny_folder):
    if backends()["cuda"]["available"]:
        pytest.skip("a GPU is there")
    with pytest.raises(smhf_native.errors.BackendError, match="cuda"):
        Model.from_pretrained(tiny_folder, device="cuda")


def test_archive_round_trip_against_tarfile(tmp_path):
    source = tmp_path / "in"
    (source / "code").mkdir(parents=True)
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (source / "code" / "inference.py").write_text("x = 1\n")
    create_archive(tmp_path / "model.tar.gz", source)
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        names = {m.name.removeprefix("./") for m in archive.getmembers() if m.isfile()}
    assert names == {"model.safetensors", "code/inference.py"}
    (tmp_path / "out").mkdir()
    extract_archive(tmp_path / "model.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/code/inference.py").read_text() == "x = 1\n"
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../evil")
        archive.addfile(member)
    (tmp_path / "evil").mkdir()
    with pytest.raises(ValueError, match=r"\.\."):
        extract_archive(tmp_path / "evil.tar.gz", tmp_path / "evil")


def test_randperm_is_torchs(peer):
    torch = peer("torch")
    for count in (0, 1, 2, 3, 10, 1000, 30001):
        for seed in (0, 42, 2**31 + 5, 2**63 + 11):
            theirs = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
            ours = torch_randperm(count, seed)
            assert ours.dtype == np.int64
            np.testing.assert_array_equal(ours, theirs)


def test_randperm_known_order():
    """torch.randperm(10, generator=torch.Generator().manual_seed(42)), torch 2.13."""
    assert torch_randperm(10, 42).tolist() == [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]
    with pytest.raises(ValueError, match="torch_randperm: expected n below"):
        torch_randperm(2**32, 0)


def test_capsule_keeps_the_model_alive(tiny_folder):
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    model = Model.from_pretrained(tiny_folder)
    live = _model.memory()[1]
    capsule = model._capsule()
    assert get_name(capsule) == b"smhf.model"
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and _model.memory()[1] == live  # the C handle is still there
    del capsule
    gc.collect()
    assert _model.memory()[1] < live


def test_types_are_final_and_made_by_their_doors_only():
    for name in ("Model", "Trainer"):
        kind = getattr(_model, name)
        with pytest.raises(TypeError):
            type("Sub", (kind,), {})
        with pytest.raises(TypeError):
            kind.x = 1
    with pytest.raises(TypeError):
        _model.Model()
    with pytest.raises(TypeError):
        _model.Trainer(object())


def test_signatures_are_readable():
    for thing in (_model.Model.open, _model.Model.forward, _model.Model.save, _model.backends,
                  _model.Trainer.forward_backward, _model.Trainer, _model.torch_randperm):  # fmt: skip
        assert inspect.signature(thing) is not None


def test_import_is_lazy_and_light():
    """The package alone loads no room; the model room loads no torch."""
    code = (
        "import sys, smhf_native; assert 'smhf_native.model' not in sys.modules; "
        "smhf_native.backends(); assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repr_names_what_it_is(tiny_folder):
    assert (
        repr(Model.from_pretrained(tiny_folder))
        == "<Model distilbert: 2 layers of 32, 5 labels, fp32 on cpu>"
    )


def test_a_forked_child_computes_too(tiny_folder):
    """After threads have run in the parent: the child starts its own, and gives the same bits."""
    code = """
import os, sys
import numpy as np
from smhf_native.model import Model, Trainer
model = Model.from_pretrained(sys.argv[1])
ids = np.arange(1, 61).reshape(4, 15)
expected = model(ids)
loss = Trainer(model, total_steps=5, seed=1).forward_backward(ids, None, [0, 1, 2, 3])
child = os.fork()
if child == 0:
    same = np.array_equal(model(ids), expected)
    again = Trainer(model, total_steps=5, seed=1).forward_backward(ids, None, [0, 1, 2, 3])
    os._exit(0 if same and again == loss else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tiny_folder)], timeout=60, check=False
    )
    assert result.returncode == 0
