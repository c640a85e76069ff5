"""Store an ONNX graph's weights as int8 with one scale a channel; the arithmetic stays fp32.

Each large weight W becomes Cast(int8 W) * scale, constants that a runtime folds when it loads the graph. An embedding
table stays int8 in memory: its rows are gathered first and scaled after. Depthwise kernels and long vectors become
f16 with a Cast; what has fewer than SMALLEST values stays as it is.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

SMALLEST = 2048
# The end of the name of a weight that a graph holds transposed.
TRANSPOSED = "^T"
# The start of the key of metadata that names the weight that another one is equal to.
SAME = "weight:"


def compress(source: Path, target: Path) -> None:
    """Read the graph `source`, write the compressed one to `target`."""
    model = onnx.load(source)
    graph = model.graph
    uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            uses.setdefault(name, []).append((node, slot))
    before = []
    for initializer in list(graph.initializer):
        weight, name = numpy_helper.to_array(initializer), initializer.name
        if weight.dtype != np.float32 or weight.size < SMALLEST or name not in uses:
            continue
        graph.initializer.remove(initializer)
        gathers = [node for node, slot in uses[name] if node.op_type == "Gather" and slot == 0]
        if weight.ndim < 2 or (weight.ndim == 4 and weight.shape[1] == 1):
            # Depthwise kernels have few weights a channel and feel rounding most.
            _add(graph, f"{name}_f16", weight.astype(np.float16))
            before.append(helper.make_node("Cast", [f"{name}_f16"], [name], to=onnx.TensorProto.FLOAT))
            continue
        axis = 0 if gathers or weight.ndim == 4 else _output_axis(weight, uses[name])
        rest = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.maximum(np.abs(weight).max(axis=rest, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
        _add(graph, f"{name}_i8", np.clip(np.rint(weight / scale), -127, 127).astype(np.int8))
        _add(graph, f"{name}_scale", scale)
        for node in gathers:
            _gather_rows(graph, node, name)
        if len(gathers) < len(uses[name]):
            before += [helper.make_node("Cast", [f"{name}_i8"], [f"{name}_f32"], to=onnx.TensorProto.FLOAT),
                       helper.make_node("Mul", [f"{name}_f32", f"{name}_scale"], [name])]
    nodes = before + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _output_axis(weight: np.ndarray, uses: list[tuple[onnx.NodeProto, int]]) -> int:
    """The axis of output channels: the last one of a MatMul's weight, the first of a transposed one."""
    node, _ = uses[0]
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed or node.op_type == "Transpose" else weight.ndim - 1


def _add(graph: onnx.GraphProto, name: str, array: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


def _gather_rows(graph: onnx.GraphProto, node: onnx.NodeProto, name: str) -> None:
    """Replace Gather(W, ids) by Cast(Gather(int8 W, ids)) * Gather(scale, ids)."""
    out, ids = node.output[0], node.input[1]
    at = list(graph.node).index(node)
    graph.node.remove(node)
    rows = [helper.make_node("Gather", [f"{name}_i8", ids], [f"{out}_i8"]),
            helper.make_node("Cast", [f"{out}_i8"], [f"{out}_f32"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{out}_scale"]),
            helper.make_node("Mul", [f"{out}_f32", f"{out}_scale"], [out])]
    for offset, new in enumerate(rows):
        graph.node.insert(at + offset, new)
