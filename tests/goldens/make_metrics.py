#!/usr/bin/env python3
"""Makes metrics.json: captions with references, vectors of images and texts, and their scores by `jobs/train/metrics.py`.

In:  nothing but the seed below.
Out: metrics.json beside this script.
     Python packages: numpy, pycocoevalcap 1.2, tokenizers (jobs/train/requirements.txt).
"""

import json
import random
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "jobs/train"))

import metrics  # noqa: E402

WHO = ["a man", "two men", "a woman in a red shirt", "a brown dog", "the children", "a dog's owner", "people"]
DOES = ["runs", "is running", "jumps over a log", "plays with a ball", "is playing the guitar", "sits", "looks at the camera"]
WHERE = ["on the beach", "in the snow", "in a field of grass", "near the water", "on a street", "at night", ""]
# Captions that other rules would split in another way, or that have no words at all.
ODD = ["", "- - -", "dog", "a a a a a a", "A man, in a red T-shirt!", "the dog 's ball isn't 'new'", "Café_au lait, CAFÉ AU LAIT",
       "a red shirt and a red shirt", "犬が走る, 犬が走る", "3.5 of 10 ½", "the man’s dog and the mans dog", "ΟΔΟΣ straße İstanbul"]


def sentence(dice: random.Random) -> str:
    words = f"{dice.choice(WHO)} {dice.choice(DOES)} {dice.choice(WHERE)}".split()
    if dice.random() < 0.3:
        words.insert(dice.randrange(len(words)), dice.choice(["very", "black", "and", "small"]))
    if dice.random() < 0.1:
        words += words[-3:]
    return " ".join(words).capitalize() + dice.choice(["", ".", " ."])


def case(captions: list[str], references: list[list[str]]) -> dict:
    scores = metrics.caption_scores(captions, references) | metrics.readability(captions, sum(references, []))
    scores |= {f"distinct-{n}": metrics.distinct(captions, n) for n in (3, 4)}
    return {"captions": captions, "references": references, "scores": scores}


def retrieval(dice: np.random.Generator) -> dict:
    owners = np.repeat(np.arange(40), dice.integers(1, 6, 40))
    images = dice.normal(size=(40, 24)).astype(np.float32)
    texts = images[owners] + 3 * dice.normal(size=(len(owners), 24)).astype(np.float32)
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    # Numbers that are short in a file.
    images, texts = (np.round(rows, 4).astype(np.float32) for rows in (images, texts))
    images[7] = images[3]  # equal images are a tie
    scores = metrics.recalls(images, texts, owners) | medians(images, texts, owners)
    return {"images": short(images), "texts": short(texts), "owners": owners.tolist(), "scores": scores}


def short(rows: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in rows]


def medians(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> dict[str, float]:
    """The median ranks, counted from 1, with the ties of `metrics.recalls`."""
    scores = images @ texts.T
    own = [max(scores[i, t] for t in np.flatnonzero(owners == i)) for i in range(len(images))]
    to_text = [1 + sum(scores[i] > own[i]) for i in range(len(images))]
    to_image = [1 + sum(scores[:, t] > scores[owner, t]) for t, owner in enumerate(owners)]
    return {"i2t median rank": float(np.median(to_text)), "t2i median rank": float(np.median(to_image))}


def main() -> None:
    dice = random.Random(7)
    captions = ODD + [sentence(dice) for _ in range(60)]
    references = [[sentence(dice) for _ in range(dice.randint(1, 5))] for _ in captions]
    references[2], references[3], references[8] = ["--", "a dog"], ["a a b"], ["犬が走る"]
    usual = case(captions[len(ODD):], references[len(ODD):])
    # With one row, no n-gram is rarer than another, and CIDEr is 0.
    cases = [usual, case(captions, references), case(["a dog"], [["a dog", "the dog runs"]]), case(["", "b"], [["a"], ["."]])]
    golden = {"cases": cases, "retrieval": retrieval(np.random.default_rng(3))}
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (HERE / "metrics.json").write_text(text.replace('],"', '],\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
