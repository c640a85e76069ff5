"""Layers that several blocks use: multi-head attention, BERT's layer, word and position embeddings.

Layers are those of BERT (Devlin et al., 2018; post-norm), so that MiniLM's weights fit; a decoder's layer gains
cross-attention (warm start: Rothe et al., 2020).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-12


def mask_bias(mask: Tensor) -> Tensor:
    """A 0/1 mask `[batch, keys]` as additive attention bias `[batch, 1, 1, keys]`."""
    return (1.0 - mask.float())[:, None, None, :] * -1e4


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean `[batch, width]` of the states `[batch, text, width]` that the mask keeps; zeros if it keeps none."""
    weights = mask.float()[:, :, None]
    return (states.float() * weights).sum(1) / weights.sum(1).clamp_min(1e-6)


class Attention(nn.Module):
    """Multi-head attention: Concat(head_1 .. head_h) W^O, head_i = softmax(Q_i K_i^T / sqrt(d_k)) V_i.

    Vaswani et al., *Attention Is All You Need*, 2017, equations 1 and section 3.2.2. Q comes from `x`, K and V from `source`.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.width, self.heads = width, heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """`[batch, tokens, width]` -> `[batch, heads, tokens, width / heads]`."""
        return x.view(x.shape[0], -1, self.heads, self.width // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None = None,
                past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The attended values `[batch, queries, width]`, and the keys and values with `past` in front of them."""
        keys, values = self.split(self.key(source)), self.split(self.value(source))
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        query = self.split(self.query(x))
        bias = None if bias is None else bias.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, keys, values, bias, scale=1 / math.sqrt(self.width // self.heads))
        return self.output(mixed.transpose(1, 2).reshape(x.shape[0], -1, self.width)), (keys, values)


class Layer(nn.Module):
    """A BERT layer, with cross-attention if it is a decoder's: x = norm(x + sublayer(x)) for each of its sublayers."""

    def __init__(self, width: int, heads: int, inner: int, cross: bool = False, dropout: float = 0.1):
        super().__init__()
        self.width = width
        self.attention, self.attention_norm = Attention(width, heads), nn.LayerNorm(width, NORM_EPS)
        self.cross = Attention(width, heads) if cross else None
        self.cross_norm = nn.LayerNorm(width, NORM_EPS) if cross else None
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None = None,
                past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, present = self.attention(x, x, bias, past)
        x = self.attention_norm(x + self.dropout(y))
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            # Captions of one image are in consecutive rows and share its memory, so they become one row with more queries.
            queries = x if x.shape[0] == memory.shape[0] else x.reshape(memory.shape[0], -1, self.width)
            y = self.cross(queries, memory)[0]
            x = self.cross_norm(x + self.dropout(y if queries is x else y.reshape(x.shape)))
        return self.norm(x + self.dropout(self.down(F.gelu(self.up(x))))), present


class Embedding(nn.Module):
    """Word plus position embeddings, normalised, as in BERT (the one segment's vector is folded into the positions)."""

    def __init__(self, vocabulary: int, positions: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.norm, self.dropout = nn.LayerNorm(width, NORM_EPS), nn.Dropout(dropout)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=0.02 if width > 64 else 0.2)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        steps = torch.arange(start, start + ids.shape[1], device=ids.device)
        return self.dropout(self.norm(self.words(ids) + self.positions(steps)))


def resize(source: int, target: int) -> nn.Module:
    """Token states of width `source` to width `target`; nothing is learnt where they are equal."""
    return nn.Identity() if source == target else nn.Linear(source, target)
