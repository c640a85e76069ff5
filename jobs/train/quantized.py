"""What int8 graphs cost in quality: python quantized.py --nightcap PATH --data DEV.parquet [--model MODEL] [-- OPTION ...]

Copies the model directory, quantises the copy with jobs/export/quantize.py, to which the OPTIONs go, captions the photographs
with `nightcap run` in float32 and in int8, with the model's own settings, and prints BLEU and CIDEr of both and their ratio.
Needs the requirements of this folder and of jobs/export, and ORT_DYLIB_PATH.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import evaluate
from data import images

REPO = pathlib.Path(__file__).resolve().parents[2]


def scores(nightcap: pathlib.Path, model: pathlib.Path, photographs: pathlib.Path, precision: str, work: pathlib.Path,
           limit: int | None) -> dict[str, float]:
    job, output = work / f"{precision}.toml", work / precision
    asked = "" if precision == "fp32" else f'precision = "{precision}"\n'
    job.write_text(f'[input]\nmanifest = "{photographs.resolve()}"\nkey = "image_id"\nimage = "image"\n'
                   f'[model]\npath = "{model}"\n{asked}[embedding]\nimage = false\ntext = false\nfused = false\n'
                   f'caption_similarity = false\n[output]\npath = "{output}"\ncolumns = []\n')
    subprocess.run([nightcap, "run", job, *(["--limit", str(limit)] if limit else [])], check=True)
    return evaluate.evaluate_captions(f"{output}/run=*/part-*.parquet", images.read(photographs, limit=limit))["captions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nightcap", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="Parquet: image_id, image {bytes, path}, captions")
    parser.add_argument("--model", type=pathlib.Path, default=REPO / "sample_data/model", help="model directory")
    parser.add_argument("--limit", type=int, help="use only the first rows")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="for quantize.py")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        model = shutil.copytree(args.model, work / "model")
        subprocess.run([sys.executable, REPO / "jobs/export/quantize.py", model, *args.options], check=True)
        found = {precision: scores(args.nightcap.resolve(), model, args.data, precision, work, args.limit)
                 for precision in ("fp32", "int8")}
    for name, exact in found["fp32"].items():
        print(f"{name}: fp32 {exact:.2f}, int8 {found['int8'][name]:.2f}, ratio {found['int8'][name] / exact:.4f}")


if __name__ == "__main__":
    main()
