"""What run.py says: the machine, a table, and whether the targets are met."""

import json
import pathlib
import statistics
import subprocess

PACKAGES = ["onnxruntime", "torch", "transformers", "optimum-onnx", "fastembed", "pillow"]
FLAGS = ["avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"]
# Who has to be how many times as fast as the best of whom, at 640x480.
RATIOS = [
    ("vit-gpt2", "nightcap", ["transformers"], 1.7),
    ("vit-gpt2", "nightcap", ["optimum"], 2.5),
    ("vit-gpt2", "nightcap int8", ["transformers", "transformers-bf16"], 1.3),
    ("vit-gpt2", "nightcap", ["bare loop"], 0.95),
    ("blip", "nightcap", ["transformers"], 2.0),
    ("blip", "nightcap int8", ["transformers", "transformers-bf16"], 1.3),
    ("clip", "nightcap", ["transformers"], 2.0),
    ("clip", "nightcap int8", ["transformers", "transformers-bf16"], 1.2),
]
PEAK_MB = 1536
HEADER = (f"{'model':14}{'pictures':>9}  {'':42}{'images/s':>9}{'min-max':>16}{'nightcap is':>13}{'int8 is':>9}{'peak MB':>9}"
          "  agrees with nightcap")


def processor():
    """Its name, and the flags of FLAGS that it has."""
    told = dict(line.split("\t: ", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "\t: " in line)
    told = {name.strip(): value for name, value in told.items()}
    return told.get("model name", "unknown processor"), [flag for flag in FLAGS if flag in told.get("flags", "").split()]


def machine(python, binary):
    """Processor and versions."""
    find = "import importlib.metadata as m, json, sys; print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    versions = json.loads(subprocess.run([python, "-c", find, *PACKAGES], check=True, capture_output=True).stdout)
    nightcap = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    name, flags = processor()
    cores = len([line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")])
    return {"processor": name, "cores": cores, "flags": flags, "versions": {"nightcap": nightcap} | versions}


def agreement(expected, found):
    """Captions with the same tokens, or mean and smallest cosine; nothing if there are no rows."""
    pairs = list(zip(expected, found))
    if not pairs:
        return ""
    if isinstance(expected[0][0], float):
        cosines = [sum(a * b for a, b in zip(*pair)) / (norm(pair[0]) * norm(pair[1])) for pair in pairs]
        return f"cosine {statistics.mean(cosines):.6f}, worst {min(cosines):.6f}"
    return f"{sum(x == y for x, y in pairs)} of {len(pairs)} captions"


def norm(vector):
    return sum(value * value for value in vector) ** 0.5


def rows(model, size, runs, settings):
    """A row for each contestant of `runs`, {name: [Ran, ...]}."""
    middle = {name: statistics.median(ran.rate for ran in each) for name, each in runs.items()}
    made = []
    for name, each in runs.items():
        ratios = {ours: middle[ours] / middle[name] for ours in ("nightcap", "nightcap int8") if ours in middle and ours != name}
        same = "" if name == "nightcap" or "nightcap" not in runs else agreement(runs["nightcap"][-1].rows, each[-1].rows)
        made.append({"model": model, "pictures": size, "contestant": name, "settings": settings.get(name),
                     "images_per_second": middle[name], "rates": [ran.rate for ran in each], "ratios": ratios,
                     "peak_mb": max(ran.peak_mb for ran in each), "agrees": same})
    return made


def line(row):
    label = row["contestant"]
    if row["settings"]:
        label += "".join(f", {name} {value}" for name, value in row["settings"].items() if value is not False)
    ratios = [f"{row['ratios'][ours]:.2f} x" if ours in row["ratios"] else "" for ours in ("nightcap", "nightcap int8")]
    spread = f"{min(row['rates']):.2f}-{max(row['rates']):.2f}"
    return (f"{row['model']:14}{row['pictures']:>9}  {label:42}{row['images_per_second']:9.2f}{spread:>16}{ratios[0]:>13}"
            f"{ratios[1]:>9}{row['peak_mb']:9.0f}  {row['agrees']}").rstrip()


def targets(found, graphs):
    """Lines that say what was wanted and what was found; `graphs` has MB by (model, contestant)."""
    rates = {(row["model"], row["contestant"]): row["images_per_second"] for row in found if row["pictures"] == "640x480"}
    for model, ours, theirs, wanted in RATIOS:
        best = max((rates[model, name] for name in theirs if (model, name) in rates), default=None)
        who = f"{model}: {ours} at least {wanted} x {' and '.join(theirs)}"
        if best is None or (model, ours) not in rates:
            yield f"{who}: not measured"
        else:
            yield f"{who}: {rates[model, ours] / best:.2f} x, {verdict(rates[model, ours] / best >= wanted)}"
    for (model, ours), size in graphs.items():
        peaks = [row["peak_mb"] for row in found if (row["model"], row["contestant"]) == (model, ours)]
        if peaks:
            over = max(peaks) - size
            yield (f"{model}: {ours} at most {PEAK_MB} MB beside the graphs: {max(peaks):.0f} - {size:.0f} = {over:.0f} MB, "
                   f"{verdict(over <= PEAK_MB)}")


def verdict(met):
    return "met" if met else "missed"
