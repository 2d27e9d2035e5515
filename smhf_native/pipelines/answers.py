"""``pipeline("question-answering")``: the part of a context that answers a question.

The rules are those of the pipeline that transformers had up to version 4: contexts longer than a row are read in
parts that share ``doc_stride`` tokens, spans are ranked by P(start) P(end), and equal answers add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.pipelines.base import Pipeline

__all__ = ["QuestionAnsweringPipeline"]

_MASKED = np.float32(-10000.0)  # the logit of a token that cannot be part of an answer
_DEFAULTS: dict[str, Any] = {
    "top_k": 1, "doc_stride": None, "max_answer_len": 15, "max_seq_len": None, "max_question_len": 64,
    "handle_impossible_answer": False, "align_to_words": True,
}  # fmt: skip

Array = npt.NDArray[np.float32]


class QuestionAnsweringPipeline(Pipeline):
    """Finds answers in texts.

    Parameters
    ----------
    top_k : answers a question gets, best first (fewer where there are not so many)
    max_answer_len : tokens of an answer at most
    max_seq_len : tokens of a row, question and part of the context; default 384 or what the model takes
    doc_stride : tokens that consecutive parts share; default 128 or half of ``max_seq_len``
    max_question_len : of no effect, as in transformers; a question must fit into a row
    handle_impossible_answer : "" may be the answer
    align_to_words : answers begin and end with words
    """

    task = "question-answering"
    model_task = "question-answering"

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        return dict(_DEFAULTS)

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call, checked."""
        options = super().settings({k: v for k, v in given.items() if v is not None}, what)
        for name in ("top_k", "max_answer_len"):
            if options[name] < 1:
                raise ValueError(f"{name} parameter should be >= 1 (got {options[name]})")
        width, stride = self._sizes(options)
        if width > self.model_max_length:
            raise ValueError(f"max_seq_len={width}: the model takes {self.model_max_length} tokens")
        if stride > width:
            raise ValueError(f"doc_stride ({stride}) is larger than max_seq_len ({width})")
        return options

    def _sizes(self, options: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens of a row, and how many of them consecutive parts share."""
        width = int(options["max_seq_len"] or min(self.model_max_length, 384))
        return width, min(width // 2, 128) if options["doc_stride"] is None else int(options["doc_stride"])

    def __call__(
        self,
        *examples: Any,
        question: Any = None,
        context: Any = None,
        batch_size: int | None = None,
        **given: Any,
    ) -> Any:
        """Answer one question or many.

        Parameters
        ----------
        examples : instead of ``question`` and ``context``: dicts with both, a list of them, or two str
        question : str or list of str
        context : str (for all questions) or as many as questions
        given : the options of the class

        Returns
        -------
        dict ``{"score", "start", "end", "answer"}``; with ``top_k`` a list of them; a list of these for several
        questions.  ``start`` and ``end`` count characters of the context.

        Raises
        ------
        ValueError
            An empty question or context; a question that leaves no room for the context.
        """
        given.pop("padding", None)  # rows are packed: padding has nothing to say
        options = self.settings(given)
        pairs = _pairs(examples, question, context)
        answers = self._answers(pairs, options, batch_size) if pairs else []
        results = [found[0] if len(found) == 1 else found for found in answers]
        return results[0] if len(results) == 1 else results

    def _answers(
        self, pairs: list[tuple[str, str]], options: dict[str, Any], batch_size: int | None
    ) -> list[list[dict[str, Any]]]:
        width, stride = self._sizes(options)
        encoding = self.tokenizer(
            [question for question, _ in pairs],
            [context for _, context in pairs],
            truncation="only_second",
            max_length=width,
            stride=stride,
            return_overflowing_tokens=True,
            details=True,
        )
        names = ("ids", "offsets", "word_ids", "sequence_ids")
        fields = {name: encoding.packed_field(name) for name in names}
        bounds, sample = encoding.packed_field("cu_seqlens"), encoding.packed_field("sample")
        found: list[list[dict[str, Any]]] = [[] for _ in pairs]
        nothing = [1000000.0] * len(pairs)  # the least probability of "no answer" among a context's parts
        for first, stop, (starts, ends) in self.run(encoding, batch_size):
            for row in range(first, stop):
                tokens = slice(int(bounds[row]), int(bounds[row + 1]))
                length, number = tokens.stop - tokens.start, int(sample[row])
                part = {name: field[tokens] for name, field in fields.items()}
                null = self._read(
                    found[number],
                    pairs[number][1],
                    part,
                    starts[row - first, :length],
                    ends[row - first, :length],
                    options,
                )
                nothing[number] = min(nothing[number], null)
        for number, answers in enumerate(found):
            if options["handle_impossible_answer"]:
                answers.append({"score": nothing[number], "start": 0, "end": 0, "answer": ""})
            answers.sort(key=lambda answer: -float(answer["score"]))
            del answers[options["top_k"] :]
        return found

    def _read(
        self,
        answers: list[dict[str, Any]],
        context: str,
        part: dict[str, Any],
        start: Array,
        end: Array,
        options: dict[str, Any],
    ) -> float:
        """Add the best spans of one part to the answers; return the probability that there is none."""
        allowed = part["sequence_ids"] == 1
        allowed |= part["ids"] == self.tokenizer.cls_token_id
        start, end = (_probabilities(np.where(allowed, logits, _MASKED)) for logits in (start, end))
        null = float(start[0] * end[0])
        start[0] = end[0] = 0.0
        count = options["top_k"] * 2 + 10 if options["align_to_words"] else options["top_k"]
        for s, e, score in _best_spans(start, end, count, options["max_answer_len"], allowed):
            first, last = _characters(part, s, e, options["align_to_words"])
            text = context[first:last]
            same = next((a for a in answers if a["answer"].lower() == text.lower()), None)
            if same is not None:
                same["score"] += score
            else:
                answers.append({"score": score, "start": first, "end": last, "answer": text})
        return null


def _probabilities(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum(), dtype=np.float32)


def _best_spans(
    start: Array, end: Array, count: int, longest: int, allowed: npt.NDArray[np.bool_]
) -> list[tuple[int, int, float]]:
    """The ``count`` likeliest spans of at most ``longest`` tokens, best first, then without the forbidden ones."""
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)
    flat = scores.reshape(-1)
    if count == 1:
        order = np.array([int(flat.argmax())])
    elif len(flat) < count:
        order = np.argsort(-flat)
    else:
        order = np.argpartition(-flat, count)[:count] if len(flat) > count else np.arange(len(flat))
        order = order[np.argsort(-flat[order])]
    spans = [divmod(int(at), len(end)) for at in order]
    return [(s, e, float(scores[s, e])) for s, e in spans if allowed[s] and allowed[e]]


def _characters(part: dict[str, Any], s: int, e: int, align: bool) -> tuple[int, int]:
    """Where the tokens ``s`` to ``e`` begin and end in the context; with ``align`` their whole words."""
    offsets, words = part["offsets"], part["word_ids"]
    if align and words[s] >= 0 and words[e] >= 0:
        inside = part["sequence_ids"] == 1
        first = np.flatnonzero(inside & (words == words[s]))
        last = np.flatnonzero(inside & (words == words[e]))
        if len(first) and len(last):
            return int(offsets[first[0], 0]), int(offsets[last[-1], 1])
    return int(offsets[s, 0]), int(offsets[e, 1])


def _pairs(examples: tuple[Any, ...], question: Any, context: Any) -> list[tuple[str, str]]:
    """Questions with their contexts, from every form in which they may come."""
    items: list[Any]
    if examples:
        if len(examples) == 2 and all(isinstance(item, str) for item in examples):
            items = [{"question": examples[0], "context": examples[1]}]
        elif len(examples) == 1:
            items = [examples[0]] if isinstance(examples[0], Mapping) else list(examples[0])
        else:
            items = list(examples)
    elif question is None or context is None:
        raise ValueError("question-answering needs question= and context=")
    elif isinstance(question, str):
        items = [{"question": question, "context": context}]
    else:
        contexts = [context] * len(question) if isinstance(context, str) else list(context)
        if len(contexts) != len(question):
            raise ValueError(f"{len(question)} questions for {len(contexts)} contexts: expected as many")
        items = [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]
    pairs = []
    for row, item in enumerate(items):
        if not isinstance(item, Mapping) or not {"question", "context"} <= set(item):
            raise TypeError(f"row {row}: expected a dict with question and context")
        for name in ("question", "context"):
            if not isinstance(item[name], str):
                raise TypeError(f"row {row}: {name} is {type(item[name]).__name__}, expected str")
            if not item[name]:
                raise ValueError(f"row {row}: {name} is empty")
        pairs.append((item["question"], item["context"]))
    return pairs
