"""WordPiece vocabularies learnt from texts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from smhf_native.tokenizer import _tokenizer
from smhf_native.tokenizer.tokenizer import Tokenizer, _as_texts

__all__ = ["train_wordpiece"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_READING, _MERGING = 0, 1
_UNITS = {_READING: ("reading", "text"), _MERGING: ("merging", "token")}


class _Progress:
    """Bars of tqdm, one a phase; without tqdm a line every few seconds."""

    def __init__(self) -> None:
        self._phase = -1
        self._began = self._shown = time.monotonic()
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            tqdm = None
        self._make = tqdm

    def __call__(self, phase: int, done: int, total: int) -> None:
        now = time.monotonic()
        name, unit = _UNITS[phase]
        if phase != self._phase:
            self.close()
            self._phase, self._began, self._shown = phase, now, now
            if self._make is not None:
                self._bar = self._make(total=total, desc=name, unit=unit, dynamic_ncols=True)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif now - self._shown > 2.0:
            self._shown = now
            left = (total - done) * (now - self._began) / max(done, 1)
            print(f"{name}: {done} of {total} {unit}s, {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def train_wordpiece(
    texts: Any,
    vocab_size: int = 30_000,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    progress: bool | Callable[[int, int], object] | None = None,
    model_max_length: int | None = 512,
) -> Tokenizer:
    """Learn a WordPiece vocabulary as the package ``tokenizers`` does: most frequent pair first.

    Parameters
    ----------
    texts : list, tuple, ndarray, pandas Series, pyarrow array, iterable of str
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
    progress : bool or callable, optional
        True shows a bar (``tqdm`` when installed, else a line every few seconds) on stderr; a callable
        is called with (tokens so far, tokens wanted).
    model_max_length : int, optional
        Of the tokenizer returned.

    Returns
    -------
    Tokenizer
        ``list(tok.get_vocab())`` is the vocabulary in order of id.  The same texts and options
        always give the same vocabulary, whatever the number of threads.

    Raises
    ------
    TypeError, ValueError
        A row is not a text, or holds a lone surrogate; it is named.
    KeyboardInterrupt
        Ctrl-C is heard while texts are read and while pairs are merged.
    """
    shown = _Progress() if progress is True else None
    report: Callable[[int, int, int], object] | None = shown
    if callable(progress):
        call = progress

        def report(phase: int, done: int, total: int) -> None:
            call(done if phase == _MERGING else 0, vocab_size)

    specials = [token.encode() for token in special_tokens]
    try:
        text = _tokenizer.train_wordpiece(
            _as_texts(texts, "texts"),
            vocab_size,
            min_frequency,
            limit_alphabet,
            lowercase,
            specials,
            report,
        )
    finally:
        if shown is not None:
            shown.close()
    tokens = text.split("\n")[:-1]
    return Tokenizer.from_vocab(tokens, do_lower_case=lowercase, model_max_length=model_max_length)
