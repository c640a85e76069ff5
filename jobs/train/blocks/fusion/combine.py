"""Fusion layers Combine(f_1(x_1) .. f_n(x_n)) with n = 2: x_1 is an image token, x_2 the side text as one vector.

x_2 is the mean of [null; text tokens], where `null` is a learned token, so that a row without text is valid. As with attention,
memory = norm(image + Combine(..)) and fused embedding = normalise(W mean(memory)). Survey of such layers: Baltrusaitis et al.,
*Multimodal Machine Learning: A Survey and Taxonomy*, 2019, section 6.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe


class Concatenate(nn.Module):
    """W_2 gelu(W_1 [f_1(x_1); f_2(x_2)]), f_i linear: concatenation and an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.image, self.text = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(2 * width, width), nn.Linear(width, width)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """`[batch, tokens, width]` and `[batch, 1, width]` -> `[batch, tokens, width]`."""
        text = self.text(text).expand(-1, image.shape[1], -1)
        return self.down(F.gelu(self.up(torch.cat([self.image(image), text], -1))))


class Gated(nn.Module):
    """g f_1(x_1) + (1 - g) f_2(x_2), f_i(x) = tanh(W_i x), g = sigmoid(W_g [x_1; x_2]).

    The gated multimodal unit of Arevalo et al., *Gated Multimodal Units for Information Fusion*, 2017, equations 1 to 4.
    """

    def __init__(self, width: int):
        super().__init__()
        self.image, self.text, self.gate = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(2 * width, width)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """`[batch, tokens, width]` and `[batch, 1, width]` -> `[batch, tokens, width]`."""
        both = torch.cat([image, text.expand(-1, image.shape[1], -1)], -1)
        g = torch.sigmoid(self.gate(both))
        return g * torch.tanh(self.image(image)) + (1 - g) * torch.tanh(self.text(text))


class CombineFusion(nn.Module):
    """Image states `[batch, tokens, width]`, text states `[batch, text, width]` and their mask -> the decoder's memory
    `[batch, tokens, width]` and fused embeddings `[batch, projection]`.
    """

    def __init__(self, recipe: Recipe, combine: nn.Module, dropout: float = 0.1):
        super().__init__()
        width = recipe.model.width
        self.null = nn.Parameter(torch.randn(width) * 0.02)
        self.combine, self.norm = combine, nn.LayerNorm(width)
        self.embed = nn.Linear(width, recipe.model.projection)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image_states: Tensor, text_states: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        weights = text_mask.float()[:, :, None]
        text = (self.null + (text_states.float() * weights).sum(1, keepdim=True)) / (1 + weights.sum(1, keepdim=True))
        x = self.norm(image_states + self.dropout(self.combine(image_states, text)))
        return x, F.normalize(self.embed(x.mean(1)).float(), dim=-1)


def concatenate(recipe: Recipe) -> CombineFusion:
    return CombineFusion(recipe, Concatenate(recipe.model.width))


def gated(recipe: Recipe) -> CombineFusion:
    return CombineFusion(recipe, Gated(recipe.model.width))
