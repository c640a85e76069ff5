"""nightcap side by side with what else a user would run: python benches/peers/run.py NIGHTCAP

    --python PYTHON   a Python that has requirements.txt installed; without it the peers are installed into a folder
    --bare PROGRAM    a bare loop over the graphs: PROGRAM MODEL_DIR fp32|int8 BATCH AT_ONCE COUNT prints {"images_per_second": ...}
    --only MODEL      one of the models
    --json FILE       the rows as JSON too
    --rounds N        instead of three
    --all             ViT-GPT2 with large images too
    --limit N         at most N images in a measurement, to try things out

Models of real size with random weights (models.py) over images of two sizes (pictures.py), alternating three times. nightcap
runs float32 graphs and those that jobs/export/quantize.py makes of them. The peers are transformers (float32, and bfloat16 where
the processor has instructions for it), for captions from ONNX optimum, and for vectors clip-retrieval and fastembed; each with
the settings that were fastest for it on the first images (peer.py); nightcap has the batch that is fastest for all of them.
Captions have 20 tokens, greedy, but those of vit-gpt2-ends 6 to 20, whatever ends them. What is timed is the images, from the first file read to the last result, in nightcap's case
published; neither imports nor loading of models. The peak is that of the whole process, of peers with the processes that they
start.

How far tokens and vectors agree with those of nightcap's float32 graphs is printed; so is whether targets are met. Equal
captions say little about the quality of lower precision here: with random weights no token is much likelier than the next, and
one that differs makes all after it differ. jobs/train/quantized.py measures that with a trained model.

Everything made lies in ${XDG_CACHE_HOME:-~/.cache}/nightcap/peers and is made once (11 GB); delete it to make it anew.
"""

import argparse
import functools
import json
import pathlib
import sys

import report
import tuning
from contestants import (AT_ONCE, CACHE, HERE, bare_loop, graphs_mb, made, nightcap, of_peer, peer, python_of_peers, quantized,
                         same_onnx_runtime)

# How many, and their size.
PICTURES = {"640x480": (192, 640, 480), "12 MP": (64, 4000, 3000)}
TORCH = ["transformers", "transformers-bf16"]
# Images of each size that are taken, and of those the ones on which peers find their settings; and the peers.
MODELS = {
    "vit-gpt2": ({"640x480": (96, 4), "12 MP": (32, 4)}, [*TORCH, "optimum"]),
    "vit-gpt2-ends": ({"640x480": (96, 4)}, TORCH),
    "blip": ({"640x480": (64, 4)}, TORCH),
    "clip": ({"640x480": (192, 64), "12 MP": (48, 16)}, [*TORCH, "clip-retrieval", "fastembed"]),
}
# What takes long and adds little is left out without --all.
RARE = {("vit-gpt2", "12 MP")}


def arguments():
    usage, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nightcap", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--bare", type=pathlib.Path)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--limit", type=int)
    return parser.parse_args()


def attempt(what, work):
    """The result of `work`, or nothing and a message: one contestant that fails leaves the others their table."""
    try:
        return work()
    except (SystemExit, Exception) as error:
        print(f"{what} is left out: {error}", file=sys.stderr)


def main():
    given = arguments()
    CACHE.mkdir(parents=True, exist_ok=True)
    binary, python = given.nightcap.resolve(), given.python or python_of_peers()
    same_onnx_runtime(python)
    about = report.machine(python, binary)
    print(f"{about['processor']}, {about['cores']} cores: {' '.join(about['flags'])}")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    print(report.HEADER, flush=True)
    rows, graphs = [], {}
    for name, (sizes, peers) in MODELS.items():
        if given.only not in (None, name):
            continue
        model = made(name, lambda folder: [python, HERE / "models.py", name, folder])
        quantized(python, model)
        for ours, precision in (("nightcap", "fp32"), ("nightcap int8", "int8")):
            graphs[name, ours] = graphs_mb(binary, model, precision)
        for size, (count, few) in sizes.items():
            if (name, size) in RARE and not given.all:
                continue
            pictures = made(size.replace(" ", ""), lambda folder: [python, HERE / "pictures.py", folder, *PICTURES[size]])
            count = min(count, given.limit or count)
            contest, settings = {}, {}
            for ours, precision in (("nightcap", "fp32"), ("nightcap int8", "int8")):
                run = functools.partial(nightcap, binary, python, model, pictures, count, precision)
                batch = attempt(ours, lambda: tuning.fastest_of_ours(lambda batch: run(batch).rate))
                if batch is None:
                    continue
                settings[ours] = {"batch": batch}
                contest[ours] = functools.partial(run, **settings[ours])
                if given.bare and size == "640x480" and name in AT_ONCE:  # images are nothing to it
                    bare = ours.replace("nightcap", "bare loop")
                    settings[bare] = settings[ours]
                    contest[bare] = functools.partial(bare_loop, given.bare.resolve(), model, count, precision, **settings[bare])
            for each in peers:
                if "bf16" not in each or {"avx512_bf16", "amx_bf16"} & set(about["flags"]):
                    found = attempt(each, lambda: of_peer(each, python, model, pictures, min(few, given.limit or few)))
                    if found:
                        settings[each], _ = found
                        contest[each] = functools.partial(peer, each, python, model, pictures, count, settings[each])
            made_rows = report.rows(name, size, alternate(contest, given.rounds), settings)
            print(*map(report.line, made_rows), sep="\n", flush=True)
            rows += made_rows
    targets = list(report.targets(rows, graphs))
    print(*targets, sep="\n")
    if given.json:
        given.json.write_text(json.dumps({"machine": about, "rows": rows, "targets": targets}, indent=1))


def alternate(contest, rounds):
    """The runs of each contestant, in turn."""
    runs = {name: [] for name in contest}
    for _ in range(rounds):
        for name, work in contest.items():
            ran = attempt(name, work) if name in runs else None
            if ran:
                runs[name].append(ran)
            else:
                runs.pop(name, None)
    return runs


if __name__ == "__main__":
    main()
