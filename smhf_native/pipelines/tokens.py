"""``pipeline("token-classification")`` (or ``"ner"``): the entities of texts, with the rules of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smhf_native.pipelines.base import Pipeline, as_rows, softmax

__all__ = ["STRATEGIES", "TokenClassificationPipeline"]

STRATEGIES = ("none", "simple", "first", "average", "max")
# What the WordPiece decoder closes up, token by token, in this order.
_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class _Piece(NamedTuple):
    """A token (or a word made of some) and what the model says of it."""

    word: str
    scores: npt.NDArray[np.float32]  # softmax over the labels
    start: int
    end: int
    place: int  # in its row
    is_subword: bool


class _Tagged(NamedTuple):
    """A token or word with its label."""

    entity: str
    score: float
    word: str
    start: int
    end: int
    place: int


class TokenClassificationPipeline(Pipeline):
    """Labels of tokens, or entities made of them.

    Parameters
    ----------
    aggregation_strategy : what becomes of tokens.
        "none" (default): each token by itself.  "simple": neighbours of one label are one entity (``B-`` begins
        another one).  The others first make words agree: "first" takes the label of a word's first token,
        "average" the best of the mean scores, "max" that of the surest token
    ignore_labels : labels that are left out; default ``["O"]``
    stride : read texts of any length in parts that share this many tokens; needs a strategy
    is_split_into_words, delimiter : texts are lists of words; positions count in the words joined by the delimiter
    """

    task = "token-classification"
    model_task = "token-classification"

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        return {
            "aggregation_strategy": "none",
            "ignore_labels": ["O"],
            "stride": None,
            "is_split_into_words": False,
            "delimiter": " ",
        }

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call, checked."""
        options = super().settings({k: v for k, v in given.items() if v is not None}, what)
        strategy = options["aggregation_strategy"]
        strategy = str(getattr(strategy, "value", strategy)).lower()
        if strategy not in STRATEGIES:
            raise ValueError(
                f"aggregation_strategy={options['aggregation_strategy']!r} is not one of {', '.join(STRATEGIES)}"
            )
        options["aggregation_strategy"] = strategy
        stride = options["stride"]
        if stride is not None:
            if not 0 <= stride < self.model_max_length:
                raise ValueError(
                    f"stride={stride} must be less than the model's {self.model_max_length} tokens"
                )
            if strategy == "none":
                raise ValueError("stride needs an aggregation_strategy other than none: parts overlap")
        return options

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **given: Any) -> Any:
        """Find the entities of one text or many.

        Parameters
        ----------
        inputs : a str or an iterable of str; with ``is_split_into_words`` a list of words or a list of such lists
        given : the options of the class

        Returns
        -------
        list of dicts (for many texts a list of lists): ``entity`` (``entity_group`` with a strategy), ``score``,
        ``word`` (as the tokenizer spells it), ``start`` and ``end`` (characters of the text), and ``index`` of the
        token without a strategy.
        """
        options = self.settings(given)
        word_starts: list[list[int]] | None = None
        rows: list[Any]
        if options["is_split_into_words"]:
            rows, single = _as_words(inputs)
            delimiter = str(options["delimiter"])
            texts = [delimiter.join(words) for words in rows]
            word_starts = [_starts(words, len(delimiter)) for words in rows]
        else:
            rows, single = as_rows(inputs)
            texts = rows
        answers: list[list[dict[str, Any]]] = [[] for _ in texts]
        if texts:
            self._fill(answers, rows, texts, word_starts, options, batch_size)
        return answers[0] if single else answers

    def _fill(
        self,
        answers: list[list[dict[str, Any]]],
        rows: list[Any],
        texts: list[str],
        word_starts: list[list[int]] | None,
        options: dict[str, Any],
        batch_size: int | None,
    ) -> None:
        overflow = options["stride"] is not None
        encoding = self.tokenizer(
            rows,
            truncation=True,
            max_length=self.model_max_length,
            stride=options["stride"] or 0,
            return_overflowing_tokens=overflow,
            is_split_into_words=word_starts is not None,
            details=True,
        )
        fields = {
            name: encoding.packed_field(name) for name in ("ids", "offsets", "word_ids", "special_mask")
        }
        bounds, sample = encoding.packed_field("cu_seqlens"), encoding.packed_field("sample")
        parts = np.bincount(sample, minlength=len(texts))
        if not overflow:
            self.truncated += int(encoding.truncated.sum())
        ignored = set(options["ignore_labels"])
        strategy = options["aggregation_strategy"]
        for first, stop, logits in self.run(encoding, batch_size):
            for row in range(first, stop):
                tokens = slice(int(bounds[row]), int(bounds[row + 1]))
                number = int(sample[row])
                pieces = self._pieces(
                    texts[number],
                    {name: field[tokens] for name, field in fields.items()},
                    softmax(logits[row - first, : tokens.stop - tokens.start]),
                    None if word_starts is None else word_starts[number],
                )
                found = self._entities(pieces, strategy)
                answers[number] += [
                    entity
                    for entity in found
                    if entity.get("entity", entity.get("entity_group")) not in ignored
                ]
        for number, entities in enumerate(answers):
            if parts[number] > 1:
                answers[number] = _without_overlaps(entities)

    def _pieces(
        self, text: str, fields: dict[str, Any], scores: npt.NDArray[np.float32], starts: list[int] | None
    ) -> list[_Piece]:
        """The tokens of a row that stand for text."""
        pieces = []
        unknown = self.tokenizer.unk_token_id
        words = self.tokenizer.convert_ids_to_tokens(fields["ids"].tolist())
        for index in np.flatnonzero(fields["special_mask"] == 0).tolist():
            start, end = fields["offsets"][index].tolist()
            if starts is not None:
                start, end = (at + starts[int(fields["word_ids"][index])] for at in (start, end))
            word, there = words[index], text[start:end]
            if int(fields["ids"][index]) == unknown:
                word = there
            pieces.append(_Piece(word, scores[index], start, end, index, len(word) != len(there)))
        return pieces

    def _tag(self, scores: npt.NDArray[np.float32]) -> tuple[str, float]:
        best = int(scores.argmax())
        return self.id2label[best], float(scores[best])

    def _entities(self, pieces: list[_Piece], strategy: str) -> list[dict[str, Any]]:
        if strategy in ("none", "simple"):
            tagged = [_Tagged(*self._tag(p.scores), p.word, p.start, p.end, p.place) for p in pieces]
            if strategy == "none":
                return [
                    {
                        "entity": t.entity,
                        "score": t.score,
                        "index": t.place,
                        "word": t.word,
                        "start": t.start,
                        "end": t.end,
                    }
                    for t in tagged
                ]
        else:
            words: list[list[_Piece]] = []
            for piece in pieces:
                if words and piece.is_subword:
                    words[-1].append(piece)
                else:
                    words.append([piece])
            tagged = [self._word(word, strategy) for word in words]
        groups: list[list[_Tagged]] = []
        for item in tagged:
            begins, kind = _split_tag(item.entity)
            if groups and kind == _split_tag(groups[-1][-1].entity)[1] and not begins:
                groups[-1].append(item)
            else:
                groups.append([item])
        return [
            {
                "entity_group": group[0].entity.split("-", 1)[-1],
                "score": float(np.mean([np.float32(item.score) for item in group])),
                "word": join_words([item.word for item in group]),
                "start": group[0].start,
                "end": group[-1].end,
            }
            for group in groups
        ]

    def _word(self, pieces: list[_Piece], strategy: str) -> _Tagged:
        """One label for all tokens of a word."""
        if strategy == "first":
            scores = pieces[0].scores
        elif strategy == "max":
            scores = max(pieces, key=lambda piece: float(piece.scores.max())).scores
        else:
            scores = np.mean(np.stack([piece.scores for piece in pieces]), axis=0)
        word = join_words([piece.word for piece in pieces])
        return _Tagged(*self._tag(scores), word, pieces[0].start, pieces[-1].end, pieces[0].place)


def join_words(tokens: list[str]) -> str:
    """Return the text of WordPiece tokens as the decoder of ``tokenizers`` makes it."""
    parts = []
    for number, token in enumerate(tokens):
        part = token
        if number:
            part = token[2:] if token.startswith("##") else f" {token}"
        for old, new in _CLEANUP:
            part = part.replace(old, new)
        parts.append(part)
    return "".join(parts)


def _split_tag(entity: str) -> tuple[bool, str]:
    """Whether an entity begins here, and its kind; labels without ``B-`` or ``I-`` go on."""
    if entity.startswith(("B-", "I-")):
        return entity[0] == "B", entity[2:]
    return False, entity


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that two parts of a text share, keep the longer one, or the surer of equal ones."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda e: int(e["start"])):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            kept.append(entity)
            continue
        size, before = entity["end"] - entity["start"], last["end"] - last["start"]
        if size > before or (size == before and entity["score"] > last["score"]):
            kept[-1] = entity
    return kept


def _as_words(inputs: Any) -> tuple[list[list[str]], bool]:
    rows = list(inputs)
    single = bool(rows) and all(isinstance(item, str) for item in rows)
    rows = [rows] if single else [list(row) if isinstance(row, Iterable) else row for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(isinstance(word, str) for word in row):
            raise TypeError(f"row {number}: expected a list of words (is_split_into_words=True)")
    return rows, single


def _starts(words: list[str], gap: int) -> list[int]:
    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + gap
    return starts
