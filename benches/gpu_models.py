"""Float16 graphs, and models that travel without their weights, for machines without a network:

    python benches/gpu_models.py half MODEL             adds NAME_fp16.onnx beside the graphs of MODEL
    python benches/gpu_models.py strip MODEL STRIPPED   writes MODEL, a gigabyte, as a few megabytes
    python benches/gpu_models.py fill STRIPPED MODEL    makes of these a model of the same shape and speed

MODEL has `torch/` and `onnx/`, as peers/models.py and smolvlm_256m.py make them. Large weights are drawn anew when a model is filled,
each with the mean and the spread that it had and by a generator that its name seeds. So all graphs of a model and its checkpoint agree
with each other: PyTorch's captions of a filled model are what nightcap should find.
"""

import concurrent.futures
import hashlib
import json
import pathlib
import shutil
import sys
import zlib

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

# Weights of fewer bytes travel as they are.
SMALL = 16384
# nightcap takes the merged graph where there is one.
UNUSED = {"decoder_model", "decoder_with_past_model"}


def used(graphs):
    """The float32 graphs of a folder that nightcap takes."""
    found = {path.stem: path for path in graphs if not path.stem.endswith(("_fp16", "_int8", "_quantized"))}
    return [path for stem, path in sorted(found.items()) if not (stem in UNUSED and "decoder_model_merged" in found)]


def tensors(graph):
    """The initializers of a graph and of those inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def half(model):
    from onnxruntime.transformers.float16 import convert_float_to_float16
    for path in used((model / "onnx").rglob("*.onnx")):
        made = convert_float_to_float16(onnx.load(path), keep_io_types=False, disable_shape_infer=True)
        onnx.save(made, path.with_name(f"{path.stem}_fp16.onnx"))
        print(path.stem, flush=True)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def spread(array):
    return {"mean": float(array.mean(dtype=np.float64)), "std": float(array.std(dtype=np.float64))}


def strip(model, stripped):
    shutil.copytree(model, stripped, ignore=shutil.ignore_patterns("*.onnx", "*.onnx_data", "*.safetensors", "*.sha256"))
    known, exact, drawn = {}, {}, {}
    for name, array in load_file(model / "torch/model.safetensors").items():
        if array.nbytes < SMALL or array.std() == 0:
            exact[name] = array
            continue
        drawn[name] = {"shape": array.shape} | spread(array)
        known[digest(array)] = {"of": name}
        if array.ndim == 2:
            known[digest(array.T)] = {"of": name, "transposed": True}
    save_file(exact, stripped / "torch/exact.safetensors")
    graphs = {}
    for path in used((model / "onnx").rglob("*.onnx")):
        found = {}
        for tensor in tensors(onnx.load(path).graph):
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.nbytes >= SMALL and array.std() > 0:
                found[tensor.name] = known.get(digest(array)) or {"of": tensor.name, "shape": array.shape} | spread(array)
        for file in (path, path.with_name(f"{path.stem}_fp16.onnx")):
            if file.exists():
                graph = onnx.load(file)
                for tensor in tensors(graph.graph):
                    if tensor.name in found and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
                        # Where the bytes are: float16 may be in another field.
                        for field in ("raw_data", "int32_data", "float_data"):
                            tensor.ClearField(field)
                onnx.save(graph, stripped / file.relative_to(model))
        graphs[str(path.relative_to(model))] = found
        strangers = [name for name, each in found.items() if "shape" in each]
        print(f"{path.stem}: {len(found)} weights, of which {len(strangers)} are not in the checkpoint", *strangers[:5], flush=True)
    (stripped / "weights.json").write_text(json.dumps({"torch": drawn, "graphs": graphs}))


def draw(name, shape, mean, std):
    made = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    made *= np.float32(std)
    made += np.float32(mean)
    return made


def fill_graph(stripped, file, found, drawn, model):
    """A graph, and the float16 graph beside it; either may be missing."""
    known = {}

    def weight(name):
        each = found[name]
        if name not in known:
            made = draw(each["of"], **(drawn.get(each["of"]) or {key: each[key] for key in ("shape", "mean", "std")}))
            known[name] = np.ascontiguousarray(made.T) if each.get("transposed") else made
        return known[name]

    for path in (file, file.with_name(f"{file.stem}_fp16.onnx")):
        if (stripped / path).exists():
            graph = onnx.load(stripped / path)
            for tensor in tensors(graph.graph):
                if tensor.name in found and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
                    dtype = np.float32 if tensor.data_type == onnx.TensorProto.FLOAT else np.float16
                    tensor.raw_data = weight(tensor.name).astype(dtype, copy=False).tobytes()
            (model / path).write_bytes(graph.SerializeToString())


def fill_checkpoint(stripped, drawn, model):
    made = {name: draw(name, **each) for name, each in drawn.items()} | load_file(stripped / "torch/exact.safetensors")
    save_file(made, model / "torch/model.safetensors", metadata={"format": "pt"})


def fill(stripped, model):
    weights = json.loads((stripped / "weights.json").read_text())
    partial = model.with_name(f"{model.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(stripped, partial, ignore=shutil.ignore_patterns("*.onnx", "exact.safetensors", "weights.json"))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        work = [pool.submit(fill_graph, stripped, pathlib.Path(file), found, weights["torch"], partial)
                for file, found in weights["graphs"].items()]
        work.append(pool.submit(fill_checkpoint, stripped, weights["torch"], partial))
        for each in work:
            each.result()
    partial.rename(model)


if __name__ == "__main__":
    {"half": half, "strip": strip, "fill": fill}[sys.argv[1]](*map(pathlib.Path, sys.argv[2:]))
