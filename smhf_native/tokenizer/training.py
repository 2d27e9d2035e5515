"""WordPiece vocabularies learnt from texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from smhf_native.tokenizer import _tokenizer
from smhf_native.tokenizer.tokenizer import Tokenizer, _as_texts

__all__ = ["train_wordpiece"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(
    texts: Any,
    vocab_size: int = 30_000,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    progress: Callable[[int, int], object] | None = None,
    model_max_length: int | None = 512,
) -> Tokenizer:
    """Learn a WordPiece vocabulary as the package ``tokenizers`` does: most frequent pair first.

    Parameters
    ----------
    texts : list, tuple, ndarray or Series of str
    vocab_size : int
        Tokens wanted, special ones included; fewer when the texts hold no more.
    lowercase : bool
        Lower-case and strip accents before counting.
    min_frequency : int
        A pair seen fewer times is not merged.
    limit_alphabet : int
        Characters kept, the most frequent ones.
    special_tokens : sequence of str
        The first ids, in this order.
    progress : callable, optional
        Called with (tokens so far, tokens wanted).
    model_max_length : int, optional
        Of the tokenizer returned.

    Returns
    -------
    Tokenizer
        ``list(tok.get_vocab())`` is the vocabulary in order of id.  The same texts and options
        always give the same vocabulary.
    """
    specials = [token.encode() for token in special_tokens]
    text = _tokenizer.train_wordpiece(
        list(_as_texts(texts, "texts")),
        vocab_size,
        min_frequency,
        limit_alphabet,
        lowercase,
        specials,
        progress,
    )
    tokens = text.split("\n")[:-1]
    return Tokenizer.from_vocab(tokens, do_lower_case=lowercase, model_max_length=model_max_length)
