"""Makes images: python benches/peers/pictures.py FOLDER COUNT WIDTH HEIGHT

Different parts of the sample photographs as COUNT JPEG files of WIDTH x HEIGHT, no two of them equal, and a manifest.parquet
that lists them.
"""

import pathlib
import random
import sys

import polars as pl
from PIL import Image

PHOTOS = pathlib.Path(__file__).resolve().parents[2] / "sample_data/photos"


def photographs():
    """The photographs that are not damaged on purpose."""
    for path in sorted(PHOTOS.glob("*.jpg")):
        try:
            yield Image.open(path).convert("RGB")
        except OSError:
            continue


def main(folder, count, width, height):
    folder.mkdir(parents=True)
    draw, photos = random.Random(0), list(photographs())
    names = [f"{place:04}.jpg" for place in range(count)]
    for place, name in enumerate(names):
        photo = photos[place % len(photos)]
        part = [side * draw.uniform(0.6, 0.95) for side in photo.size]
        corner = [draw.uniform(0, side - taken) for side, taken in zip(photo.size, part)]
        box = (*corner, *(start + taken for start, taken in zip(corner, part)))
        photo.resize((width, height), Image.Resampling.BICUBIC, box=box).save(folder / name, quality=90)
    pl.DataFrame({"id": range(count), "image": names}).write_parquet(folder / "manifest.parquet")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
