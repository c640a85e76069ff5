"""Text encoder: word embeddings, a learned table; a text is the mean of its words.

x = (1/n) sum_i E[w_i]: a vector of fixed length for a text of any length (the bag of words of Iyyer et al., *Deep Unordered
Composition Rivals Syntactic Methods*, 2015, without its layers). The order of words has no effect.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe
from layers import masked_mean, resize


class Words(nn.Module):
    """Ids and mask `[batch, text]` -> states `[batch, text, width]` and embeddings `[batch, projection]`."""

    cached_width = 0

    def __init__(self, recipe: Recipe, vocabulary: int):
        super().__init__()
        width = recipe.text.width
        self.words, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.1)
        self.project, self.embed = resize(width, recipe.model.width), nn.Linear(width, recipe.model.projection)
        self.target_width = width

    def from_input(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # the normalisation is that of single words: the mean is taken afterwards, so that the result is a mean of words
        states = self.norm(self.words(ids))
        return self.project(states), F.normalize(self.embed(masked_mean(states, mask)).float(), dim=-1)

    def target(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What an autoencoder reconstructs, `[batch, target_width]`: the mean word, which gets no gradient."""
        with torch.no_grad():
            return masked_mean(self.norm(self.words(ids)), mask)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_input(ids, mask)
