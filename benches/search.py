"""Exact search over many vectors: `nightcap search` beside numpy over pyarrow and faiss, which do the same from the same Parquet files.

Usage: python benches/search.py PATH_TO_NIGHTCAP [ROWS [FOLDER]]        needs numpy, pyarrow, onnx and faiss-cpu

Makes an OUTPUT of ROWS (default 1,000,000) vectors of 512 float32 by `nightcap run`: images of 8x8 random pixels, a model of one random
matrix. Then searches it, all contestants in turns, ROUNDS times (environment, default 7), and prints the least time and the least
processor time of each. FOLDER (default: a temporary one) keeps the OUTPUT.

  command    the whole process of `nightcap search OUTPUT --like KEY`, which also checks the hash of every column chunk
  arrow      in a process that is warm: read the column with pyarrow, multiply with numpy, take the ten best
  faiss      the same with faiss.IndexFlatIP in place of numpy
  kernel     what each further query costs nightcap: 33 texts less 1 text, divided by 32
  pass       one pass of numpy over the vectors in memory (`vectors @ query`); also by faiss
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

REPO = Path(__file__).resolve().parent.parent
SIDE, WIDTH, VOCABULARY, QUERIES = 8, 512, 200, 33
ROUNDS = int(os.environ.get("ROUNDS", "7"))


def save(path: Path, nodes: list, inputs: list, output: str, weights: np.ndarray) -> None:
    embeds = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "graph", inputs, [embeds], [numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def make_model(folder: Path) -> None:
    """Image vectors are a random projection of pixels, text vectors the mean of random vectors of words."""
    folder.mkdir(exist_ok=True)
    dice = np.random.default_rng(1)
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    nodes = [helper.make_node("Flatten", ["pixel_values"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["image_embeds"])]
    save(folder / "vision_model.onnx", nodes, [pixels], "image_embeds", dice.normal(size=(3 * SIDE * SIDE, WIDTH)).astype(np.float32))
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask")]
    nodes = [helper.make_node("Gather", ["weights", "input_ids"], ["words"]),
             helper.make_node("ReduceMean", ["words"], ["text_embeds"], axes=[1], keepdims=0)]
    save(folder / "text_model.onnx", nodes, ids, "text_embeds", dice.normal(size=(VOCABULARY, WIDTH)).astype(np.float32))
    tiny = REPO / "tests/fixtures/tiny_model"
    (folder / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    config = json.loads((tiny / "config.json").read_text()) | {"projection_dim": WIDTH}
    (folder / "config.json").write_text(json.dumps(config))
    preprocessor = json.loads((tiny / "preprocessor_config.json").read_text()) | {"size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def make_output(nightcap: str, root: Path, rows: int) -> None:
    make_model(root / "model")
    size = SIDE * SIDE * 3
    header = struct.pack("<2sIHHI", b"BM", 54 + size, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, size, 2835, 2835, 0, 0)
    dice, schema = np.random.default_rng(2), pa.schema([("id", pa.int64()), ("image", pa.binary())])
    with pq.ParquetWriter(root / "manifest.parquet", schema) as writer:
        for start in range(0, rows, 50_000):
            count = min(50_000, rows - start)
            pixels = dice.integers(0, 256, (count, size), dtype=np.uint8)
            images = pa.array([header + row.tobytes() for row in pixels], pa.binary())
            writer.write_table(pa.table({"id": np.arange(start, start + count), "image": images}))
    (root / "job.toml").write_text(
        f'[input]\nmanifest = "manifest.parquet"\nkey = "id"\nimage = "image"\n[model]\npath = "{root}/model"\n'
        '[generation]\nenabled = false\n[output]\npath = "out"\npart_rows = 20000\n[runtime]\nbatch_size = 256\n')
    subprocess.run([nightcap, "run", root / "job.toml"], check=True)
    pq.write_table(pa.table({"text": [f"a {word} dog" for word in ["red", "small", "old"] * 11]}), root / "many.parquet")
    pq.write_table(pa.table({"text": ["a red dog"]}), root / "one.parquet")


def timed(work) -> tuple[tuple[float, float], object]:
    """Seconds by the clock and of all processors, and the result."""
    before, began = sum(os.times()[:4]), time.perf_counter()
    result = work()
    return (time.perf_counter() - began, sum(os.times()[:4]) - before), result


def read(root: Path) -> list[np.ndarray]:
    """The vectors `[rows, width]` of every chunk, without a copy, and as the rows are in OUTPUT."""
    parts = sorted((root / "out").glob("run=*/part-*.parquet"))
    column = ds.dataset(parts, format="parquet").to_table(columns=["image_embedding"])["image_embedding"]
    return [chunk.flatten().to_numpy().reshape(-1, WIDTH) for chunk in column.chunks]


def best(scores: np.ndarray) -> np.ndarray:
    rows = np.argpartition(-scores, 11)[:11]
    return rows[np.argsort(-scores[rows])][1:]


def main() -> None:
    import faiss

    nightcap, rows = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[3] if len(sys.argv) > 3 else temporary).resolve()
        root.mkdir(exist_ok=True)
        if not (root / "out/_nightcap/published").exists():
            make_output(nightcap, root, rows)
        compare(faiss, nightcap, root)


def compare(faiss, nightcap: str, root: Path) -> None:
    def search(*arguments: str) -> list:
        command = [nightcap, "search", str(root / "out"), *arguments, "--format", "json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    vectors = np.concatenate(read(root))
    query, index = vectors[7].copy(), faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    print(f"{len(vectors)} vectors of {WIDTH} float32, {vectors.nbytes / 1e9:.2f} GB, {os.cpu_count()} cores, "
          f"numpy {np.__version__}, pyarrow {pa.__version__}, faiss {faiss.__version__}")

    def by_arrow() -> list:
        return best(np.concatenate([chunk @ query for chunk in read(root)])).tolist()

    def by_faiss() -> list:
        read_now = faiss.IndexFlatIP(WIDTH)
        for chunk in read(root):
            read_now.add(chunk)
        return read_now.search(query[None], 11)[1][0, 1:].tolist()

    contestants = {
        "command": lambda: [hit["id"] for hit in search("--like", "7")[0]["hits"]], "arrow": by_arrow, "faiss": by_faiss,
        "1 text": lambda: search("--queries", str(root / "one.parquet")) and None,
        f"{QUERIES} texts": lambda: search("--queries", str(root / "many.parquet")) and None,
        "pass": lambda: best(vectors @ query).tolist(), "pass, faiss": lambda: index.search(query[None], 11)[1][0, 1:].tolist()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        found = []
        for name, work in contestants.items():
            spent, result = timed(work)
            times[name].append(spent)
            found += [result] if result else []
        assert all(result == found[0] for result in found), found
    least = {name: np.min(spent, axis=0) for name, spent in times.items()}
    least["kernel"] = (least[f"{QUERIES} texts"] - least["1 text"]) / (QUERIES - 1)
    print(f"{'':<18} {'ms':>8} {'processor ms':>14}")
    for name, (clock, processor) in least.items():
        print(f"{name:<18} {clock * 1000:>8.0f} {processor * 1000:>14.0f}")
    for one, other in (("kernel", "pass"), ("command", "arrow")):
        clock, processor = least[one] / least[other]
        print(f"{one + ' / ' + other:<18} {clock:>8.2f} {processor:>14.2f}")


if __name__ == "__main__":
    main()
