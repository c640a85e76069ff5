"""Scores of captions (relevance and readability) and of retrieval. Captions are compared as `data.tokens.words`.

BLEU-1..4, ROUGE-L and CIDEr are those of pycocoevalcap, in percent.
"""

import contextlib
import io
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from data.tokens import words


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores in percent of `captions[i]` against the sentences `references[i]`."""
    found = {i: [" ".join(words(caption)) or "empty"] for i, caption in enumerate(captions)}
    wanted = {i: [" ".join(words(reference)) for reference in group] for i, group in enumerate(references)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu = Bleu(4).compute_score(wanted, found)[0]
        cider = Cider().compute_score(wanted, found)[0]
        rouge = Rouge().compute_score(wanted, found)[0]
    return ({f"BLEU-{n + 1}": 100 * value for n, value in enumerate(bleu)}
            | {"CIDEr": 100 * float(cider), "ROUGE-L": 100 * float(rouge)})


def repeats(caption: str) -> bool:
    """Whether a sequence of two or more words occurs twice, or one word twice in a row, as in the column `caption_repeats`."""
    said = re.findall(r"[^\W_]+", re.sub("['\u2019]", "", caption.lower()))
    pairs = list(pairwise(said))
    # a longer sequence that occurs twice begins with two words that do
    return len(set(pairs)) < len(pairs) or any(first == second for first, second in pairs)


def distinct(captions: Sequence[str], n: int) -> float:
    """Different n-grams in percent of all n-grams: Li et al., *A Diversity-Promoting Objective Function*, 2016."""
    grams = [gram for said in map(words, captions) for gram in zip(*(said[i:] for i in range(n)))]
    return 100 * len(set(grams)) / max(1, len(grams))


def readability(captions: Sequence[str], training_captions: Sequence[str]) -> dict[str, float]:
    """How varied captions are, and how many repeat themselves or are no training caption, in percent; and their words."""
    known = {" ".join(words(caption)) for caption in training_captions}
    count = max(1, len(captions))
    return {"distinct-1": distinct(captions, 1), "distinct-2": distinct(captions, 2),
            "repeat": 100 * sum(map(repeats, captions)) / count,
            "novel": 100 * sum(" ".join(words(caption)) not in known for caption in captions) / count,
            "words": sum(len(words(caption)) for caption in captions) / count}


def recalls(images: np.ndarray, texts: np.ndarray, owners: np.ndarray, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall in percent. `owners[t]` is the row of `images` that `texts[t]` describes; rows are L2-normalised.

    Image to text: an image counts if any of its own texts is among the k nearest.
    """
    scores, owners = images @ texts.T, np.asarray(owners)
    best_own = np.where(owners[None, :] == np.arange(len(images))[:, None], scores, -np.inf).max(1)
    to_text = (scores > best_own[:, None]).sum(1)
    to_image = (scores > scores[owners, np.arange(len(texts))][None, :]).sum(0)
    return ({f"i2t R@{k}": 100 * float((to_text < k).mean()) for k in ranks}
            | {f"t2i R@{k}": 100 * float((to_image < k).mean()) for k in ranks})
