"""Swaps each block alone: trains, exports, runs and scores every recipe of recipes/ablation/, and prints the tables.

    python ablation.py --train TRAIN.parquet --validation VALIDATION.parquet --work DIR --nightcap PATH_TO_NIGHTCAP

With --models, it scores these finished model directories in the same way instead.

Every recipe has the same budget of steps and the same images. Captions and vectors of the first --images validation images are those
that `nightcap run` writes, once without and once with a side text (each image's first caption, which is then no reference). Speed is
images per second of processor time of that run without side text, start and model loading included, so that other programs on the
machine do not count. DIR/results.json keeps finished rows: a stopped command goes on. Needs ORT_DYLIB_PATH.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

import evaluate
import metrics
from data import images
from data.images import Images
from pipeline import Pipeline
from train import add_columns

HERE = Path(__file__).resolve().parent
JOB = """[input]
manifest = "{manifest}"
key = "image_id"
image = "image"
{text}
[model]
path = "{model}"
[output]
path = "{output}"
columns = []
[runtime]
threads = 1
"""


def command(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, HERE / script, *map(str, arguments)], check=True)


def write_manifest(data: Images, path: Path) -> None:
    """The images with their first caption as side text."""
    sources = [image if isinstance(image, bytes) else image.read_bytes() for image in data.sources]
    pq.write_table(pa.table({"image_id": data.ids, "image": pa.array(sources, pa.binary()),
                             "side": [group[0] for group in data.captions]}), path)


def by_nightcap(nightcap: Path, model: Path, manifest: Path, work: Path, side: bool) -> tuple[dict[str, dict], float]:
    """The rows that `nightcap run` writes, by image_id, and its processor time in seconds."""
    output = work / ("side" if side else "plain")
    job = output.with_suffix(".toml")
    job.write_text(JOB.format(manifest=manifest.resolve(), model=model.resolve(), output=output.resolve(),
                              text='text = "side"' if side else ""), encoding="utf-8")
    subprocess.run(["rm", "-rf", output], check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([nightcap, "run", job], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: nightcap run {job}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    columns = ["caption", "caption_similarity", "image_embedding", "fused_embedding"]
    return evaluate.written(f"{output}/run=*/part-*.parquet", columns), seconds


def parameters(model: Path) -> int:
    """How many numbers the graphs hold, without the scales of int8 weights."""
    return sum(math.prod(weight.dims) for path in model.glob("*.onnx") for weight in onnx.load(path).graph.initializer
               if not weight.name.endswith("_scale"))


def score(nightcap: Path, model: Path, data: Images, known: list[str], work: Path) -> dict[str, float]:
    """All figures of one model directory."""
    manifest = work / "manifest.parquet"
    write_manifest(data, manifest)
    plain, seconds = by_nightcap(nightcap, model, manifest, work, side=False)
    assisted, _ = by_nightcap(nightcap, model, manifest, work, side=True)
    others = [group[1:] or group for group in data.captions]

    def captions(rows: dict[str, dict]) -> list[str]:
        return [rows[key]["caption"] or "" for key in data.ids]

    def vectors(rows: dict[str, dict], column: str) -> np.ndarray:
        found = np.array([rows[key][column] for key in data.ids], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    pipeline = Pipeline(model, threads=1)
    texts, owners = evaluate.text_embeddings(pipeline, data.captions)
    # the first caption of each image was the side text
    other = np.concatenate([np.arange(len(group)) > (0 if len(group) > 1 else -1) for group in data.captions])
    found = metrics.caption_scores(captions(plain), data.captions)
    found |= metrics.recalls(vectors(plain, "image_embedding"), texts, owners)
    for name, rows in (("same references", plain), ("side text", assisted)):
        scores = metrics.caption_scores(captions(rows), others)
        found |= {f"{key} {name}": scores[key] for key in ("BLEU-4", "CIDEr")}
    found["fused i2t R@1 side text"] = metrics.recalls(vectors(assisted, "fused_embedding"), texts[other], owners[other])["i2t R@1"]
    found |= metrics.readability(captions(plain), known)
    similar = [row["caption_similarity"] for row in plain.values() if row["caption_similarity"] is not None]
    size = sum(path.stat().st_size for path in model.iterdir())
    return found | {"similarity": sum(similar) / max(1, len(similar)), "parameters M": parameters(model) / 1e6, "MB": size / 1e6,
                    "images/s": len(data) / seconds}


TABLES = {
    "Captions without side text, and retrieval": {
        **{f"B-{n}": f"BLEU-{n}" for n in range(1, 5)}, "CIDEr": "CIDEr",
        **{f"{short} R@{k}": f"{way} R@{k}" for short, way in (("i2t", "i2t"), ("t2i", "t2i")) for k in (1, 5, 10)},
        "M": "parameters M", "MB": "MB", "images/s": "images/s"},
    "Without and with side text, the other references": {
        "B-4 without": "BLEU-4 same references", "B-4 with": "BLEU-4 side text", "CIDEr without": "CIDEr same references",
        "CIDEr with": "CIDEr side text", "fused i2t R@1 with": "fused i2t R@1 side text"},
    "Relevance and readability": {
        "BLEU-4": "BLEU-4", "CIDEr": "CIDEr", "ROUGE-L": "ROUGE-L", "distinct-1": "distinct-1", "distinct-2": "distinct-2",
        "repeat": "repeat", "novel": "novel", "words": "words", "similarity": "similarity"}}


FINE = ("distinct-1", "distinct-2", "similarity", "parameters M")


def tables(results: dict[str, dict[str, float]]) -> str:
    lines = []
    for title, columns in TABLES.items():
        lines += [f"{title}:", "", "| recipe | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for name, row in results.items():
            values = [f"{row[key]:.{2 if key in FINE else 1}f}" for key in columns.values()]
            lines.append(f"| `{name}` | " + " | ".join(values) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--validation", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--nightcap", required=True, type=Path)
    parser.add_argument("--recipes", nargs="*", type=Path, help="recipes [recipes/ablation/*.toml, base.toml first]")
    parser.add_argument("--models", nargs="*", type=Path, default=[], help="finished model directories to score")
    parser.add_argument("--limit", type=int, default=3000, help="training images [3000]")
    parser.add_argument("--images", type=int, default=300, help="validation images for the table [300]")
    add_columns(parser)
    args = parser.parse_args()
    columns = images.Columns(args.key, args.image, args.captions)
    named = [option for pair in (("--key", args.key), ("--image", args.image), ("--captions", args.captions)) if pair[1] for option in pair]
    swapped = sorted((HERE / "recipes/ablation").glob("*.toml"), key=lambda path: (path.stem != "base", path.stem))
    recipes = [] if args.models else args.recipes or swapped
    data = images.read(args.validation, columns, args.images)
    known = [c for group in images.read(args.train, columns, args.limit).captions for c in group]
    store = args.work / "results.json"
    args.work.mkdir(parents=True, exist_ok=True)
    results = json.loads(store.read_text()) if store.exists() else {}
    for recipe in recipes:
        name, work = recipe.stem, args.work / recipe.stem
        if name in results:
            continue
        print(f"== {name}", flush=True)
        command("train.py", "--recipe", recipe, "--train", args.train, "--validation", args.validation, "--output", work,
                "--cache", args.work / "cache", "--limit", args.limit, "--threads", 1, *named)
        command("export.py", "--checkpoint", work / "best.pt", "--output", work / "model")
        results[name] = score(args.nightcap.resolve(), work / "model", data, known, work)
        store.write_text(json.dumps(results, indent=1))
    for model in args.models:
        results[str(model)] = score(args.nightcap.resolve(), model, data, known, args.work)
        store.write_text(json.dumps(results, indent=1))
    print(tables(results))


if __name__ == "__main__":
    main()
