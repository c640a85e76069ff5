"""Writes small generated images with captions: coloured shapes, as Parquet (bytes) or as a folder with a CSV.

    python tests/toy_images.py --output DIR --count 48

The same seed gives the same bytes. Nothing is downloaded, and a captioner can learn to describe these images in a few hundred steps.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = {"red": (210, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "yellow": (230, 210, 40), "black": (20, 20, 20),
           "white": (245, 245, 245)}
SHAPES = ("circle", "square", "triangle")
PLACES = {"left": 0.3, "middle": 0.5, "right": 0.7}
SIDE = 96


def toy(rng: np.random.Generator) -> tuple[bytes, list[str]]:
    """One image as PNG, and four captions that say the same."""
    ground, colour = rng.choice(sorted(COLOURS), 2, replace=False)
    shape, place = rng.choice(SHAPES), rng.choice(sorted(PLACES))
    picture = Image.new("RGB", (SIDE, SIDE), COLOURS[ground])
    draw, x, y, r = ImageDraw.Draw(picture), PLACES[place] * SIDE, rng.uniform(0.4, 0.6) * SIDE, rng.uniform(0.15, 0.25) * SIDE
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    else:
        draw.polygon([(x - r, y + r), (x + r, y + r), (x, y - r)], fill=COLOURS[colour])
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue(), [f"A {colour} {shape} on the {place} of a {ground} picture.",
                            f"a {ground} picture with a {colour} {shape} on the {place}",
                            f"{shape} in {colour} before {ground}, {place}",
                            f"There is a {colour} {shape}."]


def write(directory: Path, name: str, count: int, seed: int) -> Path:
    """`name`.parquet with image_id, image {bytes, path} and captions."""
    rng = np.random.default_rng(seed)
    images, captions = zip(*(toy(rng) for _ in range(count)))
    table = pa.table({
        "image_id": [f"{name}-{i}" for i in range(count)],
        "image": pa.array([{"bytes": image, "path": None} for image in images],
                          pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "captions": list(captions)})
    path = directory / f"{name}.parquet"
    pq.write_table(table, path)
    return path


def write_folder(directory: Path, count: int, seed: int) -> Path:
    """captions.csv, one row a caption, beside a folder of images."""
    rng = np.random.default_rng(seed)
    (directory / "images").mkdir(parents=True, exist_ok=True)
    with open(directory / "captions.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "captions"])
        for i in range(count):
            image, captions = toy(rng)
            (directory / f"images/{i}.png").write_bytes(image)
            rows.writerows([f"images/{i}.png", caption] for caption in captions)
    return directory / "captions.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    print(write(args.output, "train", args.count, args.seed))
    print(write(args.output, "validation", args.count // 3, args.seed + 1))


if __name__ == "__main__":
    main()
