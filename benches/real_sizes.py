"""Models of real size against PyTorch: python benches/real_sizes.py [--nightcap PATH] [--models FOLDER] [NAME ...]

`nightcap run` captions or embeds 32 photographs of 640 x 480 with models of published shapes and random weights, and is
compared with transformers: greedy captions of 20 tokens, token for token, and vectors. Prints a Markdown table, and what is
needed to judge it: how different the captions are, and how close PyTorch's choices were. Ends with status 1 if a row differs by
more than rounding explains.

Needs what peers/requirements.txt lists, torchvision and num2words, and ORT_DYLIB_PATH. Models that FOLDER does not have are
made there (9 GB for all).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from peak import run as measured
from peers import pictures
from peers.contestants import CACHE, words

import polars as pl
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
NAMES = ["vit-gpt2", "blip", "clip", "smolvlm"]
ROWS, BATCH, TOKENS = 32, 8, 20
# As many words of the tokenizer as `Can you describe this image?` has tokens.
PROMPTS = {"smolvlm": "w11 w12 w13 w14 w15 w16"}
# Logits, or values of a vector, that are less apart may change places with another order of additions.
ROUNDING = 1e-3


@dataclass
class Ran:
    """What the whole of `nightcap run` took, loading included, and its rows in order."""
    seconds: float
    peak_mib: float
    rows: list[dict]


@dataclass
class Caption:
    """PyTorch's caption of one photograph."""
    tokens: list[int]
    logprob: float
    # Logits between the chosen token and the second best, for each token.
    margins: list[float]


def model(folder, name):
    """FOLDER/NAME with `torch/` and `onnx/`, made if it is not there."""
    made = folder / name
    if not made.exists():
        print(f"making {made}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        maker = ["smolvlm_256m.py"] if name == "smolvlm" else ["peers/models.py", name]
        with tempfile.TemporaryDirectory(dir=folder) as work:
            partial = pathlib.Path(work, name)
            subprocess.run([sys.executable, HERE / maker[0], *maker[1:], partial], check=True, stdout=subprocess.DEVNULL)
            partial.rename(made)
    return made


def graphs_mib(nightcap, folder):
    """The graphs that nightcap takes from the model directory; some have others for other readers."""
    said = subprocess.run([nightcap, "model", "inspect", "--json", folder / "onnx"], check=True, capture_output=True)
    return sum({graph["file"]: graph["bytes"] for graph in json.loads(said.stdout)["graphs"]}.values()) / 2**20


def run(nightcap, name, folder, photographs):
    """Captions, or embeds, the photographs."""
    generation = "enabled = false" if name == "clip" else (
        f'strategy = "greedy"\nmin_new_tokens = {TOKENS}\nmax_new_tokens = {TOKENS}\n'
        + (f'prompt = "{PROMPTS[name]}"' if name in PROMPTS else ""))
    with tempfile.TemporaryDirectory() as work:
        job = pathlib.Path(work, "job.toml")
        job.write_text(f'[input]\nmanifest = "{photographs}/manifest.parquet"\nkey = "id"\nimage = "image"\n'
                       f'[model]\npath = "{folder}/onnx"\n[generation]\n{generation}\n[output]\npath = "out"\n')
        seconds, peak_mib = measured([nightcap, "run", job])
        rows = pl.read_parquet(f"{work}/out/run=*/*.parquet").sort("id").to_dicts()
    failed = [f"{row['id']}: {row['error_message']}" for row in rows if row["status"] != "ok"]
    if len(rows) != ROWS or failed:
        raise SystemExit(f"error: expected {ROWS} rows that are ok, found {len(rows)} rows, of which failed: {failed}")
    return Ran(seconds, peak_mib, rows)


def inputs(name, folder, images):
    """What transformers feeds to the model, a batch at a time."""
    # The processors on top of torchvision resize with other rounding.
    pixels = AutoImageProcessor.from_pretrained(folder / "torch", use_fast=False)
    batches = [images[place:place + BATCH] for place in range(0, len(images), BATCH)]
    if name not in PROMPTS:
        return [pixels(batch, return_tensors="pt") for batch in batches]
    processor = AutoProcessor.from_pretrained(folder / "torch", use_fast=False)
    processor.image_processor = pixels
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS[name]}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    return [processor(images=[[image] for image in batch], text=[text] * len(batch), return_tensors="pt") for batch in batches]


def captions(folder, given):
    reference = AutoModelForImageTextToText.from_pretrained(folder / "torch", dtype=torch.float32).eval()
    for feed in given:
        made = reference.generate(**feed, do_sample=False, num_beams=1, min_new_tokens=TOKENS, max_new_tokens=TOKENS,
                                  output_logits=True, output_scores=True, return_dict_in_generate=True)
        tokens = made.sequences[:, -TOKENS:]
        chances = torch.stack(made.logits, 1).double().log_softmax(-1)
        logprobs = chances.gather(2, tokens[..., None]).sum((1, 2))
        best = torch.stack(made.scores, 1).topk(2).values
        margins = best[..., 0] - best[..., 1]
        yield from map(Caption, tokens.tolist(), logprobs.tolist(), margins.tolist())


def vectors(folder, given):
    reference = AutoModel.from_pretrained(folder / "torch", dtype=torch.float32).eval()
    return torch.cat([torch.nn.functional.normalize(reference.get_image_features(**feed), dim=-1) for feed in given])


def compare_captions(folder, ran, given):
    """Rows with equal tokens, the largest difference of log-probability among them, what to know, and what is wrong."""
    expected = list(captions(folder, given))
    special = set(AutoTokenizer.from_pretrained(folder / "torch").all_special_ids)
    equal, largest, notes, wrong = 0, 0.0, [], []
    for row, reference in zip(ran.rows, expected, strict=True):
        found = words(row["caption"])
        # Captions leave special tokens out.
        shown = [token for token in reference.tokens if token not in special]
        if found == shown and row["caption_tokens"] == TOKENS:
            equal += 1
            largest = max(largest, abs(row["caption_logprob"] - reference.logprob))
            continue
        kept = [place for place, token in enumerate(reference.tokens) if token not in special]
        place = next((place for place, token in zip(kept, found) if reference.tokens[place] != token), TOKENS - 1)
        margin = reference.margins[place]
        notes.append(f"photograph {row['id']}: {row['caption_tokens']} tokens, of which number {place + 1} is the first to "
                     f"differ; PyTorch's best two were {margin:.1e} apart there")
        if margin >= ROUNDING:
            wrong.append(notes[-1])
    if largest >= ROUNDING * TOKENS:
        wrong.append(f"log-probabilities differ by {largest:.1e}")
    margins = [margin for each in expected for margin in each.margins]
    notes.append(f"{len({tuple(each.tokens) for each in expected})} different captions of {ROWS} by PyTorch, with "
                 f"{len({token for each in expected for token in each.tokens})} different tokens; its best two tokens were "
                 f"{min(margins):.1e} apart or more")
    return f"{equal} of {ROWS}", largest, notes, wrong


def compare_vectors(folder, ran, given):
    """As `compare_captions`."""
    expected = vectors(folder, given)
    found = torch.tensor([row["image_embedding"] for row in ran.rows])
    largest = (found - expected).abs().max().item()
    cosines = expected @ expected.T - 2 * torch.eye(ROWS)
    notes = [f"the cosine with PyTorch's vector is {(found * expected).sum(-1).min().item():.7f} or more; two different "
             f"photographs have {cosines.max().item():.4f} or less"]
    return "", largest, notes, [f"vectors differ by {largest:.1e}"] if largest >= ROUNDING else []


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nightcap", type=pathlib.Path, default=HERE.parent / "target/debug/nightcap")
    parser.add_argument("--models", type=pathlib.Path, default=CACHE)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"expected names of {', '.join(NAMES)}, found {', '.join(sorted(unknown))}")
    transformers.utils.logging.set_verbosity_error()
    nightcap, remarks, wrong = given.nightcap.resolve(), [], []
    with tempfile.TemporaryDirectory() as work:
        photographs = pathlib.Path(work, "photographs")
        pictures.main(photographs, ROWS, 640, 480)
        images = [Image.open(path).convert("RGB") for path in sorted(photographs.glob("*.jpg"))]
        print("| model | graphs, MiB | tiles | rows | tokens equal | largest difference | seconds | peak RSS, MiB |\n"
              "|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for name in given.names or NAMES:
            folder = model(given.models.resolve(), name)
            ran = run(nightcap, name, folder, photographs)
            fed = inputs(name, folder, images)
            tiles = sum(feed["pixel_values"].flatten(0, -4).shape[0] for feed in fed)
            compare = compare_vectors if name == "clip" else compare_captions
            equal, largest, notes, bad = compare(folder, ran, fed)
            print(f"| {name} | {graphs_mib(nightcap, folder):.0f} | {tiles} | {ROWS} | {equal} | {largest:.1e} | "
                  f"{ran.seconds:.1f} | {ran.peak_mib:.0f} |", flush=True)
            remarks += [f"- {name}: {note}" for note in notes]
            wrong += [f"{name}: {each}" for each in bad]
    print("", *remarks, sep="\n")
    if wrong:
        raise SystemExit("error: more than rounding explains\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
