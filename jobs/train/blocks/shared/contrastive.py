"""Shared representation by contrast: matching images and texts are closer than all others of a batch.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (CLIP), 2021, figure 3:
loss = (CE(s I T^t, 1..n) + CE(s T I^t, 1..n)) / 2, the symmetric InfoNCE; rows are L2-normalised, s is learned, at most 100.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def contrast(left: Tensor, right: Tensor, log_scale: Tensor) -> Tensor:
    """The loss of matching rows `[batch, projection]`."""
    logits = left @ right.T * log_scale.clamp(max=math.log(100)).exp()
    labels = torch.arange(len(left))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
