"""CIDEr of single captions, fast enough to be asked for in every step of training.

Vedantam, Zitnick and Parikh, *CIDEr*, 2015, in the variant CIDEr-D of pycocoevalcap, whose numbers these are. Document frequencies
are counted once, over the references.
"""

import math
from collections import Counter
from collections.abc import Sequence

from data.tokens import words

ORDERS, SIGMA = 4, 6.0
# The end of a caption as a word. Without it, training learns to stop after "in the" (Cornia et al., *Meshed-Memory Transformer*, 2020).
ENDING = "."

Gram = tuple[str, ...]
Vector = tuple[dict[Gram, float], list[float], int]


def ngrams(said: Sequence[str]) -> Counter[Gram]:
    """Counts of the sequences of one to four words."""
    return Counter(tuple(said[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(said) - n + 1))


class Cider:
    """Scores against `references[i]`, the captions of image i; 10 is a perfect score."""

    def __init__(self, references: Sequence[Sequence[str]], ending: bool = False):
        self.tail = [ENDING] if ending else []
        self.references = references
        self.vectors: dict[int, list[Vector]] = {}
        frequency = Counter(gram for group in references
                            for gram in {gram for caption in group for gram in ngrams(self._words(caption))})
        self.most = math.log(len(references))
        self.weights = {gram: self.most - math.log(count) for gram, count in frequency.items()}

    def _words(self, caption: str) -> list[str]:
        return words(caption) + self.tail

    def _vector(self, said: list[str]) -> Vector:
        """tf-idf of the n-grams, the norm of each order, and the number of word pairs, which is how CIDEr-D counts length."""
        weighted = {gram: count * self.weights.get(gram, self.most) for gram, count in ngrams(said).items()}
        norms = [0.0] * ORDERS
        for gram, value in weighted.items():
            norms[len(gram) - 1] += value * value
        return weighted, [math.sqrt(norm) for norm in norms], max(0, len(said) - 1)

    def score(self, image: int, caption: str, without: int | None = None) -> float:
        """The score of a caption of `image`. Its reference number `without` was the side text, so it does not count."""
        if image not in self.vectors:
            self.vectors[image] = [self._vector(self._words(reference)) for reference in self.references[image]]
        found, norms, length = self._vector(self._words(caption))
        references = [vector for at, vector in enumerate(self.vectors[image]) if at != without]
        total = 0.0
        for wanted, wanted_norms, wanted_length in references:
            products = [0.0] * ORDERS
            for gram, value in found.items():
                if gram in wanted:
                    products[len(gram) - 1] += min(value, wanted[gram]) * wanted[gram]
            near = math.exp(-((length - wanted_length) ** 2) / (2 * SIGMA**2))
            total += near * sum(p / (a * b) if a and b else p for p, a, b in zip(products, norms, wanted_norms))
        return 10 * total / ORDERS / len(references)
