"""Assembles a captioner of the blocks that a recipe names, and loads pretrained weights into those that have some."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import blocks
from blocks.shared.autoencoder import Autoencoder
from configuration import Recipe
from data.tokens import Vocabulary, minilm_directory


class Captioner(nn.Module):
    """The four parts that are exported, and what only training needs: the temperature of contrast, the autoencoder's decoders."""

    def __init__(self, recipe: Recipe, vocabulary: Vocabulary):
        super().__init__()
        self.recipe = recipe
        self.image: Any = blocks.IMAGE[recipe.image.encoder](recipe)
        self.text: Any = blocks.TEXT[recipe.text.encoder](recipe, vocabulary.size)
        self.fusion: Any = blocks.FUSION[recipe.fusion.method](recipe)
        self.decoder: Any = blocks.DECODER[recipe.decoder.kind](recipe, vocabulary.written)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.autoencoder = None
        if recipe.shared.objective != "contrastive":
            self.autoencoder = Autoencoder(recipe, self.image.target_width, self.text.target_width)

    def describe(self, frozen: Tensor, text_input: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's memory and the image embeddings of cached images with side texts."""
        tokens, embeds = self.image.from_frozen(frozen)
        states, _ = self.text.from_input(text_input, mask)
        return self.fusion(tokens, states, mask)[0], embeds


def build(recipe: Recipe, vocabulary: Vocabulary, pretrained: bool = True) -> Captioner:
    """A captioner with fixed random weights (the recipe's seed), and pretrained ones where the recipe says so."""
    torch.manual_seed(recipe.training.seed)
    captioner = Captioner(recipe, vocabulary)
    if pretrained and recipe.image.encoder == "cnn" and recipe.image.pretrained:
        captioner.image.load_pretrained()
    if pretrained and recipe.text.encoder == "minilm" and recipe.text.pretrained:
        state, rows = _minilm_state(), torch.as_tensor(vocabulary.order)
        _load_embedding(captioner.text.embedding, state, rows)
        for index, layer in enumerate(captioner.text.layers):
            _load_layer(layer, state, index)
        if recipe.model.projection == recipe.text.width:
            nn.init.eye_(captioner.text.embed.weight)
            nn.init.zeros_(captioner.text.embed.bias)
    if pretrained and recipe.decoder.kind == "transformer" and recipe.decoder.start == "minilm":
        state, rows = _minilm_state(), torch.as_tensor(vocabulary.order[: vocabulary.written])
        _load_embedding(captioner.decoder.embedding, state, rows)
        for index, layer in enumerate(captioner.decoder.layers):
            _load_layer(layer, state, index)
    return captioner


def _minilm_state() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(minilm_directory()) / "model.safetensors")


def _load_layer(layer: Any, state: dict[str, Tensor], index: int) -> None:
    prefix = f"encoder.layer.{index}."
    names = {"attention.query": "attention.self.query", "attention.key": "attention.self.key",
             "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
             "attention_norm": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense",
             "norm": "output.LayerNorm"}
    for ours, theirs in names.items():
        module = layer.get_submodule(ours)
        module.weight.data.copy_(state[f"{prefix}{theirs}.weight"])
        module.bias.data.copy_(state[f"{prefix}{theirs}.bias"])


def _load_embedding(embedding: Any, state: dict[str, Tensor], rows: Tensor) -> None:
    embedding.words.weight.data.copy_(state["embeddings.word_embeddings.weight"][rows])
    positions = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    embedding.positions.weight.data.copy_(positions[: len(embedding.positions.weight)])
    embedding.norm.weight.data.copy_(state["embeddings.LayerNorm.weight"])
    embedding.norm.bias.data.copy_(state["embeddings.LayerNorm.bias"])
