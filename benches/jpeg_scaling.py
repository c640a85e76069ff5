"""What `input.jpeg_scaling` saves and changes: python benches/jpeg_scaling.py PATH_TO_NIGHTCAP [--model FOLDER] [--rows N]

Jobs with and without it over N JPEGs of 4000 x 3000 pixels, for two kinds of images: parts of the sample photographs, enlarged
(smooth, as out of a phone's lens), and mosaics of 36 sample photographs at about their own size (detail down to the last pixel, which is the
worst case). Prints how close image embeddings are, how many captions change, seconds of the whole run, and how close two different
images are, to compare with.

Needs polars, Pillow and numpy, and ORT_DYLIB_PATH.
"""

import argparse
import pathlib
import random
import tempfile

from peak import run as measured
from peers import pictures

import numpy as np
import polars as pl
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
WIDTH, HEIGHT, ACROSS = 4000, 3000, 6


def mosaics(folder, count):
    """COUNT JPEG files, each of 36 photographs in an order of its own, and a manifest.parquet that lists them."""
    folder.mkdir(parents=True)
    draw, photos = random.Random(0), list(pictures.photographs())
    side = (-(-WIDTH // ACROSS), HEIGHT // ACROSS)
    names = [f"{place:04}.jpg" for place in range(count)]
    for name in names:
        mosaic = Image.new("RGB", (WIDTH, HEIGHT))
        for place in range(ACROSS * ACROSS):
            tile = draw.choice(photos).resize(side, Image.Resampling.LANCZOS)
            mosaic.paste(tile, (place % ACROSS * side[0], place // ACROSS * side[1]))
        mosaic.save(folder / name, quality=90)
    pl.DataFrame({"id": range(count), "image": names}).write_parquet(folder / "manifest.parquet")


def run(nightcap, model, folder, scaling):
    """Seconds of the whole run, and the rows."""
    with tempfile.TemporaryDirectory() as work:
        job = pathlib.Path(work, "job.toml")
        job.write_text(f'[input]\nmanifest = "{folder}/manifest.parquet"\nkey = "id"\nimage = "image"\njpeg_scaling = {scaling}\n'
                       f'[model]\npath = "{model}"\n[output]\npath = "out"\n')
        seconds, _ = measured([nightcap, "run", job])
        rows = pl.read_parquet(f"{work}/out/run=*/*.parquet").sort("id")
    if failed := rows.filter(pl.col("status") != "ok")["error_message"].to_list():
        raise SystemExit(f"error: expected rows that are ok, found {failed}")
    return seconds, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("nightcap", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, default=HERE.parent / "sample_data/model")
    parser.add_argument("--rows", type=int, default=64)
    given = parser.parse_args()
    nightcap, model = given.nightcap.resolve(), given.model.resolve()
    print("| pictures | rows | cosine, mean | worst | two different pictures | captions changed | seconds, full | scaled |\n"
          "|---|--:|--:|--:|--:|--:|--:|--:|")
    changes = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in [("photographs", lambda path: pictures.main(path, given.rows, WIDTH, HEIGHT)),
                           ("mosaics", lambda path: mosaics(path, given.rows))]:
            place = pathlib.Path(folder, kind)
            make(place)
            (full_s, full), (scaled_s, scaled) = run(nightcap, model, place, "false"), run(nightcap, model, place, "true")
            a, b = (rows["image_embedding"].to_numpy() for rows in (full, scaled))
            cosines = (a * b).sum(-1)
            others = a @ a.T - 2 * np.eye(len(a))
            pairs = zip(full["caption"], scaled["caption"])
            changed = [f"- {kind}, row {row}: {before!r} became {after!r}" for row, (before, after) in enumerate(pairs) if before != after]
            changes += changed
            print(f"| {kind} | {len(a)} | {cosines.mean():.6f} | {cosines.min():.6f} | {others.max():.4f} or less | {len(changed)} | "
                  f"{full_s:.1f} | {scaled_s:.1f} |", flush=True)
    print("", *changes, sep="\n")


if __name__ == "__main__":
    main()
