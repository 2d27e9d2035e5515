"""Write csrc/tokenizer/unicode_tables.h from what the package `tokenizers` does to every code point.

    python tools/gen_unicode_tables.py [--check]

The tables of `tokenizers` mix three versions of Unicode (categories 8.0, decomposition 9.0,
lower case and \\w of its toolchain), so no published data file gives its answers. Here each of the
1,112,064 scalar values is passed through single stages of the library and the answers are packed.
``--check`` compares with the committed header instead of writing it.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

TARGET = Path(__file__).resolve().parent.parent / "csrc" / "tokenizer" / "unicode_tables.h"
BLOCK_BITS = 7
BLOCK = 1 << BLOCK_BITS

# Order of bits in a property word; the low 6 bits are the rank of the combining class.
FLAGS = ["DELETE", "TO_SPACE", "CJK", "MN", "PUNCT", "WHITESPACE", "WORD", "DECOMPOSES", "LOWERS"]

HANGUL = range(0xAC00, 0xAC00 + 11172)


def scalars() -> list[int]:
    """All Unicode scalar values."""
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def bert(**on: bool) -> normalizers.BertNormalizer:
    """A BertNormalizer with only the named stages."""
    options = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**options, **on})


def clean_classes(codes: list[int]) -> tuple[set[int], set[int]]:
    """Code points that clean_text deletes, and those it turns into a space."""
    deleted, spaced = set(), set()
    normalize = bert(clean_text=True).normalize_str
    for c in codes:
        result = normalize("a" + chr(c) + "b")
        if result == "ab":
            deleted.add(c)
        elif result == "a b":
            spaced.add(c)
        elif result != "a" + chr(c) + "b":
            raise ValueError(f"clean_text: U+{c:04X} became {result!r}")
    return deleted, spaced


def cjk_set(codes: list[int]) -> set[int]:
    """Code points that handle_chinese_chars puts between spaces."""
    normalize = bert(handle_chinese_chars=True).normalize_str
    return {c for c in codes if normalize("a" + chr(c) + "b") == f"a {chr(c)} b"}


def decompositions(codes: list[int]) -> dict[int, list[int]]:
    """Full canonical decompositions that differ from the character itself."""
    normalize = normalizers.NFD().normalize_str
    found = {}
    for c in codes:
        result = [ord(x) for x in normalize("a" + chr(c) + "b")][1:-1]
        if result != [c]:
            found[c] = result
    return found


def hangul(c: int) -> list[int]:
    """Arithmetic decomposition of a Hangul syllable (Unicode 3.12)."""
    index = c - 0xAC00
    parts = [0x1100 + index // 588, 0x1161 + index % 588 // 28]
    return parts + ([0x11A7 + index % 28] if index % 28 else [])


def combining_ranks(codes: list[int], decomposed: dict[int, list[int]]) -> dict[int, int]:
    """Rank of the combining class per code point, by watching which neighbours NFD swaps."""
    normalize = normalizers.NFD().normalize_str
    classes: dict[int, str] = {}
    for c in (x for x in codes if 0x300 <= x < 0x20000):
        value = unicodedata.combining(chr(c))
        swapped = normalize("\u0345" + chr(c)) != "\u0345" + chr(c)
        if value and value not in classes and c not in decomposed and (swapped or value == 240):
            classes[value] = chr(c)
    order = sorted(classes)
    ranks = {}
    for c in codes:
        if c in decomposed:
            continue
        x = chr(c)
        if normalize("\u0345" + x) == "\u0345" + x and normalize(x + "\u0334") == x + "\u0334":
            continue
        for rank, value in enumerate(order, 1):
            y = classes[value]
            if x == y or (normalize(x + y) == x + y and normalize(y + x) == y + x):
                ranks[c] = rank
                break
        else:
            raise ValueError(f"U+{c:04X}: combining class between the known ones")
    return ranks


def mn_set(codes: list[int], decomposed: dict[int, list[int]]) -> set[int]:
    """Code points that strip_accents drops."""
    normalize = bert(strip_accents=True).normalize_str
    return {c for c in codes if c not in decomposed and normalize("a" + chr(c) + "b") == "ab"}


def lower_map(codes: list[int]) -> dict[int, list[int]]:
    """Lower-case mappings that change the character."""
    normalize = bert(lowercase=True).normalize_str
    found = {}
    for c in codes:
        result = [ord(x) for x in normalize("a" + chr(c) + "b")][1:-1]
        if result != [c]:
            found[c] = result
    return found


def pretokenizer_classes(codes: list[int]) -> tuple[set[int], set[int]]:
    """Code points that BertPreTokenizer isolates, and those it splits at and drops."""
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    punct, space = set(), set()
    for c in codes:
        count = len(split("a" + chr(c) + "b"))
        if count == 3:
            punct.add(c)
        elif count == 2:
            space.add(c)
    return punct, space


def regex_classes(codes: list[int]) -> tuple[set[int], set[int]]:
    r"""Code points that the library's regex engine counts as \w and as \s, seen through added tokens."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.add_tokens([
        AddedToken("<w>", single_word=True, normalized=False),
        AddedToken("<l>", lstrip=True, normalized=False),
    ])  # fmt: skip
    w_id, l_id = tokenizer.token_to_id("<w>"), tokenizer.token_to_id("<l>")
    word, space = set(), set()
    for begin in range(0, len(codes), 50_000):
        part = codes[begin : begin + 50_000]
        for c, e in zip(part, tokenizer.encode_batch([chr(c) + "<w>" for c in part]), strict=True):
            if w_id not in e.ids:
                word.add(c)
        for c, e in zip(part, tokenizer.encode_batch([chr(c) + "<l>" for c in part]), strict=True):
            if e.offsets[e.ids.index(l_id)][0] == 0:
                space.add(c)
    return word, space


def format_array(ctype: str, name: str, values: list[int], hexadecimal: bool = False) -> str:
    """A static const C array, wrapped at 100 columns."""
    words = [(f"0x{v:X}" if hexadecimal else str(v)) for v in values]
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    return f"static const {ctype} {name}[{len(values)}] = {{\n" + "\n".join(lines) + "\n};\n"


def generate() -> str:
    """The text of the header."""
    codes = scalars()
    decomposed = decompositions(codes)
    for c in HANGUL:
        if decomposed.pop(c) != hangul(c):
            raise ValueError(f"U+{c:04X}: not the arithmetic Hangul decomposition")
    deleted, spaced = clean_classes(codes)
    cjk = cjk_set(codes)
    marks = mn_set(codes, decomposed)
    lowers = lower_map(codes)
    punct, space = pretokenizer_classes(codes)
    word, regex_space = regex_classes(codes)
    if regex_space != space:
        raise ValueError(rf"\s and White_Space differ: {sorted(regex_space ^ space)}")
    ranks = combining_ranks(codes, {**decomposed, **{c: hangul(c) for c in HANGUL}})

    sets = [deleted, spaced, cjk, marks, punct, space, word, set(decomposed), set(lowers)]
    props = [0] * 0x110000
    for bit, members in enumerate(sets):
        for c in members:
            props[c] |= 1 << (6 + bit)
    for c, rank in ranks.items():
        props[c] |= rank
    blocks: dict[tuple[int, ...], int] = {}
    index = [blocks.setdefault(tuple(props[b : b + BLOCK]), len(blocks)) for b in range(0, 0x110000, BLOCK)]
    flat = [value for block in blocks for value in block]

    pool: list[int] = []
    starts = []
    for c in sorted(decomposed):
        starts.append(len(pool) << 3 | len(decomposed[c]))
        pool += decomposed[c]
    single = {c: to[0] for c, to in lowers.items() if len(to) == 1}
    double = {c: to for c, to in lowers.items() if len(to) != 1}
    if double != {0x130: [0x69, 0x307]}:
        raise ValueError(f"unexpected one-to-many lower case: {double}")

    enum = "\n".join(f"#define SMHF_PROP_{name} 0x{1 << (6 + bit):X}u" for bit, name in enumerate(FLAGS))
    kept = sum(1 for c in ranks if c not in marks)
    counts = f"{len(deleted):,} deleted, {len(spaced)} to space, {len(cjk):,} CJK, {len(marks):,} Mn"
    where = f"smhf_unicode_props[smhf_unicode_index[c >> {BLOCK_BITS}] << {BLOCK_BITS} | (c & {BLOCK - 1})]"
    return f"""\
/* unicode_tables.h: written by tools/gen_unicode_tables.py from tokenizers {tokenizers.__version__}. Do not edit.
 *
 * Properties of a code point c: {where}.
 * {counts}, {len(punct)} punctuation, {len(space)} white space,
 * {len(word):,} word, {len(decomposed):,} decompositions (Hangul is arithmetic), {len(lowers):,} lower-case mappings,
 * {len(ranks)} with a combining class ({kept} of them not Mn).
 */
#ifndef SMHF_UNICODE_TABLES_H
#define SMHF_UNICODE_TABLES_H

#include <stdint.h>

#define SMHF_UNICODE_BLOCK_BITS {BLOCK_BITS}
#define SMHF_UNICODE_INDEX_SIZE {len(index)}
#define SMHF_UNICODE_BLOCKS {len(blocks)}
#define SMHF_PROP_RANK 0x3Fu /* order of the combining class; 0: starter */
{enum}

{format_array("uint8_t" if len(blocks) <= 256 else "uint16_t", "smhf_unicode_index", index)}
{format_array("uint16_t", "smhf_unicode_props", flat)}
/* Full canonical decomposition: code points in order; start << 3 | length into the pool. */
#define SMHF_UNICODE_DECOMPOSITIONS {len(decomposed)}
{format_array("uint32_t", "smhf_unicode_decomposition_from", sorted(decomposed), True)}
{format_array("uint16_t", "smhf_unicode_decomposition_start", starts)}
{format_array("uint32_t", "smhf_unicode_decomposition_pool", pool, True)}
/* Lower case, one to one; the only other one is U+0130 to U+0069 U+0307. */
#define SMHF_UNICODE_LOWERS {len(single)}
{format_array("uint32_t", "smhf_unicode_lower_from", sorted(single), True)}
{format_array("uint32_t", "smhf_unicode_lower_to", [single[c] for c in sorted(single)], True)}
#endif
"""


def main() -> int:
    """Write the header, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = generate()
    if args.check:
        same = TARGET.read_text() == text
        print("unicode_tables.h is up to date" if same else "unicode_tables.h differs from the library")
        return 0 if same else 1
    TARGET.write_text(text)
    print(f"wrote {TARGET.name}: {len(text):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
