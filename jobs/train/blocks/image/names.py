"""Names of things in the image: what the CNN's own ImageNet head knows, added to the image tokens.

p = softmax(head(mean(features))), a name's weight = the sum of p over its classes, or 0 if that is below CERTAIN;
shift = sum over names of weight * vector. The vectors are learned with the captions. Caption data name few things; the head knows 1000
classes. So that training the features for captions does not spoil the head, its answers are held to those of the CNN before training:
Li and Hoiem, *Learning without Forgetting*, 2016.
"""

import functools
import tomllib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.image import efficientnet

CLASSES = 1000
# A name with less probability adds nothing.
CERTAIN = 0.3


@functools.cache
def classes_of_names() -> dict[str, list[int]]:
    """The numbers of a name's classes."""
    found = {}
    for name, text in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items():
        ranges = [part.split("-") for part in text.split()]
        found[name] = [number for part in ranges for number in range(int(part[0]), int(part[-1]) + 1)]
    return found


def membership() -> Tensor:
    """`[CLASSES, names]` f32, 0 or 1: which name a class has."""
    found = torch.zeros(CLASSES, len(classes_of_names()))
    for column, numbers in enumerate(classes_of_names().values()):
        found[numbers, column] = 1
    return found


class Names(nn.Module):
    """Mean features `[batch, features]` -> class scores `[batch, CLASSES]` and what is added to every image token, `[batch, 1, width]`."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.head = nn.Linear(features, CLASSES)
        self.vectors = nn.Parameter(torch.zeros(len(classes_of_names()), width))
        self.register_buffer("membership", membership(), persistent=False)

    def load_pretrained(self) -> None:
        efficientnet.load_head(self.head)

    def forward(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head(mean)
        weights = scores.softmax(-1) @ self.membership
        return scores, ((weights * (weights >= CERTAIN)) @ self.vectors)[:, None]


@functools.cache
def _before_training() -> tuple[efficientnet.Tail, nn.Linear]:
    tail, head = efficientnet.Tail(), nn.Linear(efficientnet.FEATURES, CLASSES)
    efficientnet.load_pretrained(efficientnet.Stem(), tail)
    efficientnet.load_head(head)
    return tail.eval(), head


@torch.no_grad()
def scores_before_training(stem: Tensor) -> Tensor:
    """Class scores `[batch, CLASSES]` of the pretrained CNN for stem maps `[batch, 192, grid, grid]`."""
    tail, head = _before_training()
    return head(tail(stem).mean((2, 3)))


def forgetting(scores: Tensor, before: Tensor) -> Tensor:
    """KL(softmax(before) || softmax(scores)), the mean over the batch."""
    return F.kl_div(scores.float().log_softmax(-1), before.float().log_softmax(-1), reduction="batchmean", log_target=True)
