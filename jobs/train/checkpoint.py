"""Checkpoints: what a finished or interrupted training leaves, and how a captioner is made of it."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

import captioner as network
import configuration
from captioner import Captioner
from configuration import Recipe
from data.tokens import Vocabulary


class CheckpointError(ValueError):
    """A checkpoint or model directory that cannot be loaded."""


def header(recipe: Recipe, vocabulary: Vocabulary) -> dict[str, Any]:
    """What tells how to build the captioner again."""
    return {"recipe": recipe.as_table(), "tokenizer": vocabulary.tokenizer.to_str(), "decoder_vocab": vocabulary.written,
            "order": torch.as_tensor(vocabulary.order)}


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, as they are now."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes beside `path` and renames, so that a kill leaves the old file or the new one."""
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load(path: Path, recipe: Recipe | None = None) -> tuple[Captioner, Vocabulary]:
    """The captioner of a checkpoint in eval mode, and its vocabulary. `recipe` is for checkpoints that do not hold one."""
    saved = torch.load(path, weights_only=True)
    if "recipe" in saved:
        recipe = configuration.from_table(saved["recipe"], str(path))
    if recipe is None:
        raise CheckpointError(f"{path}: holds no recipe\nhint: name it by --recipe")
    vocabulary = Vocabulary(Tokenizer.from_str(saved["tokenizer"]), saved["decoder_vocab"], saved["order"].tolist())
    complete = bool(saved.get("complete"))
    made = network.build(recipe, vocabulary, pretrained=not complete)
    _fill(made, saved["model"], str(path), complete)
    return made.eval(), vocabulary


def _fill(made: Captioner, state: dict[str, Tensor], where: str, complete: bool) -> None:
    unknown = made.load_state_dict(state, strict=False)
    if unknown.unexpected_keys:
        raise CheckpointError(f"{where}: has weights that its recipe does not know: {unknown.unexpected_keys[:3]}")
    wanted = set(unknown.missing_keys) if complete else set(unknown.missing_keys) & set(trainable_state(made))
    if wanted:
        raise CheckpointError(f"{where}: lacks weights that its recipe has: {sorted(wanted)[:3]}")
