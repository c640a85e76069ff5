"""Makes images: python benches/peers/pictures.py FOLDER COUNT WIDTH HEIGHT

Different parts of the sample photographs as COUNT JPEG files of WIDTH x HEIGHT, no two of them equal, and a manifest.parquet
that lists them.
"""

import concurrent.futures
import functools
import pathlib
import random
import sys

from PIL import Image

PHOTOS = pathlib.Path(__file__).resolve().parents[2] / "sample_data/photos"


@functools.cache
def photographs():
    """The photographs that are not damaged on purpose."""
    found = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        try:
            found.append(Image.open(path).convert("RGB"))
        except OSError:
            continue
    return found


def write(path, photo, box, size):
    photographs()[photo].resize(size, Image.Resampling.BICUBIC, box=box).save(path, quality=90)


def draw(folder, count, width, height):
    """Writes the images, on all cores, and returns their names."""
    folder.mkdir(parents=True)
    random_numbers, photos = random.Random(0), photographs()
    names = [f"{place:04}.jpg" for place in range(count)]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        written = []
        for place, name in enumerate(names):
            size = photos[place % len(photos)].size
            part = [side * random_numbers.uniform(0.6, 0.95) for side in size]
            corner = [random_numbers.uniform(0, side - taken) for side, taken in zip(size, part)]
            box = (*corner, *(start + taken for start, taken in zip(corner, part)))
            written.append(pool.submit(write, folder / name, place % len(photos), box, (width, height)))
        for each in written:
            each.result()
    return names


def main(folder, count, width, height):
    import polars as pl  # gpu.py draws images where there is none
    names = draw(folder, count, width, height)
    pl.DataFrame({"id": range(count), "image": names}).write_parquet(folder / "manifest.parquet")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
