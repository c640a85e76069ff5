"""A split that is ready for training: images, their captions as tokens, and the caches of what is frozen."""

from pathlib import Path

import numpy as np

from captioner import Captioner
from configuration import Recipe
from data import tokens
from data.caches import ImageCache, TextCache
from data.images import Images
from data.tokens import Vocabulary


class Split:
    """Image i has the captions `first[i] .. first[i + 1]`, numbered through all images; `owners[c]` is the image of caption c."""

    def __init__(self, images: Images, vocabulary: Vocabulary, recipe: Recipe):
        self.images, self.vocabulary = images, vocabulary
        captions = [caption for group in images.captions for caption in group]
        self.first = np.cumsum([0] + [len(group) for group in images.captions])
        self.owners = np.repeat(np.arange(len(images)), np.diff(self.first))
        self.text_ids = tokens.encode(vocabulary.tokenizer, captions, recipe.tokens.text_length)
        self.targets = tokens.encode(vocabulary.tokenizer, [tokens.clean(c) for c in captions], tokens.CAPTION_LENGTH,
                                     vocabulary.written)

    def open_caches(self, directory: Path, captioner: Captioner, views: int) -> None:
        """Opens or makes the caches with the frozen layers of `captioner`."""
        recipe = captioner.recipe
        self.frozen = ImageCache(directory, self.images, captioner.image, recipe.image.size, views, recipe.training.seed)
        self.texts = TextCache(directory, self.text_ids, captioner.text)

    def draw(self, images: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each image `count` captions to write and one as side text, `[images, count + 1]`, and whether there is one.

        An image with too few captions has some of them written twice; one with a single caption has no side text.
        """
        rows, has_side = np.zeros((len(images), count + 1), np.int64), np.zeros(len(images), bool)
        for row, image in enumerate(images):
            own = self.first[image] + rng.permutation(self.first[image + 1] - self.first[image])
            written = min(count, max(1, len(own) - 1))
            rows[row, :count] = np.resize(own[:written], count)
            rows[row, count], has_side[row] = own[min(written, len(own) - 1)], len(own) > written
        return rows, has_side
