"""Shows that memory does not grow with the manifest: peak RSS of `nightcap run` over 10,000 and 200,000 synthetic rows.

Usage: .venv/bin/python benches/flat_memory.py PATH_TO_NIGHTCAP [ROWS ...]

Every row is another 8x8 BMP inside the manifest, captioned by the tiny test model, so that the engine and not the model is
what is measured. Prints one line a size: rows, seconds, rows a second, peak RSS in MB; and what each further row costs.
"""

import struct
import sys
import tempfile
from pathlib import Path

import polars as pl

from peak import run

REPO = Path(__file__).resolve().parent.parent


def bmp(seed: int) -> bytes:
    """An 8x8 image whose pixels differ with `seed`."""
    side = 8
    pixels = bytes((seed * 2654435761 + i * 40503) >> (i % 13) & 0xFF for i in range(side * side * 3))
    header = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return header + info + pixels


def measure(nightcap: str, rows: int) -> tuple[float, float]:
    """Seconds and peak MB of one size, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frame = pl.DataFrame({"id": range(rows), "image": [bmp(row) for row in range(rows)]})
        frame.write_parquet(root / "manifest.parquet", row_group_size=50_000)
        del frame
        (root / "job.toml").write_text(
            '[input]\nmanifest = "manifest.parquet"\nkey = "id"\nimage = "image"\n'
            f'[model]\npath = "{REPO}/tests/fixtures/tiny_model"\n'
            '[output]\npath = "out"\n[generation]\nmax_new_tokens = 4\n[runtime]\nbatch_size = 32\n'
        )
        return run([nightcap, "run", root / "job.toml"])


def main() -> None:
    nightcap, *sizes = sys.argv[1:] or ["target/debug/nightcap"]
    print(f"{'rows':>8} {'seconds':>8} {'rows/s':>8} {'peak MB':>8}")
    sizes = [int(size) for size in sizes] or [10_000, 200_000]
    measured = []
    for rows in sizes:
        seconds, peak_mb = measure(nightcap, rows)
        print(f"{rows:>8} {seconds:>8.1f} {rows / seconds:>8.0f} {peak_mb:>8.0f}", flush=True)
        measured.append((rows, seconds, peak_mb))
    (first, first_s, first_mb), (last, last_s, last_mb) = measured[0], measured[-1]
    if last > first:
        added = last - first
        print(f"each further row: {(last_s - first_s) / added * 1e6:.0f} us, {(last_mb - first_mb) * 2**20 / added:.0f} bytes of peak")


if __name__ == "__main__":
    main()
