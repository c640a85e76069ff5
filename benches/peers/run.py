"""nightcap side by side with what else a user would run: python benches/peers/run.py NIGHTCAP [--python PYTHON] [--only MODEL]

Models of real size with random weights (models.py) over pictures of two sizes (pictures.py), alternating three times. The
peers are transformers (float32, and bfloat16 where the processor has instructions for it) and, for captions from ONNX, optimum; each with the batch
size that was fastest for it in the first round. Captions have 20 tokens, greedy. What is timed is the pictures, from the first
file read to the last result, in nightcap's case published; neither imports nor loading of models. How far tokens and vectors
agree is printed.

Everything made lies in ${XDG_CACHE_HOME:-~/.cache}/nightcap/peers and is made once (9 GB); delete it to make it anew. Without
--python the peers are installed there from requirements.txt.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from datetime import datetime

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from peak import run as measured

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nightcap/peers"
# How many, and their size.
PICTURES = {"640x480": (192, 640, 480), "12 MP": (64, 4000, 3000)}
ROUNDS, TOKENS = 3, 20
# Pictures of each size that are taken, and the peers.
MODELS = {
    "vit-gpt2": ({"640x480": 48, "12 MP": 32}, ["transformers", "transformers-bf16", "optimum"]),
    "blip": ({"640x480": 16}, ["transformers", "transformers-bf16"]),
    "clip": ({"640x480": 192, "12 MP": 64}, ["transformers", "transformers-bf16"]),
}


def python_of_peers():
    """Installs the peers."""
    folder = CACHE / "venv"
    if not (folder / "done").exists():
        print(f"installing the peers into {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
        (folder / "done").touch()
    return folder / "bin/python"


def made(name, command):
    """The folder CACHE/name, made by `command` of another folder if it is not there."""
    folder, partial = CACHE / name, CACHE / f"{name}.partial"
    if not folder.exists():
        print(f"making {folder}", file=sys.stderr)
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(list(map(str, command(partial))), check=True, stdout=subprocess.DEVNULL)
        partial.rename(folder)
    return folder


def same_onnx_runtime(python):
    """Lets nightcap load the ONNX Runtime that the peers have."""
    find = "import onnxruntime, pathlib as p; print(*(p.Path(onnxruntime.__file__).parent / 'capi').glob('libonnxruntime.so.*'))"
    found = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.split()
    os.environ["ORT_DYLIB_PATH"] = found[0]


def nightcap(binary, python, model, pictures, count):
    """Seconds, peak MB, and rows as tokens or vectors."""
    captions = model.name != "clip"
    with tempfile.TemporaryDirectory() as folder:
        job = pathlib.Path(folder) / "job.toml"
        asks = f"[generation]\nstrategy = \"greedy\"\nmin_new_tokens = {TOKENS}\nmax_new_tokens = {TOKENS}\n" if captions else ""
        job.write_text(f'[input]\nmanifest = "{pictures}/manifest.parquet"\nkey = "id"\nimage = "image"\n'
                       f'[model]\npath = "{model}/onnx"\n{asks}[output]\npath = "out"\n')
        with open(f"{folder}/log", "w+") as log:
            _, peak = measured([binary, "--log-format", "json", "run", job, "--limit", str(count)], stderr=log)
            log.seek(0)
            said = [json.loads(line) for line in log if line.startswith("{")]
        at = {line["message"]: datetime.fromisoformat(line["timestamp"]) for line in said}
        seconds = (at["published"] - at["starting a new run"]).total_seconds()
        column = "caption" if captions else "image_embedding"
        read = ("import polars as pl, sys, json; "
                "print(json.dumps(pl.read_parquet(sys.argv[1]).sort('id')[sys.argv[2]].to_list()))")
        rows = subprocess.run([python, "-c", read, f"{folder}/out/run=*/*.parquet", column], check=True, capture_output=True)
    rows = json.loads(rows.stdout)
    return seconds, peak, [words(row) for row in rows] if captions else rows


def words(caption):
    """The tokens of a caption: the tokenizers of models.py call token 7 w7."""
    return [int(word[1:]) if word[0] == "w" else word for word in caption.split()]


def peer(name, python, model, pictures, count, batch):
    """As `nightcap`, and the batch size, which is found if `batch` is 0."""
    with tempfile.TemporaryFile() as out:
        _, peak = measured([python, HERE / "peer.py", name, model, pictures, str(count), str(batch)], stdout=out)
        out.seek(0)
        said = json.loads(out.read().splitlines()[-1])
    return said["seconds"], peak, said["rows"], said["batch"]


def agreement(ours, theirs):
    """Captions with the same tokens, or the smallest cosine."""
    if isinstance(ours[0][0], float):
        return f"cosine >= {min(sum(a * b for a, b in zip(x, y)) for x, y in zip(ours, theirs)):.6f}"
    return f"{sum(x == y for x, y in zip(ours, theirs))} of {len(ours)} captions"


def bf16_is_fast():
    return any(flag in pathlib.Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("nightcap", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path, help="a Python that has requirements.txt installed")
    parser.add_argument("--only", choices=MODELS)
    given = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    python = given.python or python_of_peers()
    same_onnx_runtime(python)
    print(f"{'model':10}{'pictures':>10}  {'':20}{'images/s':>9}{'min-max':>14}{'nightcap is':>13}{'peak MB':>9}  agrees", flush=True)
    for name, (sizes, peers) in MODELS.items():
        if given.only not in (None, name):
            continue
        model = made(name, lambda folder: [python, HERE / "models.py", name, folder])
        for size, count in sizes.items():
            pictures = made(size.replace(" ", ""), lambda folder: [python, HERE / "pictures.py", folder, *PICTURES[size]])
            compare(name, size, count, [each for each in peers if "bf16" not in each or bf16_is_fast()],
                    given.nightcap.resolve(), python, model, pictures)


def compare(name, size, count, peers, binary, python, model, pictures):
    """Prints the lines of one model and one size of pictures."""
    rates, peaks, agrees, batches = {}, {}, {}, {}
    for _ in range(ROUNDS):
        seconds, peak, ours = nightcap(binary, python, model, pictures, count)
        rates.setdefault("nightcap", []).append(count / seconds)
        peaks["nightcap"] = max(peak, peaks.get("nightcap", 0))
        for each in peers:
            seconds, peak, theirs, batches[each] = peer(each, python, model, pictures, count, batches.get(each, 0))
            rates.setdefault(each, []).append(count / seconds)
            peaks[each] = max(peak, peaks.get(each, 0))
            agrees[each] = agreement(ours, theirs)
    best = statistics.median(rates["nightcap"])
    for each, found in rates.items():
        middle = statistics.median(found)
        label = f"{each}, batch {batches[each]}" if each in batches else each
        ratio = f"{best / middle:.2f} x" if each in batches else ""
        print(f"{name:10}{size:>10}  {label:20}{middle:9.2f}{min(found):7.2f}-{max(found):.2f}{ratio:>12}{peaks[each]:9.0f}"
              f"  {agrees.get(each, '')}", flush=True)


if __name__ == "__main__":
    main()
