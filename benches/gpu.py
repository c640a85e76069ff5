"""nightcap and PyTorch on a GPU: python benches/gpu.py NIGHTCAP [--rows clip,vit_gpt2,...] [--json FILE]

Runs `nightcap run` from JPEG files to Parquet, and transformers from tensors that lie ready on the GPU (for vectors from the same JPEGs,
in a DataLoader with all cores). Each measurement is printed as soon as it is there; at the end there is a Markdown table with ratios.
The rows:

    clip      CLIP ViT-B/32 vectors in float16, and what preprocessing allows: the same run with a model that does nothing
    vit_gpt2  ViT-GPT2 captions of 20 tokens in float16
    beams     the same with 4 beams
    fp32      the same in float32, with captions compared with those of the processor and of transformers
    blip      BLIP-base captions of 20 tokens in float16
    smolvlm   SmolVLM-256M captions of 64 tokens in float16, images of one tile

A second run of a row's fastest setting has to give the same captions. Models have the published shapes and random weights. Those that
MODELS does not have are made there, by the packages of peers/requirements.txt in an environment of their own (11 GB in all).

Needs pyarrow, pillow, onnx, torch, torchvision and transformers for a GPU, and ORT_DYLIB_PATH, which names an ONNX Runtime with the
CUDA execution provider. A FILE of earlier results is read, and what it has of a row's peers or of nightcap is not measured again.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import typing
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers import pictures
from peers.contestants import CACHE, python_of_peers, words

HERE = pathlib.Path(__file__).resolve().parent
FOLDERS = {"clip": "clip", "vit_gpt2": "vit-gpt2", "beams": "vit-gpt2", "fp32": "vit-gpt2", "blip": "blip", "smolvlm": "smolvlm"}
TYPES = {"": "float32", "fp16": "float16", "bf16": "bfloat16"}
# As many words of the tokenizer as a short question has tokens.
PROMPT = "w11 w12 w13 w14 w15 w16"
PART_ROWS = 4096
CHECKED = 64
PEERS = ("transformers", "transformers with DataLoader")
LOOSE, NOTHING, CORES = "nightcap, not repeatable", "preprocessing, by a model of nothing", "preprocessing, all cores by its seconds"


class Row(typing.NamedTuple):
    """What transformers runs (types, batches) and what nightcap runs (precision, batches `ours`, images)."""
    tokens: int
    beams: int
    types: list
    batches: list
    precision: str
    ours: list
    count: int
    target: str


FULL = {
    "clip": Row(0, 1, ["float16"], [256], "fp16", [256, 512], 16384, "1.25 x transformers with its DataLoader, 0.9 of preprocessing"),
    "vit_gpt2": Row(20, 1, ["bfloat16", "float16"], [64, 256, 512], "fp16", [256, 512, 1024], 16384, "1.4 x"),
    "beams": Row(20, 4, ["bfloat16", "float16"], [64, 256], "fp16", [512, 1024], 4096, "1.25 x"),
    "fp32": Row(20, 1, ["float32"], [64, 256], "", [256], 4096, "1.0 x"),
    "blip": Row(20, 1, ["bfloat16", "float16"], [64, 256], "fp16", [64, 256], 4096, "1.25 x"),
    "smolvlm": Row(64, 1, ["bfloat16", "float16"], [64, 256], "fp16", [64, 128], 1024, "1.0 x"),
}
SMALL = {name: row._replace(tokens=min(row.tokens, 4), types=["float32"], batches=[2], ours=[row.beams * 2], count=8)
         for name, row in FULL.items()}


class Ran(typing.NamedTuple):
    """Images/s from the end of loading to the published run and after the first part, seconds of stages, {id: caption or vector}."""
    rate: float
    steady: float | None
    stages: dict
    made: dict
    failed: int


class Failed(Exception):
    """One measurement; the others go on."""


class Results:
    """What was measured so far, on the screen and in a file."""

    def __init__(self, file):
        self.file = file
        self.all = json.loads(file.read_text())["results"] if file and file.exists() else []
        self.earlier = {(each["row"], each["who"].split()[0]) for each in self.all if "rate" in each}

    def add(self, row, who, **about):
        self.all.append({"row": row, "who": who} | about)
        told = [f"{about['rate']:9.1f}/s"] if "rate" in about else []
        told += [f"{key} {value}" for key, value in about.items() if key not in ("rate", "stages", "rows")]
        if "rate" in about and who.startswith("nightcap") and self.best(row, *PEERS):
            told.insert(1, f"{about['rate'] / self.best(row, *PEERS):.2f} x")
        print(f"{row:9} {who:38}", ", ".join(told), flush=True)
        if self.file:
            whole = self.file.with_suffix(".partial")
            whole.write_text(json.dumps({"machine": machine(), "results": self.all}, indent=1))
            whole.rename(self.file)

    def best(self, row, *whose):
        """The highest rate of a row's contestants of these names."""
        return max((each["rate"] for each in self.all if each["row"] == row and each["who"] in whose and "rate" in each), default=None)

    def table(self, rows):
        yield "| row | nightcap | not repeatable | transformers' best | ratio | target |"
        yield "|---|--:|--:|--:|--:|---|"
        number = lambda value: "" if value is None else f"{value:,.0f}"
        for row, about in rows.items():
            ours, loose, theirs = self.best(row, "nightcap"), self.best(row, LOOSE), self.best(row, *PEERS)
            ratios = [f"{each / theirs:.2f}" for each in (ours, loose) if each and theirs]
            ceiling = self.best(row, NOTHING, CORES)
            if ceiling and ours:
                ratios.append(f"{ours / ceiling:.2f} of preprocessing ({ceiling:,.0f})")
            yield f"| {row} | {number(ours)} | {number(loose)} | {number(theirs)} | {', '.join(ratios)} | {about.target} |"


def machine():
    told = subprocess.run(["sh", "-c", "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader"], capture_output=True, text=True)
    return {"gpu": told.stdout.strip(), "cores": os.cpu_count(), "processor": platform.processor(), "time": time.strftime("%F %T")}


def job(model, pictures, output, device, row, precision, batch, **runtime):
    generation = {"strategy": "beam" if row.beams > 1 else "greedy", "max_new_tokens": row.tokens} if row.tokens else {"enabled": False}
    if row.beams > 1:
        generation["num_beams"] = row.beams
    if model.name == "smolvlm":
        generation["prompt"] = PROMPT
    value = lambda given: json.dumps(given)  # which is TOML too, for what is here
    table = lambda name, given: f"[{name}]\n" + "".join(f"{key} = {value(each)}\n" for key, each in given.items())
    return (table("input", {"manifest": str(pictures / "manifest.parquet"), "key": "id", "image": "image"})
            + table("model", {"path": str(model / "onnx")} | ({"precision": precision} if precision else {}))
            + table("generation", generation) + table("output", {"path": str(output), "part_rows": PART_ROWS})
            + table("runtime", {"devices": [device], "batch_size": batch} | runtime))


def stages(said):
    """Where the time went, {stage: {name: number}}, of what nightcap logs at its end."""
    return {line["stage"]: {name: value for name, value in line.items() if name not in ("timestamp", "level", "message", "stage")}
            for line in said if line["message"] == "stage"}


def steady(said):
    """Images/s between the first part's end and the last one's; nothing for fewer than three parts."""
    parts = [(datetime.fromisoformat(line["timestamp"]), line["rows"]) for line in said if line["message"] == "computed"]
    if len(parts) >= 3:
        return sum(rows for _, rows in parts[1:]) / (parts[-1][0] - parts[0][0]).total_seconds()


class Nightcap:
    def __init__(self, program, pictures, device, logs, seconds):
        self.program, self.pictures, self.device, self.logs, self.seconds = program, pictures, device, logs, seconds
        self.runs = 0

    def run(self, model, row, precision, batch, device=None, count=None, name="", **runtime):
        """One `nightcap run`, which has to succeed."""
        self.runs += 1
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            written = job(model, self.pictures, folder / "out", device or self.device, row, precision, batch, **runtime)
            (folder / "job.toml").write_text(written)
            command = [self.program, "--log-format", "json", "run", folder / "job.toml", "--limit", str(count or row.count)]
            file = self.logs / f"{self.runs:02}-{model.name}-{name or precision or 'fp32'}-{batch}.log"
            with open(file, "w+") as log:
                try:
                    status = subprocess.run(command, stdout=log, stderr=log, timeout=self.seconds,
                                            env=os.environ | {"NIGHTCAP_LOG": "nightcap=debug"}).returncode
                except subprocess.TimeoutExpired:
                    status = f"killed after {self.seconds} s"
                log.seek(0)
                lines = log.read().splitlines()
            said = [json.loads(line) for line in lines if line.startswith("{")]
            at = {line["message"]: datetime.fromisoformat(line["timestamp"]) for line in said}
            if status != 0 or "published" not in at:
                raise Failed(f"status {status}: " + " / ".join(lines[-4:])[-600:])
            parts = pq.read_table(sorted((folder / "out").glob("run=*/part-*.parquet")))
        seconds = (at["published"] - at["starting a new run"]).total_seconds()
        wrong = parts.num_rows - parts["status"].to_pylist().count("ok")
        if row.tokens:
            values = parts["caption"].to_pylist()
        else:
            vectors = parts["image_embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            values = [vector.tobytes() for vector in vectors.reshape(parts.num_rows, -1)]
        return Ran(parts.num_rows / seconds, steady(said), stages(said), dict(zip(parts["id"].to_pylist(), values)), wrong)


class Peers:
    """A process for each family, which have loaded everything before anything is measured."""

    def __init__(self, python, families, models, pictures, device):
        self.processes = {}
        for family in families:
            command = [python, HERE / "gpu_peers.py", family, models[family], "--device", device, "--pictures", pictures]
            self.processes[family] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for family, process in list(self.processes.items()):
            ready = process.stdout.readline()
            if not ready:
                print(f"transformers could not load {family}: its process ended with status {process.wait()}", flush=True)
                del self.processes[family]
            else:
                print(f"{family}: {json.loads(ready)['ready']}", flush=True)

    def ask(self, family, **what):
        if family not in self.processes:
            return
        process = self.processes[family]
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if said.get("done"):
                return
            yield said
        raise Failed("its process ended")

    def end(self, family=None):
        """Gives memory of the GPU back."""
        for name in [family] if family else list(self.processes):
            process = self.processes.pop(name, None)
            if process:
                process.stdin.close()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def same(these, those):
    both = sorted(these.keys() & those.keys())
    return sum(these[row] == those[row] for row in both), len(both)


def cosine(these, those):
    both = sorted(these.keys() & those.keys())
    a, b = (np.stack([np.frombuffer(side[row], np.float32) for row in both]).astype(np.float64) for side in (these, those))
    return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


def ceiling(clip, folder):
    """A model directory with CLIP's preprocessing whose graph reads one pixel of an image."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    folder = folder / "preprocessing" / "onnx"
    shutil.copytree(clip / "onnx", folder, ignore=shutil.ignore_patterns("*.onnx"))
    config = json.loads((folder / "config.json").read_text())
    side = json.loads((folder / "preprocessor_config.json").read_text())["crop_size"]["height"]
    constants = {"from": [0, 0], "to": [1, 1], "axes": [2, 3], "flat": [0, 3], "times": [1, -(-config["projection_dim"] // 3)],
                 "start": [0], "width": [config["projection_dim"]], "last": [1]}
    graph = helper.make_graph(
        [helper.make_node("Slice", ["pixel_values", "from", "to", "axes"], ["pixel"]),
         helper.make_node("Reshape", ["pixel", "flat"], ["three"]), helper.make_node("Tile", ["three", "times"], ["many"]),
         helper.make_node("Slice", ["many", "start", "width", "last"], ["image_embeds"])],
        "preprocessing", [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch_size", 3, side, side])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch_size", config["projection_dim"]])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "vision_model.onnx")
    return folder.parent


def peers_of(name, row, peers, results, given):
    family = "vit_gpt2" if FOLDERS[name] == "vit-gpt2" else name
    if name == "clip":
        asked = {"what": "vectors", "types": row.types, "workers": os.cpu_count() if not given.small else 1, "count": row.count}
    else:
        asked = {"what": "captions", "types": row.types, "batches": row.batches, "beams": row.beams, "tokens": row.tokens}
    for said in peers.ask(family, **asked, seconds=given.seconds):
        results.add(name, said.pop("peer"), **said)
    if name == "fp32":
        for said in peers.ask(family, what="tokens", count=min(CHECKED, row.count), tokens=row.tokens):
            results.add(name, "captions of transformers", captions=len(said["tokens"]), rows=said["tokens"])


def ours(name, row, nightcap, model, results, given, scratch):
    """All runs of nightcap for one row."""
    rows, best = {}, (0, None)
    started = time.monotonic()

    def attempt(who, batch, precision=row.precision, **options):
        if time.monotonic() - started > given.seconds:
            return results.add(name, who, left_out="no time was left")
        kind = {"type": TYPES[precision], "batch": batch}
        try:
            ran = nightcap.run(options.pop("of", model), row, precision, batch, **options)
        except Failed as error:
            return results.add(name, who, **kind, left_out=str(error))
        model_stage = ran.stages["model"]
        about = {"stages": ran.stages, "busy": f"{model_stage['busy_s']:.1f} s", "waiting": f"{model_stage['wait_input_s']:.1f} s"}
        about |= {"after the first part": f"{ran.steady:.1f}/s"} if ran.steady else {}
        about |= {"failed rows": ran.failed} if ran.failed else {}
        results.add(name, who, **kind, rate=ran.rate, **about)
        return ran

    if name == "clip":
        ran = attempt(NOTHING, 256, "", of=ceiling(model, scratch), device="cpu", name="nothing")
        if ran:
            busy = ran.stages["preprocess"]["busy_s"]
            results.add(name, CORES, rate=os.cpu_count() * len(ran.made) / busy, busy=f"{busy:.1f} core-seconds")
    for batch in row.ours:
        found = attempt("nightcap", batch)
        if found:
            rows[batch] = found.made
            best = max(best, (found.rate, batch))
    if not rows:
        return
    batch = best[1]
    results.add(name, "different rows of nightcap", different=f"{len(set(rows[batch].values()))} of {len(rows[batch])}")
    again = attempt("nightcap again", batch)
    if again:
        equal, of = same(rows[batch], again.made)
        results.add(name, "a second run", equal=f"{equal} of {of}")
    for other in rows.keys() - {batch}:
        equal, of = same(rows[batch], rows[other])
        results.add(name, f"batches of {batch} and {other}", equal=f"{equal} of {of}")
    if name in ("vit_gpt2", "beams"):
        attempt(LOOSE, batch, repeatable=False)
    if name in ("clip", "fp32"):
        few = min(CHECKED, row.count)
        cpu = attempt("by the processor", 16, "", device="cpu", count=few, name="cpu")
        if cpu and row.tokens:
            equal, of = same(rows[batch], cpu.made)
            results.add(name, "the processor", equal=f"{equal} of {of}")
        elif cpu:
            results.add(name, "the processor, float32", smallest_cosine=f"{cosine(rows[batch], cpu.made):.6f}")
    theirs = next((each["rows"] for each in results.all if each["row"] == name and "rows" in each), None)
    if theirs:
        found = [words(rows[batch][place]) for place in sorted(rows[batch])[:len(theirs)]]
        end = 50256  # which captions leave out
        equal = sum(ours == [token for token in each if token != end] for ours, each in zip(found, theirs))
        results.add(name, "transformers in float32", equal=f"{equal} of {len(theirs)}")


def model_of(name, given):
    """MODELS/NAME with float16 graphs; what is missing is made."""
    folder = given.models / name
    if not folder.exists():
        maker = [HERE / "smolvlm_256m.py"] if name == "smolvlm" else [HERE / "peers/models.py", name]
        partial = given.models / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        given.models.mkdir(parents=True, exist_ok=True)
        print(f"making {folder}", flush=True)
        subprocess.run([python_of_peers(), *maker, partial], check=True, stdout=subprocess.DEVNULL)
        partial.rename(folder)
    if not any(folder.rglob("*_fp16.onnx")):
        subprocess.run([python_of_peers(), HERE / "gpu_models.py", "half", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def pictures_of(given, count):
    """PICTURES, made if it is not there: a part of nightcap's has no image twice, the manifest has."""
    folder = given.pictures
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        names = pictures.draw(partial, min(count, PART_ROWS), 640, 480)
        partial.rename(folder)
    names = sorted(each.name for each in folder.glob("*.jpg"))
    times = -(-count // len(names))
    pq.write_table(pa.table({"id": [f"{time}-{name}" for time in range(times) for name in names], "image": names * times}),
                   folder / "manifest.parquet")


def main():
    usage, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nightcap", type=pathlib.Path)
    parser.add_argument("--rows", default=",".join(FULL), help="which rows, with commas between them")
    parser.add_argument("--only", choices=["nightcap", "peers"], help="measure only these")
    parser.add_argument("--models", type=pathlib.Path, default=CACHE, help=f"default: {CACHE}")
    parser.add_argument("--pictures", type=pathlib.Path, default=CACHE / "gpu-pictures", help="a folder of JPEGs; made if it is not there")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--python", type=pathlib.Path, default=sys.executable, help="the Python of the peers; default: this one")
    parser.add_argument("--seconds", type=int, default=120,
                        help="after which no measurement of a row's nightcap or peers begins; one run may take as long again")
    parser.add_argument("--batches", help="nightcap's batch sizes, with commas between them, instead of those of each row")
    parser.add_argument("--count", type=int, help="at most so many images")
    parser.add_argument("--small", action="store_true", help="a few images and tokens, to try the command out")
    parser.add_argument("--json", type=pathlib.Path, help="where results are kept")
    parser.add_argument("--logs", type=pathlib.Path, help="a folder for what nightcap says")
    given = parser.parse_args()
    rows = {name: row for name, row in (SMALL if given.small else FULL).items() if name in given.rows.split(",")}
    if unknown := set(given.rows.split(",")) - set(FULL):
        parser.error(f"expected rows of {', '.join(FULL)}, found {', '.join(sorted(unknown))}")
    if given.batches:
        rows = {name: row._replace(ours=[int(each) for each in given.batches.split(",")]) for name, row in rows.items()}
    if given.count:
        rows = {name: row._replace(count=min(row.count, given.count)) for name, row in rows.items()}
    results = Results(given.json)
    models = {name: model_of(FOLDERS[name], given) for name in rows}
    pictures_of(given, max(row.count for row in rows.values()))
    print(json.dumps(machine()), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        logs = given.logs or scratch / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        nightcap = Nightcap(given.nightcap.resolve(), given.pictures.resolve(), given.device, logs, given.seconds)
        theirs = [name for name in rows if (name, "transformers") not in results.earlier and given.only != "nightcap"]
        families = {("vit_gpt2" if FOLDERS[name] == "vit-gpt2" else name): models[name] for name in theirs}
        peers = Peers(given.python, families, families, given.pictures.resolve(), given.device.replace("cuda:0", "cuda"))
        try:
            for name in theirs:
                try:
                    peers_of(name, rows[name], peers, results, given)
                except Failed as error:
                    results.add(name, "transformers", left_out=str(error))
        finally:
            peers.end()
        if given.only != "peers":
            for name, row in rows.items():
                if (name, "nightcap") not in results.earlier:
                    ours(name, row, nightcap, models[name].resolve(), results, given, scratch)
    print("", *results.table(rows), sep="\n")


if __name__ == "__main__":
    main()
