"""Ctrl-C: a real SIGINT into one large call of a child process; it ends at once, and nothing is half-done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_model

COMMON = """
import json, os, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
import tiny_model
from smhf_native.model import Model, Trainer, _model

config = tiny_model.tiny_config(200, dim=256, n_heads=4, n_layers=6, hidden_dim=1024, num_labels=3,
                                max_position_embeddings=512)
rng = np.random.default_rng(0)
ids = rng.integers(5, 200, (ROWS, 256))
labels = rng.integers(0, 3, ROWS)

def interrupted(call):
    '''Say when the call begins; return how long after the signal it ended.'''
    print("ready", flush=True)
    try:
        call()
    except KeyboardInterrupt:
        ended = time.time()
        return ended
    return None
"""

CALLS = {
    "call": (4000, "model = Model.from_config(config)", "model(ids)"),
    "encode": (4000, "model = Model.from_config(config, task='embedding')", "model.encode(ids)"),
    "forward_backward": (
        12,
        "config['n_layers'] = 40; model = Model.from_config(config); trainer = Trainer(model, learning_rate=1e-3, "
        "total_steps=9, gradient_checkpointing=True)",
        "trainer.forward_backward(ids, labels=labels)",
    ),
    "evaluate": (
        12,
        "config['n_layers'] = 40; model = Model.from_config(config); trainer = Trainer(model, learning_rate=1e-3, "
        "total_steps=9, gradient_checkpointing=True)",
        "trainer.evaluate_loss(ids, labels=labels)",
    ),
}

CHECK = """
few, some = ids[:4, :20], labels[:4]
if "trainer" in globals():
    # the step that was broken off, done again, is the step that it would have been
    twin = Trainer(Model.from_config(config), learning_rate=1e-3, total_steps=9)
    good = trainer.global_step == 0 and trainer.step(few, labels=some) == twin.step(few, labels=some)
    a, b = model.parameters(), twin.model.parameters()
    good = good and all(np.array_equal(a[name], b[name]) for name in a)
else:
    fresh = Model.from_config(config, task=model.task)
    good = np.array_equal(model(few), fresh(few))
print(json.dumps({"ended": ended, "good": bool(good)}), flush=True)
"""


def start(code: str) -> subprocess.Popen[str]:
    support = os.path.dirname(tiny_model.__file__)
    return subprocess.Popen([sys.executable, "-c", code, support], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", list(CALLS))
def test_a_large_call_ends_within_half_a_second(name):
    rows, make, call = CALLS[name]
    code = f"ROWS = {rows}\n{COMMON}\n{make}\nended = interrupted(lambda: {call})\n{CHECK}"
    with start(code) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(0.4)
        sent = time.time()
        child.send_signal(signal.SIGINT)
        answer = json.loads(child.stdout.readline())
    assert answer["ended"] is not None, "the call was over before the signal came"
    assert answer["ended"] - sent <= 0.5
    assert answer["good"]


def test_what_a_handler_raises_comes_out():
    code = f"""ROWS = 4000
{COMMON}
import signal
class Stop(Exception): pass
def handler(*_): raise Stop("asked")
signal.signal(signal.SIGUSR1, handler)
model = Model.from_config(config)
print("ready", flush=True)
try:
    model(ids)
except Stop as error:
    print(json.dumps(str(error)), flush=True)
"""
    with start(code) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGUSR1)
        assert json.loads(child.stdout.readline()) == "asked"


def test_a_handler_that_returns_does_not_disturb():
    code = f"""ROWS = 8
{COMMON}
import signal, threading
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
model = Model.from_config(config)
expected = model(ids)
alarm = threading.Thread(target=lambda: [(os.kill(os.getpid(), signal.SIGUSR1), time.sleep(0.01)) for _ in range(40)])
alarm.start()
while alarm.is_alive():
    assert np.array_equal(model(ids), expected)
print(json.dumps(len(seen) > 0), flush=True)
"""
    with start(code) as child:
        assert child.stdout is not None and json.loads(child.stdout.readline()) is True


def test_a_call_of_another_thread_goes_on():
    """Signals belong to the main thread: what other threads compute is not broken off."""
    code = f"""ROWS = 30
{COMMON}
import threading
model = Model.from_config(config)
results = []
thread = threading.Thread(target=lambda: results.append(model(ids)))
thread.start()
ended = None
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    pass
thread.join()
print(json.dumps(bool(np.isfinite(results[0]).all() and results[0].shape == (30, 3))), flush=True)
"""
    with start(code) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        assert json.loads(child.stdout.readline()) is True
