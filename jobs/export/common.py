"""What the exporters of all families share: the command line, files beside the graphs, graphs, states, and the checks.

A graph is written by PyTorch's TorchScript exporter at opset 17, then run by ONNX Runtime with another batch and other
lengths than it was traced with. Whoever reads `done` knows that the graphs agree with PyTorch: every failed check ends the
command with a message and status 1.
"""

import argparse
import logging
import os
import pathlib
import tempfile
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Tracing warns about every shape that Python reads; the checks below find the ones that matter.
warnings.filterwarnings("ignore")
logging.getLogger("torch.onnx").setLevel(logging.ERROR)

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

OPSET = 17
# Largest difference from PyTorch, relative to the largest value of the output if that is more than 1.
TOLERANCE = 1e-4
# Graphs whose weights are larger keep them in a file beside them, `NAME.onnx_data`: protobuf ends at 2 GiB.
EXTERNAL_FROM = 1 << 30


def arguments(documentation):
    """CHECKPOINT (a folder or a name on the hub) and OUTPUT (a folder, new or empty) of the command line."""
    usage, _, rest = documentation.partition("\n\n")
    parser = argparse.ArgumentParser(description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder or a name on the Hugging Face hub")
    parser.add_argument("output", metavar="OUTPUT", type=pathlib.Path, help="the model directory to write, new or empty")
    given = parser.parse_args()
    if given.output.exists() and (not given.output.is_dir() or any(given.output.iterdir())):
        fail(f"expected a new or empty folder, found {given.output}", "remove it, or name another OUTPUT")
    torch.manual_seed(0)
    return given.checkpoint, given.output


def fail(message, hint):
    """Ends the command with status 1."""
    raise SystemExit(f"error: {message}\nhint: {hint}")


def output(folder, model, processor):
    """Writes the configuration of model and processor, tokenizer included; returns the folder of the graphs."""
    graphs = folder / "onnx"
    graphs.mkdir(parents=True)
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return graphs


def export(module, path, inputs, outputs):
    """Writes `module` as the graph `path` and checks it.

    `inputs` has a pair (example tensor, names of its dynamic axes) for each argument of `forward`, in order; `outputs` the
    names of the dynamic axes of each result; all others are fixed. Axes of one name have one size, and
    `total_sequence_length` is the sum of `past_sequence_length` and `sequence_length` where a graph has both.
    """
    module = module.eval()
    example = {name: tensor for name, (tensor, _) in inputs.items()}
    axes = {name: names for name, (_, names) in inputs.items()}
    with torch.no_grad(), tempfile.TemporaryDirectory() as work:
        traced = pathlib.Path(work, path.name)
        torch.onnx.export(module, tuple(example.values()), traced, dynamo=False, opset_version=OPSET, input_names=list(axes),
                          output_names=list(outputs), dynamic_axes=axes | outputs)
        # A large graph comes with a file for each of its weights.
        graph = onnx.load(traced)
        results = module(*example.values())
    # The exporter does not infer every width, which readers of the graph need.
    for value, result in zip(graph.graph.output, results if isinstance(results, tuple) else (results,), strict=True):
        for place, length in enumerate(result.shape):
            if place not in outputs[value.name]:
                value.type.tensor_type.shape.dim[place].dim_value = length
    save(graph, path)
    runner = session(path)
    difference = max(compare(module, runner, given) for given in [example, resized(example, axes)])
    print(f"{path.name}: differs from PyTorch by {difference:.1e} at most")


def save(graph, path):
    """Writes a graph, with large weights beside it."""
    weights = path.with_name(f"{path.name}_data")
    weights.unlink(missing_ok=True)  # onnx would write behind what is there
    size = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    onnx.save(graph, path, save_as_external_data=size >= EXTERNAL_FROM, location=weights.name)
    if weights.exists():
        weights.chmod(path.stat().st_mode)  # onnx lets only the owner read it
    onnx.checker.check_model(path, full_check=True)


def resized(example, axes):
    """Inputs of another batch and other lengths: fresh random floats, and the example's integers over again."""
    sizes = {axis: example[name].shape[place] for name, names in axes.items() for place, axis in names.items()}
    sizes = {axis: size + more for more, (axis, size) in enumerate(sizes.items(), 1)}
    if {"past_sequence_length", "sequence_length", "total_sequence_length"} <= sizes.keys():
        sizes["total_sequence_length"] = sizes["past_sequence_length"] + sizes["sequence_length"]
    made = {}
    for name, tensor in example.items():
        shape = [sizes[axes[name][place]] if place in axes[name] else size for place, size in enumerate(tensor.shape)]
        made[name] = torch.randn(shape) if tensor.is_floating_point() else torch.from_numpy(np.resize(tensor.numpy(), shape))
    return made


def compare(module, runner, given):
    """The largest difference between the graph's outputs and PyTorch's, which has to be within TOLERANCE."""
    with torch.no_grad():
        expected = module(*given.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = run(runner, {name: tensor.numpy() for name, tensor in given.items()})
    return max(close(f"{name} for inputs of shapes {[tuple(each.shape) for each in given.values()]}", array, tensor.numpy())
               for (name, array), tensor in zip(found.items(), expected, strict=True))


def close(what, found, expected):
    """The largest difference, which has to be within TOLERANCE."""
    if found.shape != expected.shape:
        fail(f"expected {what} of shape {expected.shape}, as PyTorch has it, found {found.shape}",
             "the graph has fixed a size that has to be free: look for Python numbers in what was traced")
    difference = float(np.abs(found - expected).max(initial=0))
    # Written so that NaN fails.
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0))):
        fail(f"expected {what} within {TOLERANCE} of PyTorch, found a difference of {difference}",
             "the graphs do not reproduce the checkpoint: do not use them")
    return difference


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(runner, given):
    """The outputs of a graph by name; of `given` only what the graph declares is fed."""
    feed = {value.name: given[value.name] for value in runner.get_inputs()}
    return dict(zip([value.name for value in runner.get_outputs()], runner.run(None, feed)))


def state_names(prefix, layers, cross=False):
    """`past_key_values.0.key`, ...; with cross-attention `past_key_values.0.decoder.key`, ..., `.encoder.value`."""
    kinds = ["decoder.", "encoder."] if cross else [""]
    return [f"{prefix}.{layer}.{kind}{part}" for layer in range(layers) for kind in kinds for part in ("key", "value")]


def state_axes(name):
    """The dynamic axes of a state, float32 [batch, heads, length, head width]."""
    if ".encoder." in name:
        return {0: "batch_size", 2: "encoder_sequence_length"}
    return {0: "batch_size", 2: "past_sequence_length" if name.startswith("past") else "total_sequence_length"}


def flatten(cache):
    """The tensors of a cache in the order of `state_names`."""
    if isinstance(cache, EncoderDecoderCache):
        halves = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers)
        return [part for pair in halves for layer in pair for part in (layer.keys, layer.values)]
    return [part for layer in cache.layers for part in (layer.keys, layer.values)]


def decoder_cache(states):
    """The cache of a model without cross-attention; no states make an empty one."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(states[::2], states[1::2], strict=True)):
        cache.update(keys, values, layer)
    return cache


def encoder_decoder_cache(states):
    """The cache of a model with cross-attention, whose `encoder` states are not computed again."""
    own = [state for layer in range(0, len(states), 4) for state in states[layer:layer + 2]]
    cross = [state for layer in range(0, len(states), 4) for state in states[layer + 2:layer + 4]]
    return EncoderDecoderCache(decoder_cache(own), decoder_cache(cross))


def picture():
    """An image of smooth random colours, for the check of all graphs together."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(colours).resize((640, 480), Image.Resampling.BICUBIC)


def same_values(what, found, expected):
    """Compares the final outputs of all graphs together with PyTorch."""
    print(f"{what} differ from PyTorch by {close(what, found, expected):.1e} at most")


def same_tokens(found, expected):
    """Compares the graphs' greedy tokens [B, T] with those of PyTorch."""
    if found.shape != expected.shape or (found != expected).any():
        fail(f"expected PyTorch's greedy tokens {expected.tolist()}, found {found.tolist()}",
             "the graphs do not reproduce the checkpoint: do not use them")
    print(f"greedy tokens are those of PyTorch: {expected.tolist()}")
