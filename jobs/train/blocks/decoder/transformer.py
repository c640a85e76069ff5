"""Caption decoder: a transformer with causal self-attention and cross-attention to the memory.

Vaswani et al., *Attention Is All You Need*, 2017, section 3.1, with BERT's layers (post-norm), so that it can start from MiniLM.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe
from layers import Embedding, Layer


class TransformerDecoder(nn.Module):
    """New ids `[batch, sequence]`, memory `[images, tokens, width]` and the past -> logits `[batch, sequence, vocabulary]` and the
    grown past: keys and values `[batch, heads, past, width / heads]` of each layer. Rows of one image are consecutive.
    """

    def __init__(self, recipe: Recipe, vocabulary: int):
        super().__init__()
        model, decoder = recipe.model, recipe.decoder
        self.embedding = Embedding(vocabulary, decoder.positions, model.width, model.dropout)
        self.layers = nn.ModuleList(Layer(model.width, model.heads, model.inner, cross=True, dropout=model.dropout)
                                    for _ in range(decoder.layers))
        self.transform, self.norm = nn.Linear(model.width, model.width), nn.LayerNorm(model.width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.past_names = [f"past_key_values.{i}.{part}" for i in range(decoder.layers) for part in ("key", "value")]
        self.present_names = [name.replace("past_key_values", "present") for name in self.past_names]
        self.past_shape = (model.heads, 0, model.width // model.heads)
        self.one_token_steps = False

    def empty_past(self, batch: int) -> list[Tensor]:
        return [torch.zeros(batch, *self.past_shape) for _ in self.past_names]

    def past_axes(self) -> dict[str, dict[int, str]]:
        """The dynamic axes of the past and of the grown past, by name."""
        return ({name: {0: "batch", 2: "past"} for name in self.past_names}
                | {name: {0: "batch", 2: "past + sequence"} for name in self.present_names})

    def states(self, ids: Tensor, memory: Tensor, past: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The input of `logits`, `[batch, sequence, width]`, and the grown past."""
        start = 0 if past is None else past[0].shape[2]
        steps = torch.arange(start + ids.shape[1], device=ids.device)
        # Position start + i sees keys 0 ..= start + i.
        bias = (steps[None, :] > steps[start:, None]).float() * -1e4
        x = self.embedding(ids, start)
        presents: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, present = layer(x, bias, memory, None if past is None else (past[2 * i], past[2 * i + 1]))
            presents += present
        return x, presents

    def logits(self, states: Tensor) -> Tensor:
        """Scores of the vocabulary; the output matrix is the word embedding."""
        return F.linear(self.norm(F.gelu(self.transform(states))), self.embedding.words.weight, self.bias)

    def forward(self, ids: Tensor, memory: Tensor, past: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        states, presents = self.states(ids, memory, past)
        return self.logits(states), presents
