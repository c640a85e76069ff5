"""Quantise a model directory to int8: python jobs/export/quantize.py MODEL [--images FOLDER]

Writes X_int8.onnx beside every float32 graph X.onnx of MODEL, with ONNX Runtime's dynamic quantisation: the weights of matrix
products become int8, the activations uint8 while the graph runs. It then says how large the graphs are and how far their
outputs are from those of float32, for the first images of FOLDER (generated ones without it) and a few texts.

The scale of an activation is that of the whole batch. The outputs of a quantised graph for an image therefore depend
slightly on the other images of the batch; the report says by how much.

Weights that a graph stores in another form (int8 with scales, float16) are taken as the float32 numbers that ONNX Runtime makes
of them when it loads the graph; that form is lost.

Where decoder_model.onnx and decoder_with_past_model.onnx are there, decoder_model_merged.onnx is left out.
"""

import argparse
import logging
import pathlib
import tempfile

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

import common
import drift

PRECISIONS = ("_fp16", "_int8", "_uint8", "_quantized", "_q4", "_q4f16", "_bnb4")


def arguments():
    usage, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", type=pathlib.Path, help="a model directory, graphs in it or in its onnx/")
    parser.add_argument("--images", metavar="FOLDER", type=pathlib.Path, help="pictures for the report")
    parser.add_argument("--per-tensor", action="store_true", help="one scale a matrix instead of one a column")
    parser.add_argument("--embeddings", action="store_true", help="store embedding tables as int8 too, with one scale each")
    parser.add_argument("--reduce-range", action="store_true", help="7-bit weights, for x86 processors without VNNI")
    return parser.parse_args()


def graphs(model):
    """The float32 graphs to quantise."""
    found = sorted(path for folder in (model, model / "onnx") for path in folder.glob("*.onnx")
                   if not path.stem.endswith(PRECISIONS))
    if not found:
        common.fail(f"expected float32 graphs X.onnx in {model} or its onnx/ folder, found none", "name a model directory")
    if {"decoder_model", "decoder_with_past_model"} <= {path.stem for path in found}:
        found = [path for path in found if path.stem != "decoder_model_merged"]
    return found


def quantize(path, target, args):
    # Integer convolutions are slow, and left alone.
    kinds = ["MatMul", "Gather"] if args.embeddings else ["MatMul"]
    with tempfile.TemporaryDirectory() as work:
        path, made = unpacked(path, work), pathlib.Path(work, "graph.onnx")
        # The branches of a merged decoder are subgraphs.
        quantize_dynamic(path, made, kinds, per_channel=not args.per_tensor, reduce_range=args.reduce_range,
                         weight_type=QuantType.QInt8, use_external_data_format=size(path) >= common.EXTERNAL_FROM,
                         extra_options={"EnableSubgraph": True})
        common.save(onnx.load(made), target)


def unpacked(path, work):
    """The graph, or one in `work` whose matrices are float32 constants instead of computed from other ones."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    if not any(node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in stored for node in graph.node):
        return path
    options, folded = onnxruntime.SessionOptions(), pathlib.Path(work, "unpacked.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "unpacked.onnx_data")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return folded


def size(path):
    """Bytes of a graph and of the file of its weights."""
    return sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}_data")) if each.exists())


def main():
    args = arguments()
    logging.disable(logging.WARNING)  # of a tool that prepares convolutions
    pairs = [(path, path.with_name(f"{path.stem}_int8.onnx")) for path in graphs(args.model)]
    for path, target in pairs:
        quantize(path, target, args)
        print(f"{target.name}: {size(target) / 1e6:.2f} MB of {size(path) / 1e6:.2f} MB")
    before, after = (sum(map(size, files)) for files in zip(*pairs))
    print(f"together: {after / 1e6:.2f} MB of {before / 1e6:.2f} MB")
    drift.report(args.model, args.images, pairs)
    print(f"done: {args.model}")


main()
