"""Score a model directory, or captions that `nightcap run` wrote, against the references of a Parquet file.

    python evaluate.py --model MODEL --data DEV.parquet
    python evaluate.py --captions 'OUTPUT/run=*/part-*.parquet' --data DEV.parquet

Prints BLEU-1..4, CIDEr and recall@1/5/10, in percent. With side text, each photograph is given its first caption and
scored against the other four, and so are the runs that it is compared with: without side text, and with the wrong one
(the first caption of the next photograph).
"""

import argparse
import glob
import json
import time

import numpy as np
import pyarrow.parquet as pq

import data
import features
import metrics
from pipeline import Pipeline


def evaluate_model(directory, photographs, batch, threads):
    """All scores of a model directory by name."""
    pipeline, began = Pipeline(directory, threads), time.time()
    captions, images, fused = {}, {}, {}
    for start in range(0, len(photographs), batch):
        part = range(start, min(start + batch, len(photographs)))
        pixels = np.stack([features.pixels(photographs.image(i)) for i in part])
        given = {"no text": [""] * len(part), "side text": [photographs.captions[i][0] for i in part],
                 "wrong text": [photographs.captions[(i + 1) % len(photographs)][0] for i in part]}
        for side, texts in given.items():
            memory, image, joint = pipeline.memory(pixels, texts)
            images.setdefault(side, []).append(image)
            fused.setdefault(side, []).append(joint)
            for beams in (1, 3):
                captions.setdefault((side, beams), []).extend(pipeline.generate(memory, beams))
        print(f"\r{part[-1] + 1}/{len(photographs)} photographs, {time.time() - began:.0f} s", end="", flush=True)
    print()

    references, others = photographs.captions, [group[1:] for group in photographs.captions]
    scores = {}
    for beams, name in ((1, "greedy"), (3, "beam 3")):
        scores[name] = metrics.caption_scores(captions["no text", beams], references)
        for side in given:
            scores[f"{name}, 4 references, {side}"] = metrics.caption_scores(captions[side, beams], others)
    groups = {"": references, ", 4 captions": others}
    for suffix, group in groups.items():
        texts = pipeline.embed([caption for captions in group for caption in captions])
        owners = np.repeat(np.arange(len(group)), [len(captions) for captions in group])
        if not suffix:
            scores["image embeddings"] = metrics.recalls(np.concatenate(images["no text"]), texts, owners)
            continue
        for side in given:
            scores[f"fused embeddings{suffix}, {side}"] = metrics.recalls(np.concatenate(fused[side]), texts, owners)
    return scores


def evaluate_captions(pattern, photographs):
    """Scores of the captions in these Parquet files (columns image_id, caption) against all references."""
    files = sorted(glob.glob(pattern))
    if not files:
        raise SystemExit(f"error: no file matches {pattern}")
    found = {}
    for file in files:
        table = pq.ParquetFile(file).read(columns=["image_id", "caption"])
        found |= dict(zip(table["image_id"].to_pylist(), table["caption"].to_pylist()))
    rows = [i for i, key in enumerate(photographs.ids) if found.get(key) is not None]
    if not rows:
        raise SystemExit(f"error: no image_id of {files[0]} with a caption is in the reference file")
    print(f"{len(rows)} of {len(photographs)} photographs have captions in {len(files)} files")
    scores = metrics.caption_scores([found[photographs.ids[i]] for i in rows], [photographs.captions[i] for i in rows])
    return {"captions": scores}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="model directory")
    source.add_argument("--captions", help="glob of Parquet files")
    parser.add_argument("--data", required=True, help="Parquet: image_id, image {bytes, path}, captions")
    parser.add_argument("--limit", type=int, help="use only the first rows")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    args = parser.parse_args()
    photographs = data.read(args.data, args.limit)
    if args.model:
        scores = evaluate_model(args.model, photographs, args.batch, args.threads)
    else:
        scores = evaluate_captions(args.captions, photographs)
    if args.json:
        print(json.dumps(scores, indent=2))
        return
    for name, values in scores.items():
        print(f"{name}: " + "  ".join(f"{key} {value:.2f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
