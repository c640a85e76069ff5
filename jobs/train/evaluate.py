"""Scores a model directory, or captions that `nightcap run` wrote, against the references of a Parquet or CSV file.

    python evaluate.py --model MODEL --data VALIDATION.parquet
    python evaluate.py --captions-of 'OUTPUT/run=*/part-*.parquet' --data VALIDATION.parquet [--known TRAIN.parquet]

Relevance: BLEU-1..4, ROUGE-L, CIDEr and recall@1/5/10, in percent. Readability: distinct 1- and 2-grams, captions that repeat
themselves (a sequence of two or more words occurs twice, or one word twice in a row), captions that are none of --known's, in
percent. With side text, each image is given its first caption and scored against the others, and so are the runs that it is compared
with: without side text, and with the wrong one (the first caption of the next image).
"""

import argparse
import glob
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import metrics
from data import images
from data.images import DataError, Images
from data.pixels import pixels
from pipeline import Pipeline
from train import add_columns

Scores = dict[str, dict[str, float]]


def evaluate_model(directory: Path, data: Images, known: list[str], batch: int = 25, threads: int = 2) -> Scores:
    """All scores of a model directory by name."""
    pipeline, began = Pipeline(directory, threads), time.time()
    captions: dict[tuple[str, int], list[str]] = {}
    embeddings: dict[str, list[np.ndarray]] = {}
    fused: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(data), batch):
        part = range(start, min(start + batch, len(data)))
        seen = np.stack([pixels(data.image(i), pipeline.size) for i in part])
        given = {"no text": [""] * len(part), "side text": [data.captions[i][0] for i in part],
                 "wrong text": [data.captions[(i + 1) % len(data)][0] for i in part]}
        for side, texts in given.items():
            memory, image, joint = pipeline.memory(seen, texts)
            embeddings.setdefault(side, []).append(image)
            fused.setdefault(side, []).append(joint)
            for beams in (1, 3):
                captions.setdefault((side, beams), []).extend(pipeline.generate(memory, beams))
        print(f"\r{part[-1] + 1}/{len(data)} images, {time.time() - began:.0f} s", end="", flush=True)
    print()

    others = [group[1:] or group for group in data.captions]
    scores: Scores = {}
    for beams, name in ((1, "greedy"), (3, "beam 3")):
        scores[name] = metrics.caption_scores(captions["no text", beams], data.captions)
        scores[f"{name}, readability"] = metrics.readability(captions["no text", beams], known)
        for side in given:
            scores[f"{name}, other references, {side}"] = metrics.caption_scores(captions[side, beams], others)
    texts, owners = text_embeddings(pipeline, data.captions)
    scores["image embeddings"] = metrics.recalls(np.concatenate(embeddings["no text"]), texts, owners)
    texts, owners = text_embeddings(pipeline, others)
    for side in given:
        scores[f"fused embeddings, other captions, {side}"] = metrics.recalls(np.concatenate(fused[side]), texts, owners)
    return scores


def text_embeddings(pipeline: Pipeline, captions: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of all captions `[texts, width]`, and the image of each."""
    texts = pipeline.embed([caption for group in captions for caption in group])
    return texts, np.repeat(np.arange(len(captions)), [len(group) for group in captions])


def written(pattern: str, columns: list[str]) -> dict[str, dict]:
    """The rows of the Parquet files that match, by image_id."""
    files = sorted(glob.glob(pattern))
    if not files:
        raise DataError(f"no file matches {pattern}")
    found = {}
    for file in files:
        for row in pq.ParquetFile(file).read(columns=["image_id", *columns]).to_pylist():
            found[row["image_id"]] = row
    return found


def evaluate_captions(pattern: str, data: Images, known: list[str] | None = None) -> Scores:
    """Scores of the captions in these Parquet files (columns image_id, caption) against all references."""
    found = {key: row["caption"] for key, row in written(pattern, ["caption"]).items()}
    rows = [i for i, key in enumerate(data.ids) if found.get(key) is not None]
    if not rows:
        raise DataError(f"no image_id of {pattern} with a caption is in the reference file")
    print(f"{len(rows)} of {len(data)} images have captions")
    captions = [found[data.ids[i]] for i in rows]
    return {"captions": metrics.caption_scores(captions, [data.captions[i] for i in rows]),
            "readability": metrics.readability(captions, known or [])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="model directory")
    source.add_argument("--captions-of", help="glob of Parquet files that nightcap wrote")
    parser.add_argument("--data", required=True, help="Parquet or CSV of images with captions")
    parser.add_argument("--known", help="the training data, to tell which captions are novel")
    add_columns(parser)
    parser.add_argument("--limit", type=int, help="use only the first images")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    args = parser.parse_args()
    columns = images.Columns(args.key, args.image, args.captions)
    try:
        data = images.read(args.data, columns, args.limit)
        known = [c for group in images.read(args.known, columns).captions for c in group] if args.known else []
        if args.model:
            scores = evaluate_model(args.model, data, known, args.batch, args.threads)
        else:
            scores = evaluate_captions(args.captions_of, data, known)
    except DataError as error:
        sys.exit(f"error: {error}")
    if args.json:
        print(json.dumps(scores, indent=2))
        return
    for name, values in scores.items():
        print(f"{name}: " + "  ".join(f"{key} {value:.2f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
