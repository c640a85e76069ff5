"""Runs fastembed over a folder of images: python benches/peers/fastembed_peer.py MODEL PICTURES COUNT [SETTINGS]

As peer.py, of which this is no part because fastembed's processes would import PyTorch with it. MODEL is the folder clip-image
of models.py, which fastembed takes for its Qdrant/clip-ViT-B-32-vision. "workers" is its `parallel`: with 0 one process does
everything, with 2 two processes of one thread do; what one image takes them, that is their start, is not counted.
"""

import json
import pathlib
import sys
import time

from fastembed import ImageEmbedding

from tuning import fastest

NAME, WORKERS = "Qdrant/clip-ViT-B-32-vision", (0, 2)


def runner(folder):
    """What gives seconds and rows of files, a batch size and a number of workers."""
    models = {}

    def embed(files, batch, workers):
        start = time.perf_counter()
        # fastembed starts no processes for a short list.
        rows = [row.tolist() for row in models[workers].embed(iter(files), batch_size=batch, parallel=workers or None)]
        return time.perf_counter() - start, rows

    def run(files, batch, workers):
        if workers not in models:
            models[workers] = ImageEmbedding(NAME, specific_model_path=str(folder), lazy_load=workers > 0)
            if not workers:
                embed(files[:2], 2, 0)  # the first call allocates
        starting = embed(files[:1], 1, workers)[0] if workers else 0
        seconds, rows = embed(files, batch, workers)
        return seconds - starting, rows

    return run


def main(folder, pictures, count, settings=None):
    files, run = sorted(pictures.glob("*.jpg")), runner(folder)
    if settings is None:
        print(json.dumps(fastest(run, files, count, WORKERS)[1]))
        return
    seconds, rows = run(files[:count], **settings)
    print(json.dumps({"seconds": seconds, "rows": rows}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), *map(json.loads, sys.argv[4:]))
