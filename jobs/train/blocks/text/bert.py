"""Text encoders with BERT layers: one trained here, and MiniLM's, whose first layers are frozen.

Devlin et al., *BERT*, 2018; Wang et al., *MiniLM*, 2020; the mean over tokens as a sentence's vector: Reimers and Gurevych,
*Sentence-BERT*, 2019.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe
from layers import Embedding, Layer, mask_bias, masked_mean, resize

POSITIONS = 512


class Transformer(nn.Module):
    """Ids and mask `[batch, text]` -> token states `[batch, text, width]` and embeddings `[batch, projection]`."""

    cached_width = 0

    def __init__(self, recipe: Recipe, vocabulary: int):
        super().__init__()
        text = recipe.text
        self.embedding = Embedding(vocabulary, recipe.tokens.text_length, text.width)
        self.layers = nn.ModuleList(Layer(text.width, text.heads, text.inner) for _ in range(text.layers))
        self.project, self.embed = resize(text.width, recipe.model.width), nn.Linear(text.width, recipe.model.projection)
        self.target_width = text.width

    def from_input(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = self.embedding(ids), mask_bias(mask)
        for layer in self.layers:
            x, _ = layer(x, bias)
        return self.project(x), F.normalize(self.embed(masked_mean(x, mask)).float(), dim=-1)

    def target(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What an autoencoder reconstructs, `[batch, target_width]`: the mean word embedding, which gets no gradient."""
        with torch.no_grad():
            return masked_mean(self.embedding(ids), mask)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_input(ids, mask)


class MiniLm(nn.Module):
    """The same shapes, from MiniLM: `frozen_layers` layers that never change, so that their output can be cached, then trained ones."""

    def __init__(self, recipe: Recipe, vocabulary: int):
        super().__init__()
        text = recipe.text
        sizes = (text.width, text.heads, text.inner)
        self.cached_width = self.target_width = text.width
        self.embedding = Embedding(vocabulary, POSITIONS, text.width)
        self.frozen = nn.ModuleList(Layer(*sizes, dropout=0.0) for _ in range(text.frozen_layers))
        trained = text.layers - text.frozen_layers
        self.between = nn.ModuleList(Layer(*sizes) for _ in range(trained - 1))
        self.last = Layer(*sizes) if trained else None
        self.project, self.embed = resize(text.width, recipe.model.width), nn.Linear(text.width, recipe.model.projection)
        self.embedding.requires_grad_(False)
        self.frozen.requires_grad_(False)

    @property
    def layers(self) -> list[nn.Module]:
        """All layers, the first one first."""
        return [*self.frozen, *self.between, *([self.last] if self.last is not None else [])]

    def frozen_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The output of the frozen layers, `[batch, text, cached_width]`."""
        x, bias = self.embedding(ids), mask_bias(mask)
        for layer in self.frozen:
            x, _ = layer(x, bias)
        return x

    def from_input(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers[len(self.frozen) :]:
            states, _ = layer(states, mask_bias(mask))
        return self.project(states), F.normalize(self.embed(masked_mean(states, mask)).float(), dim=-1)

    def target(self, states: Tensor, mask: Tensor) -> Tensor:
        """What an autoencoder reconstructs, `[batch, target_width]`: the mean of the frozen layers' output."""
        return masked_mean(states, mask)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_input(self.frozen_states(ids, mask), mask)
