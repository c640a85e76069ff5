"""Image encoder: a convolutional network whose feature map is read as a sequence of tokens.

Tan and Le, *EfficientNet*, 2019 (the Lite0 variant, ImageNet weights); the grid of features as annotation vectors that a
decoder attends to: Xu et al., *Show, Attend and Tell*, 2015, section 3.1.1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.image import efficientnet
from blocks.image.names import Names, forgetting, scores_before_training
from configuration import Recipe

# The weight of that loss beside the caption loss.
FORGETTING = 0.3


class Cnn(nn.Module):
    """Pixels `[batch, 3, size, size]` -> image tokens `[batch, grid * grid, width]` and embeddings `[batch, projection]`.

    tokens = norm(W features) + position, embedding = normalise(W mean(features)). With `names`, tokens = that + shift (see names.py).
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        model, self.train_tail = recipe.model, recipe.image.train_tail
        self.stem, self.tail = efficientnet.Stem(), efficientnet.Tail()
        if not recipe.image.pretrained:
            efficientnet.start_random(self.stem, self.tail)
        self.stem.requires_grad_(False)
        self.tail.requires_grad_(self.train_tail)
        grid = recipe.image.size // efficientnet.STRIDE
        self.tokens, self.target_width = grid * grid, efficientnet.FEATURES
        self.frozen_shape = (efficientnet.STEM_CHANNELS if self.train_tail else efficientnet.FEATURES, grid, grid)
        self.project, self.norm = nn.Linear(efficientnet.FEATURES, model.width), nn.LayerNorm(model.width)
        self.positions = nn.Parameter(torch.zeros(self.tokens, model.width))
        self.embed = nn.Linear(efficientnet.FEATURES, model.projection)
        self.names = Names(efficientnet.FEATURES, model.width) if recipe.image.names else None
        if self.names is not None:
            self.names.head.requires_grad_(self.train_tail)
        self.dropout = nn.Dropout(model.dropout)

    def load_pretrained(self) -> None:
        efficientnet.load_pretrained(self.stem, self.tail)
        if self.names is not None:
            self.names.load_pretrained()

    def frozen(self, pixels: Tensor) -> Tensor:
        """What training does not change: `[batch, *frozen_shape]`."""
        stem = self.stem(pixels)
        return stem if self.train_tail else self.tail(stem)

    def features(self, frozen: Tensor) -> Tensor:
        """Token features `[batch, tokens, 1280]`."""
        return (self.tail(frozen) if self.train_tail else frozen).flatten(2).transpose(1, 2)

    def _encode(self, frozen: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, embeddings, and with `names` the scores of classes."""
        features = self.features(frozen)
        mean = features.mean(1)
        tokens, scores = self.norm(self.project(self.dropout(features))) + self.positions, None
        if self.names is not None:
            scores, shift = self.names(mean)
            tokens = tokens + shift
        return tokens, F.normalize(self.embed(self.dropout(mean)).float(), dim=-1), scores

    def from_frozen(self, frozen: Tensor) -> tuple[Tensor, Tensor]:
        return self._encode(frozen)[:2]

    def with_losses(self, frozen: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Tokens, embeddings, and the losses of this block alone by name, weighted."""
        tokens, embeds, scores = self._encode(frozen)
        if scores is None or not self.train_tail:
            return tokens, embeds, {}
        return tokens, embeds, {"forgetting": FORGETTING * forgetting(scores, scores_before_training(frozen))}

    def target(self, frozen: Tensor) -> Tensor:
        """What an autoencoder reconstructs, `[batch, target_width]`: the mean feature."""
        return self.features(frozen).mean(1).float()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_frozen(self.frozen(pixels))
