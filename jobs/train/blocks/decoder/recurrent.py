"""Caption decoders with a recurrent state that attends to the image tokens: an LSTM and a GRU.

Xu et al., *Show, Attend and Tell*, 2015, soft attention (equation numbers are theirs). Of image tokens a_1 .. a_L, the previous
word y and the previous hidden state h:

    e_i = v^T tanh(W_a a_i + W_h h), alpha = softmax(e)                         (4, 5)
    z = sigmoid(f_beta(h)) sum_i alpha_i a_i                                    (13 and section 4.2.1)
    h' = LSTM([E y; z], h)  or  GRU([E y; z], h)                                (1 to 3)
    logits = E tanh(W_y E y + W_o h' + W_z z) + b                               (7, with a tanh and the words' matrix)
    h_0 = tanh(W_0 mean(a)), c_0 = tanh(W_c mean(a))                            (section 3.1.2)

The graph is one step: words `[batch, 1]`, memory and state -> logits and the next state. A state of zeros, `started` included,
means the start; the step then takes h_0 and c_0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe


class LstmCell(nn.Module):
    """i, f, o = sigmoid(..), g = tanh(..) of W [x; h] + b, c' = f c + i g, h' = o tanh(c'). Hochreiter and Schmidhuber, 1997."""

    parts = ("hidden", "cell")

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.gates = nn.Linear(inputs + width, 4 * width)
        with torch.no_grad():
            self.gates.bias[width : 2 * width] = 1.0  # the forget gate starts open (Jozefowicz et al., 2015)

    def forward(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Input `[batch, inputs]` and state h, c `[batch, width]` -> the next h and c."""
        hidden, cell = state
        i, f, g, o = self.gates(torch.cat([x, hidden], -1)).chunk(4, -1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return [torch.sigmoid(o) * torch.tanh(cell), cell]


class GruCell(nn.Module):
    """r, u = sigmoid(W [x; h] + b), n = tanh(W_n x + b_n + r (U_n h + d_n)), h' = (1 - u) n + u h. Cho et al., 2014."""

    parts = ("hidden",)

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.gates = nn.Linear(inputs + width, 2 * width)
        self.new_input, self.new_hidden = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Input `[batch, inputs]` and state h `[batch, width]` -> the next h."""
        hidden = state[0]
        reset, update = torch.sigmoid(self.gates(torch.cat([x, hidden], -1))).chunk(2, -1)
        new = torch.tanh(self.new_input(x) + reset * self.new_hidden(hidden))
        return [(1 - update) * new + update * hidden]


class RecurrentDecoder(nn.Module):
    """Ids `[batch, sequence]`, memory `[images, tokens, width]` and the state -> logits `[batch, sequence, vocabulary]` and the next
    state, tensors `[batch, width]` and `started` `[batch, 1]`. Rows of one image are consecutive.
    """

    def __init__(self, recipe: Recipe, vocabulary: int, cell: type[LstmCell] | type[GruCell]):
        super().__init__()
        width = recipe.model.width
        self.words, self.dropout = nn.Embedding(vocabulary, width), nn.Dropout(recipe.model.dropout)
        nn.init.normal_(self.words.weight, std=0.1)
        self.keys, self.query, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1, bias=False)
        self.gate, self.cell = nn.Linear(width, width), cell(2 * width, width)
        self.start = nn.ModuleList(nn.Linear(width, width) for _ in cell.parts)
        self.from_word, self.from_hidden = nn.Linear(width, width), nn.Linear(width, width)
        self.from_image, self.bias = nn.Linear(width, width), nn.Parameter(torch.zeros(vocabulary))
        parts = [*cell.parts, "started"]
        self.past_names, self.present_names = [f"past_{part}" for part in parts], [f"present_{part}" for part in parts]
        self.widths = [width] * len(cell.parts) + [1]
        self.one_token_steps = True

    def empty_past(self, batch: int) -> list[Tensor]:
        return [torch.zeros(batch, width) for width in self.widths]

    def past_axes(self) -> dict[str, dict[int, str]]:
        """The dynamic axes of the state and of the next state, by name."""
        return {name: {0: "batch"} for name in [*self.past_names, *self.present_names]}

    def context(self, hidden: Tensor, memory: Tensor, keys: Tensor) -> Tensor:
        """z of the formulas, `[batch, width]`; `keys` are W_a a."""
        scores = self.score(torch.tanh(keys + self.query(hidden)[:, None]))
        mixed = (scores.softmax(1) * memory).sum(1)
        return torch.sigmoid(self.gate(hidden)) * mixed

    def states(self, ids: Tensor, memory: Tensor, past: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The input of `logits`, `[batch, sequence, width]`, and the next state."""
        if ids.shape[0] != memory.shape[0]:
            memory = memory.repeat_interleave(ids.shape[0] // memory.shape[0], 0)
        *state, started = self.empty_past(ids.shape[0]) if past is None else past
        keys, mean = self.keys(memory), memory.mean(1)
        state = [part + (1 - started) * torch.tanh(start(mean)) for part, start in zip(state, self.start)]
        words = self.dropout(self.words(ids))
        found = []
        for step in range(ids.shape[1]):
            word = words[:, step]
            image = self.context(state[0], memory, keys)
            state = self.cell(torch.cat([word, image], -1), state)
            found.append(torch.tanh(self.from_word(word) + self.from_hidden(self.dropout(state[0])) + self.from_image(image)))
        return torch.stack(found, 1), [*state, torch.ones_like(started)]

    def logits(self, states: Tensor) -> Tensor:
        """Scores of the vocabulary; the output matrix is the word embedding."""
        return F.linear(self.dropout(states), self.words.weight, self.bias)

    def forward(self, ids: Tensor, memory: Tensor, past: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        states, presents = self.states(ids, memory, past)
        return self.logits(states), presents


def lstm(recipe: Recipe, vocabulary: int) -> RecurrentDecoder:
    return RecurrentDecoder(recipe, vocabulary, LstmCell)


def gru(recipe: Recipe, vocabulary: int) -> RecurrentDecoder:
    return RecurrentDecoder(recipe, vocabulary, GruCell)
