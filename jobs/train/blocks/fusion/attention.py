"""Fusion by attention: every image token attends to the tokens of the side text.

Both variants share this: K and V come from [null; text tokens], where `null` is a learned token that is always there, so that a
row without text is valid; memory = norm(image + attention), fused embedding = normalise(W mean(memory)).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe
from layers import Attention, mask_bias


class SingleHead(nn.Module):
    """softmax(Q K^T / sqrt(d_k)) V: one head as wide as the model, no output matrix. Vaswani et al., 2017, equation 1."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor) -> tuple[Tensor, None]:
        """Queries `[batch, queries, width]`, source `[batch, keys, width]`, bias `[batch, 1, 1, keys]` -> `[batch, queries, width]`."""
        q, k, v = self.query(x), self.key(source), self.value(source)
        scores = q @ k.transpose(1, 2) / math.sqrt(k.shape[-1]) + bias[:, 0]
        return scores.softmax(-1) @ v, None


class AttentionFusion(nn.Module):
    """Image states `[batch, tokens, width]`, text states `[batch, text, width]` and their mask -> the decoder's memory
    `[batch, tokens, width]` and fused embeddings `[batch, projection]`.
    """

    def __init__(self, recipe: Recipe, attention: nn.Module, dropout: float = 0.1):
        super().__init__()
        width = recipe.model.width
        self.null = nn.Parameter(torch.randn(width) * 0.02)
        self.attention, self.norm = attention, nn.LayerNorm(width)
        self.embed = nn.Linear(width, recipe.model.projection)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image_states: Tensor, text_states: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        batch = image_states.shape[0]
        keys = torch.cat([self.null.expand(batch, 1, image_states.shape[2]), text_states.float()], 1)
        mask = torch.cat([text_mask.new_ones(batch, 1), text_mask], 1)
        y, _ = self.attention(image_states, keys, mask_bias(mask))
        x = self.norm(image_states + self.dropout(y))
        return x, F.normalize(self.embed(x.mean(1)).float(), dim=-1)


def single_head(recipe: Recipe) -> AttentionFusion:
    return AttentionFusion(recipe, SingleHead(recipe.model.width))


def multi_head(recipe: Recipe) -> AttentionFusion:
    """Concat(head_1 .. head_h) W^O: see `layers.Attention`."""
    return AttentionFusion(recipe, Attention(recipe.model.width, recipe.model.heads))
