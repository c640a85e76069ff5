"""How long `nightcap eval` takes, and how much memory: five references a row, captions alone and with retrieval.

Usage: python benches/eval.py PATH_TO_NIGHTCAP [ROWS ...]        needs numpy, onnx, polars and pyarrow

Every row is another 8x8 BMP inside the manifest, captioned by the tiny test model; its vector of 512 float32 comes from the model of
search.py. The references are sentences of ten random words. Prints one line a size (default: 10,000 and 100,000 rows). Retrieval is the
product of every image with every reference: ten times the rows take a hundred times as long, so it is left out over 20,000 rows.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from flat_memory import REPO, bmp
from peak import run
from search import make_model

MOST_RETRIEVAL_ROWS = 20_000
WORDS = [f"word{number}" for number in range(3000)] + "a man dog red blue stands runs in on the grass beach near water with".split() * 60


def references(rows: int) -> pl.DataFrame:
    chosen = np.random.default_rng(3).choice(WORDS, (rows, 5, 10))
    return pl.DataFrame({"id": range(rows), "captions": [[" ".join(text) for text in of_row] for of_row in chosen.tolist()]})


def timed(command: list, answer: Path) -> tuple[float, float, float]:
    """Seconds by the clock and of all processors, and peak MB."""
    before = sum(os.times()[2:4])
    seconds, peak_mb = run(command, stdout=answer.open("w"))
    return seconds, sum(os.times()[2:4]) - before, peak_mb


def measure(nightcap: str, rows: int) -> list[tuple[float, float, float]]:
    """What it takes without the model of the vectors, and with it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_model(root / "vectors")
        pl.DataFrame({"id": range(rows), "image": [bmp(row) for row in range(rows)]}).write_parquet(root / "manifest.parquet")
        references(rows).write_parquet(root / "references.parquet")
        (root / "job.toml").write_text(
            '[input]\nmanifest = "manifest.parquet"\nkey = "id"\nimage = "image"\n'
            f'[model]\npath = "{REPO}/tests/fixtures/tiny_model"\n[embedding]\nmodel = "{root}/vectors"\n'
            '[output]\npath = "out"\npart_rows = 20000\n[runtime]\nbatch_size = 256\n')
        run([nightcap, "run", root / "job.toml"])
        command = [nightcap, "eval", root / "out", "--references", root / "references.parquet"]
        (root / "vectors").rename(root / "moved")
        found = [timed(command, root / "answer")]
        assert "i2t" not in (root / "answer").read_text()
        if rows <= MOST_RETRIEVAL_ROWS:
            (root / "moved").rename(root / "vectors")
            found.append(timed(command, root / "answer"))
            assert "i2t" in (root / "answer").read_text()
        return found


def main() -> None:
    nightcap, *sizes = sys.argv[1:]
    print(f"{os.cpu_count()} cores\n{'rows':>8} {'what':<16} {'seconds':>8} {'processor s':>12} {'peak MB':>8}")
    for rows in map(int, sizes or ["10000", "100000"]):
        for what, (seconds, processor, peak_mb) in zip(["captions", "retrieval too"], measure(nightcap, rows)):
            print(f"{rows:>8} {what:<16} {seconds:>8.1f} {processor:>12.1f} {peak_mb:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
