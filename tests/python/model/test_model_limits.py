"""The longest row, one token more, and masks drawn from a seed."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model

from smhf_native.model import Model, Trainer
from smhf_native.model.masking import mask_tokens


@pytest.fixture
def model(tmp_path):
    config = tiny_model.tiny_config(90, num_labels=3, max_position_embeddings=512)
    Model.from_config(config, seed=2).save_pretrained(tmp_path)
    return Model.from_pretrained(tmp_path)


def test_511_512_and_513_tokens(model, rng):
    ids = rng.integers(1, 90, (3, 513))
    mask = np.zeros_like(ids)
    for row, length in enumerate((512, 511, 1)):
        mask[row, :length] = 1
    together = model(ids, mask)  # 513 columns, but no row of 513 tokens
    for row, length in enumerate((512, 511, 1)):
        alone = model(ids[row : row + 1, :length])
        assert np.abs(alone - together[row]).max() <= 1e-6
    mask[1] = 1
    sentence = r"row 1 has 513 tokens, the model takes at most 512: truncate the text"
    before = model.parameters()
    trainer = Trainer(model, total_steps=3)
    for call in (
        lambda: model(ids, mask),
        lambda: trainer.step(ids, mask, labels=[0, 1, 2]),
        lambda: trainer.evaluate_loss(ids, mask, labels=[0, 1, 2]),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
    packed = np.concatenate([ids[0, :512], ids[1], ids[2, :1]]).astype(np.int32)
    with pytest.raises(ValueError, match=sentence):
        model._core.forward(packed, None, None, np.array([0, 512, 1025, 1026], np.int32))
    after = model.parameters()
    assert all(np.array_equal(after[name], before[name]) for name in before) and trainer.global_step == 0
    assert np.array_equal(model(ids[:1, :512]), model(ids[:1, :512]))


def test_new_weights_do_not_depend_on_threads():
    from smhf_native.model import _model

    before = _model.threads()
    config = tiny_model.tiny_config(3000, dim=64)
    made = []
    try:
        for threads in (1, 2, 5):
            _model.threads(threads)
            made.append(Model.from_config(config, seed=5).parameters())
    finally:
        _model.threads(before)
    for other in made[1:]:
        assert all(np.array_equal(other[name], made[0][name]) for name in other)
    word = made[0]["distilbert.embeddings.word_embeddings.weight"][1:]
    assert abs(word.std() - 0.1) < 1e-3 and abs(word.mean()) < 1e-3  # initializer_range, no seams
    assert len(np.unique(word)) > 0.99 * word.size


def test_masks_are_drawn_in_the_shares_of_the_paper():
    ids = np.random.default_rng(1).integers(5, 1000, (400, 100))
    allowed = np.ones_like(ids, bool)
    allowed[:, 0] = allowed[:, -1] = False

    def draw(seed):
        return mask_tokens(ids, allowed, mask_id=4, vocab_size=1000, rng=np.random.default_rng(seed))

    inputs, labels = draw(3)
    picked = labels != -100
    assert not picked[~allowed].any() and np.array_equal(labels[picked], ids[picked])
    assert np.array_equal(inputs[~picked], ids[~picked])
    count = picked.sum()

    def near(share, expected, n):
        return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)

    assert near(count / allowed.sum(), 0.15, allowed.sum())
    masked, kept = inputs[picked] == 4, inputs[picked] == ids[picked]
    assert near(masked.mean(), 0.8 + 0.1 / 1000, count) and near(kept.mean(), 0.1 + 0.1 / 1000, count)
    again, other = draw(3), draw(4)
    assert np.array_equal(again[0], inputs) and np.array_equal(again[1], labels)
    assert not np.array_equal(other[1], labels)
    for options, name in (
        ({"probability": 1.5}, "probability"),
        ({"mask_share": 0.95}, "at most 1 together"),
    ):
        with pytest.raises(ValueError, match=name):
            mask_tokens(ids, allowed, mask_id=4, vocab_size=9, rng=np.random.default_rng(0), **options)


def test_memory_is_flat_over_ten_thousand_shapes(tmp_path):
    import subprocess
    import sys

    config = tiny_model.tiny_config(90, num_labels=3, dim=16, hidden_dim=32, max_position_embeddings=512)
    Model.from_config(config, seed=2).save_pretrained(tmp_path)
    program = f"""
import numpy as np
from smhf_native.model import Model
model = Model.from_pretrained({str(tmp_path)!r})
rng = np.random.default_rng(1)
for step in range(10000):
    rows, width = int(rng.integers(1, 9)), int(min(512, rng.lognormal(3, 1) + 1))
    model(rng.integers(1, 90, (rows, width)))
    if step in (999, 9999):
        print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    early, late = map(int, run.stdout.split())
    assert late - early < 4096, (early, late)
