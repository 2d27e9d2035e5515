"""Embedded example data: clothing reviews written by a small seeded grammar of our own.

``make run`` and the notebooks train on them, so that nothing has to be downloaded.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

__all__ = ["make_reviews", "write_reviews"]

_ITEMS = [
    "dress", "sweater", "skirt", "pair of jeans", "blouse", "jacket", "cardigan", "jumpsuit", "tunic",
    "coat", "tee", "pair of trousers", "romper", "vest",
]  # fmt: skip
_COLOURS = ["navy", "black", "ivory", "mustard", "olive", "red", "grey", "teal", "blush", "striped"]
_OPENINGS = [
    "I ordered this {colour} {item} {when}.",
    "Bought the {colour} {item} {when}.",
    "This {item} caught my eye {when}.",
    "I tried the {colour} {item} on in the store {when}.",
    "My sister has this {item}, so I got the {colour} one {when}.",
]
_WHEN = ["last week", "for a wedding", "on sale", "for work", "before a trip", "in my usual size", "online"]
# Opinions by label, 0 (worst) to 4 (best); neighbours share words, so the task is not trivial.
_OPINIONS = [
    [
        "it fell apart after one wash", "the fabric is cheap and scratchy", "the seams ripped the first day",
        "I returned it right away", "it looks nothing like the picture", "a complete waste of money",
        "the zipper broke at once", "terrible quality, do not buy it",
    ],
    [
        "the cut is boxy and unflattering", "it is much too thin for the price", "the sleeves are oddly short",
        "I was disappointed by the material", "it wrinkles badly and rides up", "I will probably return it",
        "the colour faded after two washes", "it runs far too small",
    ],
    [
        "it is okay, but nothing special", "the fit is fine and the fabric is thin", "I like the colour, less the cut",
        "it is decent for the price", "it works with a belt, otherwise it is shapeless",
        "I am not sure whether to keep it", "nice idea, average quality", "the length is a bit awkward on me",
    ],
    [
        "it fits well and feels soft", "I like it, though it runs a little large", "the colour is lovely in person",
        "comfortable and good for work", "the quality is good, the hem is a bit long",
        "it is pretty and easy to wear", "I would buy it again on sale", "nice drape and a flattering neckline",
    ],
    [
        "I absolutely love it", "it fits perfectly and I get compliments every time",
        "gorgeous, soft and beautifully made",
        "the most flattering thing in my closet", "perfect length, perfect colour, perfect fit",
        "I bought a second one at once", "stunning in person and so comfortable", "worth every penny",
    ],
]  # fmt: skip
_CLOSINGS = [
    "I am {height} and took a {size}.", "I usually wear a {size}.", "The {size} was right for me.",
    "Hope this helps!", "It pairs well with boots.", "", "", "",
]  # fmt: skip
_HEIGHTS = ["5'2\"", "5'4\"", "5'6\"", "5'8\"", "petite", "tall"]
_SIZES = ["xs", "s", "m", "l", "size 4", "size 8", "size 12"]
_WEIGHTS = [6, 9, 14, 23, 48]  # per cent, close to what real shops see


def make_reviews(rows: int, seed: int = 0) -> list[tuple[str, int]]:
    """Make ``rows`` reviews with labels 0 to 4.

    Parameters
    ----------
    rows
        How many.
    seed
        Same seed, same reviews.

    Returns
    -------
    list of (text, label)
        About a tenth of the opinions come from a neighbouring label, so no model reaches 100 %.
    """
    draw = random.Random(seed)
    reviews = []
    for _ in range(rows):
        label = draw.choices(range(5), _WEIGHTS)[0]
        words = {
            "item": draw.choice(_ITEMS), "colour": draw.choice(_COLOURS), "when": draw.choice(_WHEN),
            "height": draw.choice(_HEIGHTS), "size": draw.choice(_SIZES),
        }  # fmt: skip
        sentences = [draw.choice(_OPENINGS).format(**words)]
        for opinion in draw.sample(range(8), draw.randint(1, 3)):
            shade = label
            if draw.random() < 0.1:
                shade = min(4, max(0, label + draw.choice((-1, 1))))
            text = _OPINIONS[shade][opinion]
            sentences.append(text[0].upper() + text[1:] + draw.choice([".", ".", ".", "!"]))
        closing = draw.choice(_CLOSINGS).format(**words)
        reviews.append((" ".join([*sentences, closing]).strip(), label))
    return reviews


def write_reviews(path: str | Path, rows: int, seed: int = 0) -> Path:
    """Write :func:`make_reviews` as CSV with the header ``text,label`` (RFC 4180)."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(make_reviews(rows, seed))
    return target
