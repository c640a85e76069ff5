"""Shows that memory does not grow with the manifest: peak RSS of `nightcap run` over 10,000 and 200,000 synthetic rows.

Usage: .venv/bin/python benches/flat_memory.py PATH_TO_NIGHTCAP [ROWS ...]

Every row is another 8x8 BMP inside the manifest, captioned by the tiny test model, so that the engine and not the model is
what is measured. Prints one line a size: rows, seconds, rows a second, peak RSS in MB.
"""

import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

REPO = Path(__file__).resolve().parent.parent


def bmp(seed: int) -> bytes:
    """An 8x8 picture whose pixels differ with `seed`."""
    side = 8
    pixels = bytes((seed * 2654435761 + i * 40503) >> (i % 13) & 0xFF for i in range(side * side * 3))
    header = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return header + info + pixels


def high_water_mb(pid: int) -> float:
    """Peak RSS so far. (`ru_maxrss` would count this script's own memory, inherited over the fork.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def measure(nightcap: str, rows: int) -> str:
    """Runs one size in a folder of its own."""
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
        start = time.monotonic()
        process = subprocess.Popen([nightcap, "run", root / "job.toml"], stderr=subprocess.DEVNULL)
        peak_mb = 0
        while process.poll() is None:
            peak_mb = max(peak_mb, high_water_mb(process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - start
        if process.returncode != 0:
            raise SystemExit(f"nightcap ended with status {process.returncode}")
        return f"{rows:>8} {seconds:>8.1f} {rows / seconds:>8.0f} {peak_mb:>8.0f}"


def main() -> None:
    nightcap, *sizes = sys.argv[1:] or ["target/debug/nightcap"]
    print(f"{'rows':>8} {'seconds':>8} {'rows/s':>8} {'peak MB':>8}")
    for rows in [int(size) for size in sizes] or [10_000, 200_000]:
        print(measure(nightcap, rows), flush=True)


if __name__ == "__main__":
    main()
