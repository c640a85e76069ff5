"""A captioner from a model directory that export.py wrote: its recipe.toml, its tokenizer, and the weights of its graphs."""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer

import captioner as network
import configuration
from captioner import Captioner
from checkpoint import CheckpointError
from compress import SAME, TRANSPOSED
from data.tokens import Vocabulary

GRAPHS = {"vision_model": "image", "text_model": "text", "fusion": "fusion", "decoder_with_past_model": "decoder"}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """The parameters by name, as the graphs have them: int8 and float16 ones are back in float32."""
    found: dict[str, torch.Tensor] = {}
    for graph, part in GRAPHS.items():
        model = onnx.load(directory / f"{graph}.onnx")
        stored = {i.name: i for i in model.graph.initializer}
        for name in stored:
            base = name.removesuffix("_i8").removesuffix("_f16")
            if name.endswith("_scale") and f"{name.removesuffix('_scale')}_i8" in stored:
                continue
            value = numpy_helper.to_array(stored[name])
            if value.dtype == np.int8:
                value = value.astype(np.float32) * numpy_helper.to_array(stored[f"{base}_scale"])
            if not np.issubdtype(value.dtype, np.floating):
                continue
            value = value.astype(np.float32)
            found[f"{part}.{base.removesuffix(TRANSPOSED)}"] = torch.from_numpy(
                np.array(value.T if base.endswith(TRANSPOSED) else value))
        for entry in model.metadata_props:
            if entry.key.startswith(SAME):
                found[f"{part}.{entry.key.removeprefix(SAME)}"] = found[f"{part}.{entry.value.removesuffix(TRANSPOSED)}"]
    return found


def load(directory: Path) -> tuple[Captioner, Vocabulary]:
    """The captioner in eval mode, and its vocabulary. What graphs do not hold (the temperature of contrast) starts anew."""
    try:
        recipe = configuration.load(directory / "recipe.toml")
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        state = weights(directory)
    except (OSError, configuration.RecipeError) as error:
        raise CheckpointError(f"{directory}: {error}\nhint: expected a directory that export.py wrote") from error
    vocabulary = Vocabulary(tokenizer, config["decoder_vocab_size"], [])
    made = network.build(recipe, vocabulary, pretrained=False)
    known = made.state_dict()
    state = {name: value.reshape(known[name].shape) for name, value in state.items() if name in known}
    missing = [name for name in known if name.split(".")[0] in GRAPHS.values() and name not in state]
    if missing:
        raise CheckpointError(f"{directory}: lacks weights that its recipe has: {missing[:3]}")
    made.load_state_dict(state, strict=False)
    return made.eval(), vocabulary


