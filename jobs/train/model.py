"""The network: image encoder, text encoder, fusion and caption decoder, each a module that exports to one graph.

Shapes: `batch` images, `text` side-text tokens, `sequence` new caption tokens after `past` cached ones, width WIDTH.
Images and texts meet in one space of PROJECTION dimensions, L2-normalised. Layers are those of BERT (Devlin et al.,
2018; post-norm), so that text encoder and decoder both start from MiniLM's weights; the decoder gains
cross-attention (warm start: Rothe et al., 2020).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from backbone import FEATURES, GRID, Stem, Tail

WIDTH = PROJECTION = 384
HEADS = 12
INNER = 1536
POSITIONS = 64
TEXT_POSITIONS = 512
FROZEN_LAYERS = 5
DECODER_LAYERS = 2
TOKENS = GRID * GRID
NORM_EPS = 1e-12


def mask_bias(mask):
    """A 0/1 mask `[batch, keys]` as additive attention bias `[batch, 1, 1, keys]`."""
    return (1.0 - mask.float())[:, None, None, :] * -1e4


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) with separate query and key/value inputs."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    @staticmethod
    def split(x):
        """`[batch, tokens, WIDTH]` -> `[batch, HEADS, tokens, WIDTH / HEADS]`."""
        return x.view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x, source, bias=None, past=None):
        """Returns the attended values and the keys and values, with `past` in front of them."""
        keys, values = self.split(self.key(source)), self.split(self.value(source))
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        query = self.split(self.query(x))
        bias = None if bias is None else bias.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, keys, values, bias, scale=1 / math.sqrt(WIDTH // HEADS))
        return self.output(mixed.transpose(1, 2).reshape(x.shape[0], -1, WIDTH)), (keys, values)


class Layer(nn.Module):
    """A BERT layer, with cross-attention if it is a decoder's."""

    def __init__(self, cross=False, dropout=0.1):
        super().__init__()
        self.attention, self.attention_norm = Attention(), nn.LayerNorm(WIDTH, NORM_EPS)
        self.cross = Attention() if cross else None
        self.cross_norm = nn.LayerNorm(WIDTH, NORM_EPS) if cross else None
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, bias, memory=None, past=None):
        y, present = self.attention(x, x, bias, past)
        x = self.attention_norm(x + self.dropout(y))
        if self.cross is not None:
            # Captions of one image are in consecutive rows and share its memory, so they become one row with more queries.
            queries = x if x.shape[0] == memory.shape[0] else x.reshape(memory.shape[0], -1, WIDTH)
            y = self.cross(queries, memory)[0]
            x = self.cross_norm(x + self.dropout(y if queries is x else y.reshape(x.shape)))
        return self.norm(x + self.dropout(self.down(F.gelu(self.up(x))))), present


class Embedding(nn.Module):
    """Word plus position embeddings, normalised, as in BERT (the one segment's vector is folded into the positions)."""

    def __init__(self, vocab, positions, dropout=0.0):
        super().__init__()
        self.words, self.positions = nn.Embedding(vocab, WIDTH), nn.Embedding(positions, WIDTH)
        self.norm, self.dropout = nn.LayerNorm(WIDTH, NORM_EPS), nn.Dropout(dropout)

    def forward(self, ids, start=0):
        steps = torch.arange(start, start + ids.shape[1], device=ids.device)
        return self.dropout(self.norm(self.words(ids) + self.positions(steps)))


class ImageEncoder(nn.Module):
    """Pixels or their cached stem map -> image tokens `[batch, 49, WIDTH]` and embeddings `[batch, PROJECTION]`."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem, self.tail = Stem(), Tail()
        self.project, self.norm = nn.Linear(FEATURES, WIDTH), nn.LayerNorm(WIDTH)
        self.positions = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.embed = nn.Linear(FEATURES, PROJECTION)
        self.dropout = nn.Dropout(dropout)

    def from_stem(self, maps):
        features = self.tail(maps).flatten(2).transpose(1, 2)
        tokens = self.norm(self.project(self.dropout(features))) + self.positions
        return tokens, F.normalize(self.embed(self.dropout(features.mean(1))).float(), dim=-1)

    def forward(self, pixels):
        return self.from_stem(self.stem(pixels))


class TextEncoder(nn.Module):
    """Ids and mask `[batch, text]` -> token states `[batch, text, WIDTH]` and embeddings `[batch, PROJECTION]`."""

    def __init__(self, vocab, dropout=0.1):
        super().__init__()
        self.embedding = Embedding(vocab, TEXT_POSITIONS)
        self.frozen = nn.ModuleList(Layer(dropout=0.0) for _ in range(FROZEN_LAYERS))
        self.last = Layer(dropout=dropout)
        self.embed = nn.Linear(WIDTH, PROJECTION)

    def frozen_states(self, ids, mask):
        """The output of the frozen layers, which does not change during training and can be cached."""
        x, bias = self.embedding(ids), mask_bias(mask)
        for layer in self.frozen:
            x, _ = layer(x, bias)
        return x

    def from_frozen(self, states, mask):
        states, _ = self.last(states, mask_bias(mask))
        weights = mask.float()[:, :, None]
        mean = (states.float() * weights).sum(1) / weights.sum(1).clamp_min(1e-6)
        return states, F.normalize(self.embed(mean).float(), dim=-1)

    def forward(self, ids, mask):
        return self.from_frozen(self.frozen_states(ids, mask), mask)


class Fusion(nn.Module):
    """Image tokens attend to the side text; a learned null token comes first, so a row without text is valid.

    Returns the decoder's memory `[batch, 49, WIDTH]` and fused embeddings `[batch, PROJECTION]`.
    """

    def __init__(self, dropout=0.1):
        super().__init__()
        self.null = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.attention, self.norm = Attention(), nn.LayerNorm(WIDTH)
        self.embed = nn.Linear(WIDTH, PROJECTION)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image_states, text_states, text_mask):
        batch = image_states.shape[0]
        keys = torch.cat([self.null.expand(batch, 1, WIDTH), text_states.float()], 1)
        mask = torch.cat([text_mask.new_ones(batch, 1), text_mask], 1)
        y, _ = self.attention(image_states, keys, mask_bias(mask))
        x = self.norm(image_states + self.dropout(y))
        return x, F.normalize(self.embed(x.mean(1)).float(), dim=-1)


class Decoder(nn.Module):
    """New ids `[batch, sequence]`, memory and past -> logits `[batch, sequence, vocab]` and the grown past."""

    def __init__(self, vocab, dropout=0.2):
        super().__init__()
        self.embedding = Embedding(vocab, POSITIONS, dropout)
        self.layers = nn.ModuleList(Layer(cross=True, dropout=dropout) for _ in range(DECODER_LAYERS))
        self.transform, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.bias = nn.Parameter(torch.zeros(vocab))

    def states(self, ids, memory, past=None):
        """The input of `logits`, `[batch, sequence, WIDTH]`, and the grown past."""
        start = 0 if past is None else past[0][0].shape[2]
        steps = torch.arange(start + ids.shape[1], device=ids.device)
        # Position start + i sees keys 0 ..= start + i.
        bias = (steps[None, :] > steps[start:, None]).float() * -1e4
        x, presents = self.embedding(ids, start), []
        for i, layer in enumerate(self.layers):
            x, present = layer(x, bias, memory, None if past is None else past[i])
            presents.append(present)
        return x, presents

    def logits(self, states):
        """Scores of the vocabulary; the output matrix is the word embedding."""
        return F.linear(self.norm(F.gelu(self.transform(states))), self.embedding.words.weight, self.bias)

    def forward(self, ids, memory, past=None):
        states, presents = self.states(ids, memory, past)
        return self.logits(states), presents


class Captioner(nn.Module):
    """The four parts and the contrastive temperature."""

    def __init__(self, vocab, decoder_vocab, dropout=0.2):
        super().__init__()
        self.image, self.text = ImageEncoder(dropout), TextEncoder(vocab)
        self.fusion, self.decoder = Fusion(), Decoder(decoder_vocab, dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def _load_layer(layer, state, index):
    prefix = f"encoder.layer.{index}."
    names = {"attention.query": "attention.self.query", "attention.key": "attention.self.key",
             "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
             "attention_norm": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense",
             "norm": "output.LayerNorm"}
    for ours, theirs in names.items():
        module = layer.get_submodule(ours)
        module.weight.data.copy_(state[f"{prefix}{theirs}.weight"])
        module.bias.data.copy_(state[f"{prefix}{theirs}.bias"])


def _load_embedding(embedding, state, rows):
    embedding.words.weight.data.copy_(state["embeddings.word_embeddings.weight"][rows])
    positions = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    embedding.positions.weight.data.copy_(positions[: len(embedding.positions.weight)])
    embedding.norm.weight.data.copy_(state["embeddings.LayerNorm.weight"])
    embedding.norm.bias.data.copy_(state["embeddings.LayerNorm.bias"])


def pretrained(order, decoder_vocab, dropout=0.2):
    """A captioner that starts from EfficientNet-Lite0 and MiniLM; `order[new id]` is MiniLM's token id."""
    from safetensors.torch import load_file

    import backbone
    from data import source_tokenizer

    state = load_file(source_tokenizer()[1] / "model.safetensors")
    model = Captioner(len(order), decoder_vocab, dropout)
    model.image.stem, model.image.tail = backbone.pretrained()
    rows = torch.as_tensor(order)
    _load_embedding(model.text.embedding, state, rows)
    for index, layer in enumerate([*model.text.frozen, model.text.last]):
        _load_layer(layer, state, index)
    nn.init.eye_(model.text.embed.weight)
    nn.init.zeros_(model.text.embed.bias)
    _load_embedding(model.decoder.embedding, state, rows[:decoder_vocab])
    for index, layer in enumerate(model.decoder.layers):
        _load_layer(layer, state, index)
    model.text.embedding.requires_grad_(False)
    model.text.frozen.requires_grad_(False)
    return model
