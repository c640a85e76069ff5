"""What run.py compares, each in a process of its own: nightcap, its peers, and a bare loop over the same graphs."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from datetime import datetime

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from peak import run as measured
from tuning import TOKENS, fewest_tokens

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nightcap/peers"
QUANTIZE = HERE.parents[1] / "jobs/export/quantize.py"
# The images that nightcap encodes in one run: 784 patches, but one at least.
AT_ONCE = {"vit-gpt2": 4, "blip": 1, "clip": 16}


@dataclass
class Ran:
    """One run. Rows are tokens or vectors."""
    rate: float
    peak_mb: float
    rows: list


def python_of_peers():
    """Installs the peers."""
    folder = CACHE / "venv"
    wanted = (HERE / "requirements.txt").read_text()
    done = folder / "done"
    if not done.exists() or done.read_text() != wanted:
        print(f"installing the peers into {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
        done.write_text(wanted)
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


def quantized(python, model):
    """Adds int8 graphs, unless this quantize.py has."""
    version, done = hashlib.sha256(QUANTIZE.read_bytes()).hexdigest(), model / "int8.sha256"
    if not done.exists() or done.read_text() != version:
        print(f"quantising {model}", file=sys.stderr)
        subprocess.run([python, QUANTIZE, model / "onnx"], check=True, stdout=subprocess.DEVNULL)
        done.write_text(version)


def same_onnx_runtime(python):
    """Lets nightcap load the ONNX Runtime that the peers have."""
    find = "import onnxruntime, pathlib as p; print(*(p.Path(onnxruntime.__file__).parent / 'capi').glob('libonnxruntime.so.*'))"
    found = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.split()
    os.environ["ORT_DYLIB_PATH"] = found[0]


def nightcap(binary, python, model, pictures, count, precision, batch):
    captions = model.name != "clip"
    with tempfile.TemporaryDirectory() as folder:
        job = pathlib.Path(folder) / "job.toml"
        asks = f"[generation]\nstrategy = \"greedy\"\nmin_new_tokens = {fewest_tokens(model)}\nmax_new_tokens = {TOKENS}\n" if captions else ""
        asked = f'precision = "{precision}"\n' if precision != "fp32" else ""
        job.write_text(f'[input]\nmanifest = "{pictures}/manifest.parquet"\nkey = "id"\nimage = "image"\n'
                       f'[model]\npath = "{model}/onnx"\n{asked}{asks}[output]\npath = "out"\n[runtime]\nbatch_size = {batch}\n')
        with open(f"{folder}/log", "w+") as log:
            command = [binary, "--log-format", "json", "run", job, "--limit", str(count)]
            try:
                _, peak = measured(command, stderr=log)
            finally:
                log.seek(0)
                lines = log.read().splitlines()
                said = [json.loads(line) for line in lines if line.startswith("{")]
                if not any(line["message"] == "published" for line in said):
                    print(*lines[-3:], sep="\n", file=sys.stderr)
        at = {line["message"]: datetime.fromisoformat(line["timestamp"]) for line in said}
        seconds = (at["published"] - at["starting a new run"]).total_seconds()
        column = "caption" if captions else "image_embedding"
        read = ("import polars as pl, sys, json; "
                "print(json.dumps(pl.read_parquet(sys.argv[1]).sort('id')[sys.argv[2]].to_list()))")
        rows = subprocess.run([python, "-c", read, f"{folder}/out/run=*/*.parquet", column], check=True, capture_output=True)
    rows = json.loads(rows.stdout)
    return Ran(count / seconds, peak, [words(row) for row in rows] if captions else rows)


def words(caption):
    """The tokens of a caption: the tokenizers of models.py call token 7 w7."""
    return [int(word[1:]) if word[0] == "w" else word for word in caption.split()]


def graphs_mb(binary, model, precision):
    """The graphs that nightcap takes from the model directory, but for one of which it runs a small part."""
    asked = [] if precision == "fp32" else ["--precision", precision]
    said = lambda command: json.loads(subprocess.run([binary, "model", command, "--json", *asked, model / "onnx"],
                                                     check=True, capture_output=True).stdout)
    cut = {graph["file"] for graph in said("prepare") if graph["role"] == "prefill" and graph["cut_to"]}
    return sum({graph["file"]: graph["bytes"] for graph in said("inspect")["graphs"] if graph["file"] not in cut}.values()) / 2**20


def of_peer(name, python, model, pictures, count, settings=None):
    """What a peer says, and its peak MB. Without settings it says which are fastest."""
    command = [HERE / "peer.py", name, model]
    if name == "fastembed":
        image = made("clip-image", lambda folder: [python, HERE / "models.py", "clip-image", folder])
        command = [HERE / "fastembed_peer.py", image]
    command += [pictures, str(count)] + ([json.dumps(settings)] if settings else [])
    with tempfile.TemporaryFile() as out:
        _, peak = measured([python, *command], family=True, stdout=out)
        out.seek(0)
        return json.loads(out.read().splitlines()[-1]), peak


def peer(name, python, model, pictures, count, settings):
    said, peak = of_peer(name, python, model, pictures, count, settings)
    # what follows an end token
    rows = said["rows"] if fewest_tokens(model) == TOKENS else [[token for token in row if token != 50256] for row in said["rows"]]
    return Ran(count / said["seconds"], peak, rows)


def bare_loop(program, model, count, precision, batch):
    """`program` runs the graphs with ONNX Runtime on pixels that it makes, and nothing else."""
    with tempfile.TemporaryFile() as out:
        _, peak = measured([program, model / "onnx", precision, str(batch), str(AT_ONCE[model.name]), str(count)], stdout=out)
        out.seek(0)
        said = json.loads(out.read().splitlines()[-1])
    return Ran(said["images_per_second"], peak, [])
