"""Live against transformers and torch: either loads what the other saved, and both train alike."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model

from smhf_native.model import Model, Trainer

pytestmark = pytest.mark.peers


@pytest.fixture
def transformers(peer):
    peer("torch")
    return peer("transformers")


@pytest.fixture
def torch(peer):
    return peer("torch")


def reference_logits(model, ids, mask, torch):
    model = model.double().eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()


@pytest.fixture
def batch(rng):
    lengths = rng.integers(1, 50, 12)
    mask = (np.arange(50)[None] < lengths[:, None]).astype(np.int64)
    return rng.integers(1, 90, (12, 50)) * mask, mask


def test_transformers_loads_what_we_save(transformers, torch, tiny_folder, batch):
    """Logits within 2e-5 of their float64 over our file, and every weight is the same."""
    auto = transformers.AutoModelForSequenceClassification
    theirs, report = auto.from_pretrained(tiny_folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ours = Model.from_pretrained(tiny_folder)
    for name, value in ours.parameters().items():
        np.testing.assert_array_equal(theirs.state_dict()[name].numpy(), value, err_msg=name)
    assert theirs.config.id2label == ours.id2label
    assert np.abs(ours(*batch) - reference_logits(theirs, *batch, torch)).max() <= 2e-5


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_we_load_what_transformers_saves(transformers, torch, tmp_path, batch, kind):
    sizes = {
        "distilbert": dict(dim=48, n_heads=4, n_layers=3, hidden_dim=96),
        "bert": dict(hidden_size=48, num_attention_heads=4, num_hidden_layers=3, intermediate_size=96),
    }[kind]
    names = {0: "bad", 1: "fair", 2: "good"}
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=90, max_position_embeddings=64, initializer_range=0.2, id2label=names, **sizes
    )
    torch.manual_seed(4)
    theirs = transformers.AutoModelForSequenceClassification.from_config(config)
    theirs.save_pretrained(tmp_path)
    ours = Model.from_pretrained(tmp_path)
    assert ours.load_report == ([], []) and ours.id2label == names
    assert np.abs(ours(*batch) - reference_logits(theirs, *batch, torch)).max() <= 2e-5


def test_masked_lm_checkpoint_reports_what_transformers_reports(transformers, torch, tmp_path):
    config = transformers.DistilBertConfig(
        vocab_size=90, dim=32, n_heads=4, n_layers=1, hidden_dim=64, max_position_embeddings=32
    )
    transformers.DistilBertForMaskedLM(config).save_pretrained(tmp_path)
    auto = transformers.AutoModelForSequenceClassification
    _, theirs = auto.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
    ours = Model.from_pretrained(tmp_path, num_labels=5)
    assert set(ours.load_report.missing) == set(theirs["missing_keys"])
    assert set(ours.load_report.unexpected) == set(theirs["unexpected_keys"])


def test_fifty_steps_of_torch_adamw(transformers, torch, tmp_path, rng):
    """A whole small training run, dropout off, in the same order: losses stay together."""
    folder = tiny_model.build_tiny_model(
        tmp_path / "m", dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0
    )
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    theirs.train()
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.05},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 5, 50)
    trainer = Trainer(
        Model.from_pretrained(folder), learning_rate=2e-3, weight_decay=0.05, warmup_steps=5, total_steps=50
    )
    ours, reference = [], []
    for _ in range(50):
        lengths = rng.integers(2, 20, 8)
        mask = (np.arange(20)[None] < lengths[:, None]).astype(np.int64)
        ids = rng.integers(5, 90, (8, 20)) * mask
        ids[:, 0] = rng.integers(5, 10, 8)
        labels = ids[:, 0] % 5
        ours.append(trainer.step(ids, mask, labels)["loss"])
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        loss = theirs(**{k: torch.tensor(v) for k, v in tensors.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        reference.append(float(loss.detach()))
    difference = np.abs(np.array(ours) - reference)
    assert difference[:20].max() <= 1e-5 and difference.max() <= 1e-4
    assert np.mean(reference[:5]) - np.mean(reference[-5:]) > 0.2
