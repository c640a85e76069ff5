"""Image encoder: a small vision transformer, trained here from random weights.

Dosovitskiy et al., *An Image Is Worth 16x16 Words*, 2021, equations 1 to 4:
z_0 = [x_1 E; ..; x_n E] + E_pos, z'_l = MSA(LN(z_{l-1})) + z_{l-1}, z_l = MLP(LN(z'_l)) + z'_l, y = LN(z_L).
Embeddings are the mean over tokens; there is no class token, because a decoder attends to all tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe
from layers import Attention, resize

TARGET_GRID = 8


class PreNormLayer(nn.Module):
    """One layer of the equations above, `[batch, tokens, width]` -> the same shape."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_norm(x)
        x = x + self.dropout(self.attention(y, y)[0])
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class Vit(nn.Module):
    """Pixels `[batch, 3, size, size]` -> image tokens `[batch, (size / patch)^2, width]` and embeddings `[batch, projection]`."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        image, model = recipe.image, recipe.model
        self.tokens, self.frozen_shape = (image.size // image.patch) ** 2, (3, image.size, image.size)
        self.target_width = 3 * TARGET_GRID**2
        self.patches = nn.Conv2d(3, image.width, image.patch, image.patch)
        self.positions = nn.Parameter(torch.randn(self.tokens, image.width) * 0.02)
        self.layers = nn.ModuleList(PreNormLayer(image.width, image.heads, model.dropout / 2) for _ in range(image.layers))
        self.norm = nn.LayerNorm(image.width)
        self.project = resize(image.width, model.width)
        self.embed = nn.Linear(image.width, model.projection)

    def frozen(self, pixels: Tensor) -> Tensor:
        """Nothing is frozen: the pixels themselves."""
        return pixels

    def from_frozen(self, frozen: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patches(frozen).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.project(x), F.normalize(self.embed(x.mean(1)).float(), dim=-1)

    def with_losses(self, frozen: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Tokens and embeddings; this block has no losses of its own."""
        return *self.from_frozen(frozen), {}

    def target(self, frozen: Tensor) -> Tensor:
        """What an autoencoder reconstructs, `[batch, target_width]`: the image at 8 x 8 pixels."""
        return F.adaptive_avg_pool2d(frozen.float(), TARGET_GRID).flatten(1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_frozen(pixels)
