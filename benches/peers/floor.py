"""The most images a second that float32 allows on this machine: python benches/peers/floor.py [--json FILE]

Counts what an image costs in multiplications and additions, and a step of the decoder in bytes of memory, from the shapes of
the models that run.py has made; and measures how fast PyTorch multiplies two matrices of 4096 x 4096 and how fast it adds
up 1 GiB, both with all cores. The limit is what is left if the encoder and the keys and values of cross-attention run at that
speed, a step for 32 rows is multiplied at that speed or read at that one, whichever takes longer, and nothing else costs
anything. FILE is what run.py wrote with --json: then limits
are compared with what it measured.
"""

import argparse
import json
import pathlib
import time

import torch
from contestants import CACHE, TOKENS

BATCH = 32
FLOAT = 4


def fastest(work, times=7):
    """Seconds of the fastest of several runs."""
    def once():
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    once()
    return min(once() for _ in range(times))


def machine():
    """Operations and bytes a second."""
    side, bytes_ = 4096, 1 << 30
    a, b = torch.rand(side, side), torch.rand(side, side)
    flops = 2 * side**3 / fastest(lambda: a @ b)
    numbers = torch.ones(bytes_ // FLOAT)
    return flops, bytes_ / fastest(numbers.sum)


def encoder(config):
    """Tokens of an image, and operations of a vision transformer for it."""
    side, patch = config["image_size"], config["patch_size"]
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    patches = (side // patch) ** 2
    tokens = patches + 1
    products = layers * tokens * (4 * width**2 + 2 * width * inner) + patches * 3 * patch**2 * width
    return tokens, 2 * (products + 2 * layers * tokens**2 * width)


def decoder(tokens, width, inner, layers, vocabulary, head=0):
    """Operations for keys and values of cross-attention, operations of a step, weights of a step, kept numbers of a row."""
    kept = 2 * layers * tokens * width
    weights = layers * (6 * width**2 + 2 * width * inner) + (vocabulary + head) * width
    return 2 * kept * width, 2 * (weights + kept), weights, kept


def costs(name):
    """Operations of encoder and cross-attention, of a step; its weights, and kept numbers of a row."""
    config = json.loads((CACHE / name / "onnx/config.json").read_text())
    tokens, operations = encoder(config["encoder"] if name == "vit-gpt2" else config["vision_config"])
    if name == "clip":
        return operations, 0, 0, 0
    if name == "vit-gpt2":
        text = config["decoder"]
        shape = text["n_embd"], 4 * text["n_embd"], text["n_layer"], text["vocab_size"]
    else:
        text = config["text_config"]
        shape = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"], text["vocab_size"], text["hidden_size"]
    cross, *step = decoder(tokens, *shape)
    return operations + cross, *step


def main():
    usage, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path)
    given = parser.parse_args()
    rows = json.loads(given.json.read_text())["rows"] if given.json else []
    rates = {(row["model"], row["contestant"]): row["images_per_second"] for row in rows if row["pictures"] == "640x480"}
    flops, bandwidth = machine()
    print(f"{flops / 1e9:.0f} GFLOP/s in a product of matrices, {bandwidth / 1e9:.1f} GB/s read")
    print(f"{'model':9}{'GFLOP':>8}{'a step':>9}{'MB a step':>11}{'and a row':>11}{'limit':>8}   of it: nightcap, transformers")
    for name in ("vit-gpt2", "blip", "clip"):
        once, step, weights, kept = costs(name)
        read = FLOAT * (weights / BATCH + kept)
        seconds = once / flops + TOKENS * max(step / flops, read / bandwidth)
        found = [rates.get((name, who)) for who in ("nightcap", "transformers")]
        shares = ", ".join("" if rate is None else f"{rate * seconds:.2f}" for rate in found)
        print(f"{name:9}{once / 1e9:8.1f}{step / 1e9:9.2f}{weights * FLOAT / 1e6:11.0f}{kept * FLOAT / 1e6:11.1f}{1 / seconds:8.2f}   {shares}")


if __name__ == "__main__":
    main()
