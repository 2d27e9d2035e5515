"""BERT WordPiece tokenizers, exactly as the package ``tokenizers`` (0.22.2 = 0.23.3) computes them.

>>> import smhf_native as smhf
>>> tok = smhf.Tokenizer.from_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wide", "##r"])
>>> enc = tok(["Wider", "wide wide"], padding=True)
>>> enc.input_ids.tolist()
[[2, 5, 6, 3], [2, 5, 5, 3]]
>>> tok.decode(enc.input_ids[0], skip_special_tokens=True)
'wider'
"""

from __future__ import annotations

from smhf_native.tokenizer.encoding import Encoding
from smhf_native.tokenizer.tokenizer import AddedToken, Tokenizer
from smhf_native.tokenizer.training import train_wordpiece

__all__ = ["AddedToken", "Encoding", "Tokenizer", "train_wordpiece"]
