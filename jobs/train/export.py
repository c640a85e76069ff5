"""Exports a checkpoint as a model directory that `nightcap run` takes.

    python export.py --checkpoint DIR/best.pt --output MODEL [--check VALIDATION.parquet]

Writes vision_model, text_model, fusion and decoder_with_past_model as ONNX (int8 weights, fp32 arithmetic), tokenizer, configuration
files and recipe.toml. One exporter serves every combination of blocks; a recurrent decoder is the graph of one step. With --check the
graphs before compression must agree with PyTorch on logits (1e-4) and on greedy captions.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

import checkpoint
import compress
import configuration
import validation
from captioner import Captioner
from checkpoint import CheckpointError
from data import images, pixels, tokens
from data.tokens import Vocabulary
from finished import GRAPHS
from train import add_columns

OPSET = 17
TOLERANCE = 1e-4


class DecoderGraph(torch.nn.Module):
    """The decoder with its past as flat arguments and results."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.decoder = decoder

    def forward(self, ids: Tensor, memory: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        logits, presents = self.decoder(ids, memory, list(past))
        return (logits, *presents)


def export_graphs(captioner: Captioner, directory: Path) -> None:
    """Writes the four fp32 graphs; weights have the names of their parameters."""
    batch, text, past, recipe = 2, 5, 3, captioner.recipe
    width, size, decoder = recipe.model.width, recipe.image.size, captioner.decoder
    states, mask = torch.randn(batch, captioner.image.tokens, width), torch.ones(batch, text, dtype=torch.int64)
    ids = torch.ones(batch, text, dtype=torch.int64)
    cache = [torch.randn(*(past if n == 0 else n for n in part.shape)) for part in decoder.empty_past(batch)]
    axes = decoder.past_axes()
    rows, words, sequence = {0: "batch"}, {0: "batch", 1: "text_length"}, {0: "batch", 1: "sequence"}
    # a recurrent decoder takes one word a step
    step = (ids[:, :1], {0: "batch"}) if decoder.one_token_steps else (ids, sequence)
    graphs = {
        "vision_model": (captioner.image, (torch.randn(batch, 3, size, size),), {"pixel_values": rows},
                         {"last_hidden_state": rows, "image_embeds": rows}),
        "text_model": (captioner.text, (ids, mask), {"input_ids": words, "attention_mask": words},
                       {"last_hidden_state": words, "text_embeds": rows}),
        "fusion": (captioner.fusion, (states, torch.randn(batch, text, width), mask),
                   {"image_hidden_states": rows, "text_hidden_states": words, "text_attention_mask": words},
                   {"encoder_hidden_states": rows, "fused_embeds": rows}),
        "decoder_with_past_model": (
            DecoderGraph(decoder).eval(), (step[0], states, *cache),
            {"input_ids": step[1], "encoder_hidden_states": {0: "batch", 1: "encoder_length"}}
            | {name: axes[name] for name in decoder.past_names},
            {"logits": step[1]} | {name: axes[name] for name in decoder.present_names}),
    }
    for name, (module, inputs, names_in, names_out) in graphs.items():
        path = directory / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing; that other sizes work is what check() and the tests show
            torch.onnx.export(module, inputs, path, dynamo=False, opset_version=OPSET, input_names=list(names_in),
                              output_names=list(names_out), dynamic_axes=names_in | names_out)
        graph = onnx.load(path)
        _name_weights(graph, {key.removeprefix("decoder."): value for key, value in module.state_dict().items()})
        for node in graph.graph.node:  # names of nodes are a good part of a small file
            node.ClearField("name")
            node.ClearField("doc_string")
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, path)


def _name_weights(model: onnx.ModelProto, state: dict[str, Tensor]) -> None:
    """Gives initializers the names of their parameters, `NAME^T` if transposed, so that weights can be read from the graph again.

    Of parameters that are equal the exporter keeps one; metadata say which initializer stands for the others.
    """
    names: dict[str, str] = {}
    known = {_content(value.numpy()): name for name, value in reversed(state.items())}
    turned = {_content(value.numpy().T): name + compress.TRANSPOSED for name, value in reversed(state.items()) if value.ndim == 2}
    for initializer in model.graph.initializer:
        content = _content(numpy_helper.to_array(initializer))
        name = initializer.name.removeprefix("decoder.")
        name = name if name in state else known.get(content) or turned.get(content) or ""
        if name and name not in names.values():
            names[initializer.name] = name
            initializer.name = name
    for node in model.graph.node:
        for place, used in enumerate(node.input):
            node.input[place] = names.get(used, used)
    held = {_content(numpy_helper.to_array(initializer)): initializer.name for initializer in model.graph.initializer}
    stored = set(held.values()) | {name.removesuffix(compress.TRANSPOSED) for name in held.values()}
    for name, value in state.items():
        if name not in stored and _content(value.numpy()) in held:
            model.metadata_props.add(key=f"{compress.SAME}{name}", value=held[_content(value.numpy())])


def _content(value: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return value.shape, np.ascontiguousarray(value).tobytes()


def check(captioner: Captioner, vocabulary: Vocabulary, directory: Path, data: images.Images) -> None:
    """Compares fp32 graphs with PyTorch: logits to 1e-4, also through the cache, and greedy captions word for word."""
    from pipeline import Pipeline

    pipeline, settings = Pipeline(directory), captioner.recipe
    worst, different = 0.0, 0
    for start in range(0, len(data), 25):
        part = range(start, min(start + 25, len(data)))
        batch = np.stack([pixels.pixels(data.image(i), settings.image.size) for i in part])
        # Every second image has side text.
        side = [data.captions[i][0] if i % 2 else "" for i in part]
        ids, mask = pipeline.tokens(side)
        with torch.inference_mode():
            image_tokens, _ = captioner.image(torch.from_numpy(batch))
            states, _ = captioner.text(torch.from_numpy(ids), torch.from_numpy(mask))
            memory, _ = captioner.fusion(image_tokens, states, torch.from_numpy(mask))
            given = [tokens.clean(data.captions[i][-1]) for i in part]
            prefix = torch.from_numpy(tokens.encode(vocabulary.tokenizer, given, 20, vocabulary.written))
            expected, _ = captioner.decoder(prefix, memory)
            written = vocabulary.tokenizer.decode_batch(validation.greedy(captioner, memory, settings.decoder.max_new_tokens))
        found = pipeline.memory(batch, side)[0]
        logits, past = pipeline.step(prefix[:, :3].numpy(), found, None)
        more, _ = pipeline.step(prefix[:, 3:].numpy(), found, past)
        worst = max(worst, float(np.abs(np.concatenate([logits, more], 1) - expected.numpy()).max()))
        different += sum(a != b for a, b in zip(pipeline.generate(found, beams=1), written))
    print(f"fp32 graphs against PyTorch on {len(data)} images: largest difference of logits {worst:.2e}, "
          f"{different} greedy captions differ")
    if worst > TOLERANCE or different:
        raise CheckpointError("the exported graphs do not reproduce the checkpoint")


def write_configuration(captioner: Captioner, vocabulary: Vocabulary, directory: Path) -> None:
    """config.json, generation_config.json, preprocessor_config.json and tokenizer.json with transformers' keys, and recipe.toml."""
    recipe = captioner.recipe
    special = {"bos_token_id": tokens.CLS, "eos_token_id": tokens.SEP, "pad_token_id": tokens.PAD,
               "decoder_start_token_id": tokens.CLS}
    positions = {"max_position_embeddings": recipe.decoder.positions} if recipe.decoder.kind == "transformer" else {}
    size = {"height": recipe.image.size, "width": recipe.image.size}
    files = {
        "config": {"model_type": "nightcap", "architectures": ["NightcapCaptioner"], "is_encoder_decoder": True,
                   "hidden_size": recipe.model.width, "projection_dim": recipe.model.projection,
                   "image_tokens": captioner.image.tokens, "vocab_size": vocabulary.size,
                   "decoder_vocab_size": vocabulary.written, **positions,
                   "text_max_length": recipe.tokens.text_length, **special},
        "generation_config": {**special, "max_new_tokens": recipe.decoder.max_new_tokens, "num_beams": 1, "do_sample": False},
        "preprocessor_config": {
            "image_processor_type": "ViTImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": size, "resample": 3,
            "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": pixels.MEAN, "image_std": pixels.STD},
    }
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    vocabulary.tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    (directory / "recipe.toml").write_text(configuration.as_toml(recipe), encoding="utf-8")


def export(captioner: Captioner, vocabulary: Vocabulary, output: Path, fp32: bool = False, data: images.Images | None = None) -> None:
    """Writes the model directory; with `data`, checks the graphs on it first."""
    output.mkdir(parents=True, exist_ok=True)
    write_configuration(captioner, vocabulary, output)
    with tempfile.TemporaryDirectory() as scratch:
        plain = output if fp32 else Path(scratch)
        export_graphs(captioner, plain)
        if data is not None:
            write_configuration(captioner, vocabulary, plain)
            check(captioner, vocabulary, plain, data)
        if not fp32:
            for name in GRAPHS:
                compress.compress(plain / f"{name}.onnx", output / f"{name}.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--recipe", type=Path, help="recipe of a checkpoint that does not hold one")
    parser.add_argument("--check", help="Parquet or CSV of images with captions to check the graphs on")
    parser.add_argument("--check-images", type=int, default=200)
    add_columns(parser)
    parser.add_argument("--fp32", action="store_true", help="leave the weights as they are")
    args = parser.parse_args()
    try:
        captioner, vocabulary = checkpoint.load(args.checkpoint, configuration.load(args.recipe) if args.recipe else None)
        columns = images.Columns(args.key, args.image, args.captions)
        export(captioner, vocabulary, args.output, args.fp32,
               images.read(args.check, columns, args.check_images) if args.check else None)
    except (CheckpointError, configuration.RecipeError, images.DataError) as error:
        sys.exit(f"error: {error}")
    for path in sorted(args.output.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
