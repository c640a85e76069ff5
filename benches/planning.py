"""Times planning over a large manifest of URIs with a signature column, and the delta of the next night.

Usage: .venv/bin/python benches/planning.py PATH_TO_NIGHTCAP [ROWS]     (10 million rows by default)

The first night's rows come without images, so that each is a failed row at once and the run is over soon: planning is
what is measured, not the model. The second manifest has one per cent new rows. Prints a line a step: seconds, peak MB.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

from peak import run

REPO = Path(__file__).resolve().parent.parent


def write_manifest(path: Path, rows: int, *, images: bool) -> None:
    """`rows` rows with a key, a URI (or null) and an ETag, in row groups of 500,000."""
    number = pl.int_range(rows, eager=True).cast(pl.String)
    uri = "s3://bucket/photographs/" + number + ".jpg"
    frame = pl.DataFrame({
        "id": "photograph-" + number,
        "image": uri if images else pl.Series([None], dtype=pl.String).extend_constant(None, rows - 1),
        "etag": "etag-" + (pl.int_range(rows, eager=True) * 2654435761 % 4294967296).cast(pl.String),
    })
    frame.write_parquet(path, row_group_size=500_000)


def main() -> None:
    nightcap, rows = (sys.argv[1:] + ["target/debug/nightcap", "10000000"][len(sys.argv) - 1 :])[:2]
    rows = int(rows)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        job = root / "job.toml"
        job.write_text(
            '[input]\nmanifest = "manifest.parquet"\nkey = "id"\nimage = "image"\nsignature = ["etag"]\n'
            f'[model]\npath = "{REPO}/tests/fixtures/tiny_model"\n'
            '[output]\npath = "out"\ncolumns = []\npart_rows = 100000\n'
            "[limits]\nmax_failed_fraction = 1.0\n"
        )
        print(f"{'step':<44} {'seconds':>8} {'peak MB':>8}")

        def step(name: str, *arguments: str) -> None:
            seconds, peak_mb = run([nightcap, *arguments], stdout=subprocess.DEVNULL)
            print(f"{name:<44} {seconds:>8.1f} {peak_mb:>8.0f}", flush=True)

        write_manifest(root / "manifest.parquet", rows, images=True)
        step(f"plan {rows} rows, nothing published", "plan", str(job))
        write_manifest(root / "manifest.parquet", rows, images=False)
        step(f"run {rows} rows without images", "run", str(job))
        write_manifest(root / "manifest.parquet", rows + rows // 100, images=False)
        step(f"plan {rows + rows // 100} rows, {rows} published", "plan", str(job))


if __name__ == "__main__":
    main()
