"""Writes tests/goldens/manifests: tar shards and folders of `datasets.save_to_disk`, and what their own packages read from them.

Run: python tests/goldens/make_manifests.py     (needs webdataset 1.0, datasets 5.2, pillow, and GNU tar)
shards/*.tar       shards as img2dataset and webdataset write them, and as tar programs do
shards.json        shard -> its samples by webdataset: __key__, and each member's bytes in base64
datasets/*         folders of save_to_disk: one file, several, and a DatasetDict
datasets.json      folder -> its rows by datasets; bytes of images in base64
"""

import base64
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

import datasets
import webdataset
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

OUT = pathlib.Path(__file__).parent / "manifests"
SHARDS, DATASETS = OUT / "shards", OUT / "datasets"


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = bytes((x * seed + 31 * y + 7 * seed) % 256 for y in range(8) for x in range(24))
    Image.frombytes("RGB", (8, 8), pixels).save(file, "png")
    return file.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def img2dataset(name: str, seeds: range, more: dict) -> None:
    """A shard with the members and keys of img2dataset 1.45."""
    with webdataset.TarWriter(str(SHARDS / name), mtime=0) as shard:
        for seed in seeds:
            key = f"{seed:09}"
            meta = {"caption": f"picture {seed}", "url": f"https://example.org/{seed}.png?a=1", "key": key, "status": "success",
                    "error_message": None, "width": 8, "height": 8, "original_width": 8, "original_height": 8,
                    "exif": "{}", "sha256": f"{seed:064x}", "similarity": float("nan") if seed == 1 else seed / 8, **more}
            shard.write({"__key__": key, "png": png(seed), "txt": meta["caption"], "json": json.dumps(meta, indent=4).encode()})


def member(shard: tarfile.TarFile, name: str, data: bytes = b"", **given: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in given.items():
        setattr(info, field, value)
    shard.addfile(info, io.BytesIO(data))


def odd(name: str, form: int) -> None:
    """Names and members that are rare."""
    with tarfile.open(SHARDS / name, "w", format=form) as shard:
        member(shard, "__index__", b"{}")
        member(shard, "train", type=tarfile.DIRTYPE)
        member(shard, "train/a.b/first.png", png(10))
        member(shard, "train/a.b/first.TXT", "Grüße,\n\"quoted\" \u2028 text\n".encode())
        member(shard, "train/a.b/first.cls", b"7\n")
        member(shard, "train/second.left.PNG", png(11))
        member(shard, "train/second.right.png", png(12))
        member(shard, "train/second.npy", b"\x93NUMPY")
        member(shard, "train/second.json", b'{"key": "not this", "image": "not this", "text": "of json", "note": [1, {"a": null}], "shard_key": 5}')
        member(shard, "train/no-image.txt", b"only words")
        member(shard, "train/empty-image.png")
        member(shard, "train/link.png", type=tarfile.SYMTYPE, linkname="a.b/first.png")
        member(shard, "train/hard.png", type=tarfile.LNKTYPE, linkname="train/a.b/first.png")
        member(shard, "train/list.json", b" [1, 2] ")
        member(shard, "train/list.jpeg", png(13))
        member(shard, "no-extension", b"x")
        member(shard, "__meta__/skipped.png", png(14))
        long = "train/" + ("deep/" * 12) + "n" * 90
        member(shard, long + ".png", png(15))
        member(shard, long + ".txt", b"a long name")
        member(shard, "train/first.png", png(16))
        member(shard, "train/first.tif", png(17))


def shards() -> None:
    img2dataset("pairs-00000.tar", range(0, 3), {})
    img2dataset("pairs-00001.tar", range(3, 5), {"late": True})
    for name, form in [("odd-pax.tar", tarfile.PAX_FORMAT), ("odd-gnu.tar", tarfile.GNU_FORMAT)]:
        odd(name, form)
    with tarfile.open(SHARDS / "ustar.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
        for seed in (20, 21):
            member(shard, "p" * 99 + f"/{seed}.png", png(seed))
    with tarfile.open(SHARDS / "empty.tar", "w"):
        pass
    with tarfile.open(SHARDS / "twice.tar", "w") as shard:
        member(shard, "a.png", png(30))
        member(shard, "a.PNG", png(31))
    with tarfile.open(SHARDS / "apart.tar", "w") as shard:
        for name in ("a.png", "b.png"):
            member(shard, name, png(32))
        member(shard, "a.txt", b"apart")
    with tempfile.TemporaryDirectory() as folder:
        with open(pathlib.Path(folder) / "a.png", "wb") as file:
            file.seek(1 << 16)
            file.write(png(33))
        for form in ("gnu", "pax"):
            shard = SHARDS / f"sparse-{form}.tar"
            flags = ["--sparse", f"--format={form}", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"]
            subprocess.run(["tar", *flags, "-C", folder, "-cf", shard, "a.png"], check=True)
    read = {}
    for path in sorted(SHARDS.glob("*.tar")):
        if path.stem in ("twice", "apart") or path.stem.startswith("sparse"):
            continue
        with open(path, "rb") as file:
            members = ({**member, "__url__": ""} for member in tar_file_iterator(file))
            samples = [dict(sample) for sample in group_by_keys(members)]
        read[path.name] = [{name: value if name == "__key__" else text(value) for name, value in sample.items() if name != "__url__"} for sample in samples]
    (OUT / "shards.json").write_text(json.dumps(read, indent=1) + "\n")


def folders() -> None:
    rows = {
        "id": [f"row {seed}" for seed in range(40, 45)],
        "image": [{"bytes": png(seed), "path": f"{seed}.png"} for seed in range(40, 45)],
        "label": [0, 1, 1, 0, 1],
        "title": ["one", None, "three", "", "fünf"],
        "tags": [["a"], [], ["b", "c"], ["d"], []],
        "raw": [b"\x00", b"1", b"", b"3", b"4"],
    }
    rows["image"][3] = None
    features = datasets.Features({
        "id": datasets.Value("string"), "image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]),
        "title": datasets.Value("string"), "tags": datasets.List(datasets.Value("string")), "raw": datasets.Value("binary"),
    })
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(DATASETS / "one")
    data.save_to_disk(DATASETS / "three", num_shards=3)
    datasets.DatasetDict({"train": data.select(range(3)), "test": data.select(range(3, 5))}).save_to_disk(DATASETS / "splits")
    datasets.Dataset.from_dict({"id": ["a"], "n": [1]}).save_to_disk(DATASETS / "text")

    def plain(value: object) -> object:
        if isinstance(value, bytes):
            return text(value)
        return {name: plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    read = {}
    for name in ("one", "three", "splits/train", "splits/test"):
        undecoded = datasets.load_from_disk(DATASETS / name).cast_column("image", datasets.Image(decode=False))
        read[name] = [plain(dict(row)) for row in undecoded]
    (OUT / "datasets.json").write_text(json.dumps(read, indent=1) + "\n")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for folder in (SHARDS, DATASETS):
        folder.mkdir(parents=True)
    shards()
    folders()
