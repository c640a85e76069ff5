#!/usr/bin/env python3
"""Makes captions.jpg, the image of README.md: sample photographs with the captions that nightcap wrote.

In:  OUTPUT, the folder that `nightcap run jobs/sample.toml` wrote; the photographs beside it, in sample_data/photos.
     Python packages: duckdb, pillow 13.
Out: docs/captions.jpg. All photographs in it are in the public domain or under CC0-1.0 (see sample_data/README.md).
"""

import pathlib
import sys
import textwrap

import duckdb
from PIL import Image, ImageDraw, ImageFont, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
PHOTOS = HERE.parent / "sample_data"
# Right ones, half right ones, and a cow that becomes two dogs.
SHOWN = ["cameraman", "golden-retriever", "german-shepherd", "cat-face", "horses", "soccer-ball", "canyon-river", "cow"]
FREE = ("Public domain", "CC0-1.0")
COLUMNS, WIDTH, HEIGHT, GAP, TEXT = 4, 240, 180, 12, 56


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: captions.py OUTPUT")
    parts = str(pathlib.Path(sys.argv[1]) / "run=*" / "part-*.parquet")
    query = "SELECT id, image, caption, licence FROM read_parquet(?) WHERE status = 'ok'"
    rows = {row[0]: row[1:] for row in duckdb.execute(query, [parts]).fetchall()}
    height = -(-len(SHOWN) // COLUMNS) * (HEIGHT + TEXT + GAP) + GAP
    sheet = Image.new("RGB", (COLUMNS * (WIDTH + GAP) + GAP, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, key in enumerate(SHOWN):
        image, caption, licence = rows[key]
        if licence not in FREE:
            sys.exit(f"captions: expected {key} under one of {FREE}, found {licence}")
        left, top = (GAP + at * (size + GAP) for at, size in ((place % COLUMNS, WIDTH), (place // COLUMNS, HEIGHT + TEXT)))
        photo = ImageOps.exif_transpose(Image.open(PHOTOS / image)).convert("RGB")
        sheet.paste(ImageOps.fit(photo, (WIDTH, HEIGHT), Image.Resampling.LANCZOS), (left, top))
        draw.multiline_text((left, top + HEIGHT + 6), textwrap.fill(caption, 32), "#222222", font, spacing=3)
    sheet.save(HERE / "captions.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
