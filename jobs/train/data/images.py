"""Captioned images from Parquet or CSV.

Parquet: a column of images, as `nightcap run` reads them (path, bytes, or a struct of both), and a column of captions, a list of
strings or one string. CSV: a column of image paths and a column with one caption; an image may have several rows. Relative paths
start at the folder of the file.
"""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageOps


class DataError(ValueError):
    """Data that cannot be used: says which file, what was expected and what was found."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns."""

    key: str | None = None  # default: image_id if there is one, else the path or the number of the row
    image: str = "image"
    captions: str = "captions"


@dataclass
class Images:
    """One split: `captions[i]` are the sentences of image i."""

    ids: list[str]
    sources: list[bytes | Path]
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """The image upright, as RGB."""
        source = self.sources[i]
        try:
            picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            return ImageOps.exif_transpose(picture).convert("RGB")
        except OSError as error:
            raise DataError(f"image {self.ids[i]}: {error}") from error

    def digest(self) -> str:
        """Tells splits apart: a hash of ids, sizes or paths of images, and captions."""
        found = hashlib.sha256()
        for key, source, captions in zip(self.ids, self.sources, self.captions):
            found.update(repr((key, len(source) if isinstance(source, bytes) else str(source), captions)).encode())
        return found.hexdigest()[:16]


def read(path: str | Path, columns: Columns = Columns(), limit: int | None = None) -> Images:
    """Reads a split; `limit` keeps its first images. Images without a caption are left out."""
    path = Path(path)
    try:
        rows = _csv(path, columns) if path.suffix.lower() == ".csv" else _parquet(path, columns, limit)
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
    rows = [(key, source, said) for key, source, said in rows if said][: limit or None]
    if not rows:
        raise DataError(f"{path}: expected images with captions, found none")
    ids, sources, captions = map(list, zip(*rows))
    return Images(ids, sources, captions)


def _need(path: Path, names: list[str], *wanted: str) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(f"{path}: expected a column {name!r}, found {', '.join(names)}\n"
                            "hint: name yours by --image, --captions and --key")


def _parquet(path: Path, columns: Columns, limit: int | None) -> list[tuple[str, bytes | Path, list[str]]]:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    key = columns.key or ("image_id" if "image_id" in names else None)
    _need(path, names, columns.image, columns.captions, *([key] if key else []))
    table = file.read(columns=[columns.image, columns.captions, *([key] if key else [])])
    table = table.slice(0, limit) if limit else table
    images, captions = table[columns.image].to_pylist(), table[columns.captions].to_pylist()
    keys = table[key].to_pylist() if key else list(range(len(images)))
    return [(str(k), _source(path, image), _sentences(said)) for k, image, said in zip(keys, images, captions)
            if image is not None]


def _source(path: Path, image: Any) -> bytes | Path:
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        return path.parent / image
    raise DataError(f"{path}: expected images as path, bytes or a struct of both, found {type(image).__name__}")


def _sentences(said: Any) -> list[str]:
    return [text for text in ([said] if isinstance(said, str) else said or []) if text and text.strip()]


def _csv(path: Path, columns: Columns) -> list[tuple[str, bytes | Path, list[str]]]:
    grouped: dict[str, tuple[str, bytes | Path, list[str]]] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        _need(path, list(rows.fieldnames or []), columns.image, columns.captions, *([columns.key] if columns.key else []))
        for row in rows:
            key = row[columns.key or columns.image]
            entry = grouped.setdefault(key, (key, path.parent / row[columns.image], []))
            entry[2].extend(_sentences(row[columns.captions]))
    return list(grouped.values())
