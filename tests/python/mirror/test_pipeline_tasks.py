"""Pipelines beyond text classification against transformers' own, on real texts with seeded weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import text_models  # noqa: E402

KINDS = ["distilbert", "bert"]
WORDS = ["Ada", "lives", "in", "St.", "Petersburg-Nord", ",", "don't", "ẹ̀kọ́", "🙂"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Any:
    """``folder(kind, task)``: a saved model; made once."""
    made: dict[tuple[str, str], Path] = {}

    def get(kind: str, task: str) -> Path:
        if (kind, task) not in made:
            more: dict[str, Any] = {}
            if task == "token-classification":
                more = {"id2label": {str(i): name for i, name in enumerate(text_models.LABELS)}}
                more["label2id"] = {name: i for i, name in enumerate(text_models.LABELS)}
            place = tmp_path_factory.mktemp(f"{kind}-{task}")
            vocab = shared_data / "vocab" / "bert-base-uncased" / "vocab.txt"
            made[kind, task] = text_models.build(place, vocab, kind, task, **more)
        return made[kind, task]

    return get


def same(mine: Any, theirs: Any, where: Any) -> None:
    """Equal structure, words and places; scores within 1e-5."""
    if isinstance(theirs, list):
        assert isinstance(mine, list) and len(mine) == len(theirs), where
        for one, other in zip(mine, theirs, strict=True):
            same(one, other, where)
        return
    assert list(mine) == list(theirs), where
    for name, value in theirs.items():
        if name == "score":
            assert isinstance(mine[name], float) and abs(mine[name] - float(value)) <= 1e-5, where
        else:
            assert mine[name] == value and type(mine[name]) is type(value), (where, mine, theirs)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_entities_equal_transformers(peer: Any, folder: Any, shared_data: Path, kind: str) -> None:
    peer("torch")
    place = folder(kind, "token-classification")
    theirs = peer("transformers").pipeline("ner", model=str(place), device="cpu")
    ours = smhf.pipeline("ner", model=str(place))
    texts = text_models.texts(shared_data)
    found = 0
    for strategy in ("none", "simple", "first", "average", "max"):
        for options in ({"ignore_labels": []}, {}, {"ignore_labels": ["O", "PER", "B-PER"]}):
            if options and strategy in ("average", "max"):
                continue  # what is left out does not depend on how words were made to agree
            mine = ours(texts, aggregation_strategy=strategy, **options)
            same(mine, theirs(texts, aggregation_strategy=strategy, **options), (strategy, options))
            found += sum(map(len, mine))
    assert found > 2000 and max(len(ours.tokenizer.tokenize(text)) for text in texts) > 96  # some were cut
    for strategy in ("simple", "max"):
        for stride in (0, 10):
            options = {"aggregation_strategy": strategy, "stride": stride}
            same(ours(texts, **options), theirs(texts, **options), options)
    for options in ({}, {"aggregation_strategy": "first"}, {"delimiter": "--"}):
        options = {**options, "is_split_into_words": True, "ignore_labels": []}
        same(ours(WORDS, **options), theirs(WORDS, **options)[0], options)
        same(ours([WORDS, WORDS[:3]], **options), theirs([WORDS, WORDS[:3]], **options), options)
    same(ours(texts[0]), theirs(texts[0]), "one text")
    same(ours([texts[0]]), theirs([texts[0]]), "a list of one")
    defaults = smhf.pipeline(model=str(place), aggregation_strategy="average", stride=5)
    same(defaults(texts[3]), theirs(texts[3], aggregation_strategy="average", stride=5), "defaults")


def test_answers_equal_those_of_transformers_4(folder: Any, shared_data: Path) -> None:
    golden = json.loads((ROOT / "tests/golden/mirror/question_answering.json").read_text(encoding="utf-8"))
    assert golden["magic"] == "smhf-golden" and golden["version"] == 1 and len(golden["cases"]) == 14
    examples = text_models.examples(shared_data)
    for kind in KINDS:
        ours = smhf.pipeline("question-answering", model=str(folder(kind, "question-answering")))
        for case in (case for case in golden["cases"] if case["kind"] == kind):
            expected, options = case["answers"], case["options"]
            same([ours(**example, **options) for example in examples], expected, (kind, options))
            same(ours(examples, **options), expected, (kind, options, "together"))
            questions, contexts = ([e[name] for e in examples] for name in ("question", "context"))
            same(ours(question=questions, context=contexts, batch_size=2, **options), expected, options)
    same(ours(examples[0]["question"], examples[0]["context"]), ours(examples[0]), "positional")
    several = ours(question=[examples[0]["question"]] * 2, context=examples[1]["context"])
    same(several, [ours(question=examples[0]["question"], context=examples[1]["context"])] * 2, "one context")


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_transformers(peer: Any, folder: Any, shared_data: Path, kind: str) -> None:
    peer("torch")
    place = folder(kind, "embedding")
    theirs = peer("transformers").pipeline("feature-extraction", model=str(place), device="cpu")
    ours = smhf.pipeline("feature-extraction", model=str(place))
    texts = [*text_models.texts(shared_data), ""]
    mine, expected = (pipe(texts, truncation=True, return_tensors=True) for pipe in (ours, theirs))
    for one, other in zip(mine, expected, strict=True):
        assert one.shape == tuple(other.shape) and np.abs(one - other.numpy()).max() <= 2e-5
    short = texts[13]
    assert np.shape(ours(short)) == np.shape(theirs(short)) and isinstance(ours(short)[0][0][0], float)
    assert np.abs(np.subtract(ours(short), theirs(short))).max() <= 2e-5
    cut = {"tokenize_kwargs": {"truncation": True, "max_length": 7}}
    assert np.abs(np.subtract(ours(texts[1], **cut), theirs(texts[1], **cut))).max() <= 2e-5
    with pytest.raises(ValueError, match=r"row 1 has \d+ tokens, the model takes 96; truncation=True"):
        ours([short, " ".join(texts)])


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_masks_equal_transformers(peer: Any, folder: Any, shared_data: Path, kind: str) -> None:
    peer("torch")
    place = folder(kind, "masked-lm")
    theirs = peer("transformers").pipeline("fill-mask", model=str(place), device="cpu")
    ours = smhf.pipeline(model=str(place))
    assert ours.task == "fill-mask"
    texts = [text.replace("the", "[MASK]", 1) for text in text_models.texts(shared_data)[12:20]]
    texts = [text if "[MASK]" in text else f"{text} [MASK]." for text in texts]
    for options in ({}, {"top_k": 2}, {"targets": ["card", "money", "the"]}, {"targets": "bank", "top_k": 3}):
        same(ours(texts, **options), theirs(texts, **options), options)
    for text in (texts[0], f"[MASK] {texts[1]} [MASK]"):
        same(ours(text), theirs(text), text)
    same(ours(texts, batch_size=1), ours(texts), "batches")
    cut = {"tokenizer_kwargs": {"truncation": True}}
    same(ours(texts[0] + " very" * 200, **cut), theirs(texts[0] + " very" * 200, **cut), cut)
    with pytest.raises(ValueError, match=r"row 1: no mask_token \(\[MASK\]\) in the text"):
        ours([texts[0], "nothing hidden"])
    with pytest.raises(ValueError, match=r"row 0 has \d+ tokens, the model takes 96"):
        ours(texts[0] + " very" * 200)


@pytest.mark.peers
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_embeddings_equal_pooled_hidden_states(
    peer: Any, folder: Any, shared_data: Path, tmp_path: Path, pooling: str
) -> None:
    torch, transformers = peer("torch"), peer("transformers")
    place = folder("bert", "embedding")
    for file in place.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    settings = {"word_embedding_dimension": 48, **{m: m == modes[pooling] for m in modes.values()}}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}')
    texts = text_models.texts(shared_data)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        texts, truncation=True, max_length=40, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(tmp_path).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1) if pooling == "mean" else states[:, 0]
    with pytest.warns(UserWarning, match="longer than 40 tokens"):
        ours = smhf.pipeline("sentence-embeddings", model=str(tmp_path), token_budget=300)
        vectors = ours(texts)
    assert ours.settings({})["pooling"] == pooling and ours.truncated > 3 and vectors.dtype == np.float32
    unit = torch.nn.functional.normalize(pooled, dim=1).numpy()
    assert np.abs(vectors - unit).max() <= 2e-5
    assert np.abs(ours(texts, normalize=False) - pooled.numpy()).max() <= 5e-5
    assert ours(texts[0]).shape == (48,) and np.abs(ours(texts[0]) - vectors[0]).max() <= 1e-6
    assert ours([]).shape == (0, 48)


@pytest.mark.peers
@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_problem_type_chooses_the_scores(peer: Any, shared_data: Path, tmp_path: Path, problem: str) -> None:
    peer("torch")
    vocab = shared_data / "vocab" / "bert-base-uncased" / "vocab.txt"
    place = text_models.build(
        tmp_path, vocab, "distilbert", "sequence-classification", problem_type=problem, num_labels=3
    )
    theirs = peer("transformers").pipeline("text-classification", model=str(place), device="cpu")
    texts = text_models.texts(shared_data)[12:]
    for options in ({}, {"top_k": None}):
        same(smhf.pipeline(model=str(place))(texts, **options), theirs(texts, **options), problem)


def test_low_precision_and_results_do_not_depend_on_the_batch(folder: Any, shared_data: Path) -> None:
    texts = text_models.texts(shared_data)
    place = folder("distilbert", "token-classification")
    exact = smhf.pipeline("ner", model=str(place), ignore_labels=[])
    small = smhf.pipeline("ner", model=str(place), ignore_labels=[], token_budget=64, batch_size=1)
    same(small(texts), exact(texts), "batches")
    low = smhf.pipeline("ner", model=str(place), ignore_labels=[], precision="int8")
    assert low.model.precision == "int8"
    pairs = [(a, b) for x, y in zip(exact(texts), low(texts), strict=True) for a, b in zip(x, y, strict=True)]
    assert np.mean([a["entity"] == b["entity"] for a, b in pairs]) > 0.9
    with pytest.raises(ValueError, match='precision="auto" compares the labels of texts, token-class'):
        smhf.pipeline("ner", model=str(place), precision="auto")


def test_wrong_use_is_named(folder: Any, shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = str(folder("distilbert", "token-classification"))
    ner = smhf.pipeline(model=place)
    assert ner.task == "token-classification"
    with pytest.raises(ValueError, match="aggregation_strategy='best' is not one of none, simple, first"):
        ner("a", aggregation_strategy="best")
    with pytest.raises(ValueError, match="stride needs an aggregation_strategy"):
        smhf.pipeline("ner", model=place, stride=3)
    with pytest.raises(ValueError, match="stride=96 must be less than the model's 96 tokens"):
        ner("a", stride=96, aggregation_strategy="max")
    with pytest.raises(TypeError, match=r"'agregation_strategy'.*'aggregation_strategy'"):
        ner("a", agregation_strategy="max")
    with pytest.raises(TypeError, match="row 1 is int, expected str"):
        ner(["a", 1])
    with pytest.raises(TypeError, match="row 0: expected a list of words"):
        ner([["a", 2]], is_split_into_words=True)
    assert ner([]) == []
    qa = smhf.pipeline(model=str(folder("bert", "question-answering")))
    assert qa.task == "question-answering"
    with pytest.raises(ValueError, match="row 0: context is empty"):
        qa(question="a", context="")
    with pytest.raises(ValueError, match="2 questions for 1 contexts"):
        qa(question=["a", "b"], context=["c"])
    with pytest.raises(TypeError, match="row 0: expected a dict with question and context"):
        qa({"question": "a"})
    with pytest.raises(ValueError, match=r"top_k parameter should be >= 1 \(got 0\)"):
        qa(question="a", context="b", top_k=0)
    with pytest.raises(ValueError, match="max_seq_len=200: the model takes 96 tokens"):
        qa(question="a", context="b", max_seq_len=200)
    with pytest.raises(ValueError, match=r"doc_stride \(50\) is larger than max_seq_len \(40\)"):
        qa(question="a", context="b", max_seq_len=40, doc_stride=50)
    with pytest.raises(ValueError, match="needs a model for question-answering, the given one is for token"):
        smhf.pipeline("question-answering", model=ner.model, tokenizer=ner.tokenizer)
    with pytest.raises(ValueError, match="task 'translation' is not supported; supported: text-classif"):
        smhf.pipeline("translation", model=place)
    with caplog.at_level("WARNING", "smhf_native"):
        smhf.pipeline("question-answering", model=place)
    assert "qa_outputs.weight" in caplog.text and "mean nothing before training" in caplog.text
