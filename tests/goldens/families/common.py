"""What the scripts of all families share: photographs, weights, exports, rows of `generate`, and the golden file."""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
logging.disable(logging.WARNING)

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parents[3]
MODELS = ROOT / "tests/fixtures/models"
PHOTOS = ROOT / "sample_data/photos"
NAMES = ["astronaut.jpg", "canyon-river.jpg", "cat-face.jpg", "coffee.jpg", "horses.webp", "hot-air-balloon.png", "pancakes.jpg",
         "rocket.jpg"]
CONSONANTS, VOWELS = "bcdfgklmprst", "aeiou"
SYLLABLES = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
# The smallest distance between the best two tokens of a greedy caption, which another order of additions cannot bridge.
MARGIN = 1e-3

PROMPT = "baba di"
# Named settings of `generate`, under the names that a job file uses, for models whose prompt is optional.
CASES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "beam_long": {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    "fixed": {"min_new_tokens": 7, "max_new_tokens": 7},
    "beam_fixed": {"num_beams": 3, "min_new_tokens": 7, "max_new_tokens": 7},
    "short": {"max_new_tokens": 4},
    "repetition": {"repetition_penalty": 1.3},
    "prompt": {"prompt": PROMPT},
    "beam_prompt": {"prompt": PROMPT, "num_beams": 3},
}


def photos():
    return [Image.open(PHOTOS / name).convert("RGB") for name in NAMES]


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def word_pieces(specials):
    """BERT's lower-cased WordPiece over syllables, `[CLS]` before a text and `[SEP]` behind it."""
    pieces = [".", ",", *CONSONANTS, *VOWELS, *SYLLABLES]
    words = specials + pieces + [f"##{piece}" for piece in pieces[2:]]
    pieces = Tokenizer(models.WordPiece(vocab={word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.add_special_tokens([AddedToken(word, special=True) for word in specials])
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(word, words.index(word)) for word in ("[CLS]", "[SEP]")])
    return pieces


def reinitialise(model, seed):
    """Fixed weights of unit gain, which let no two images look alike; norms stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower() or "ln_" in name or weight.dim() == 0:
                continue
            if weight.dim() == 1:
                scale = 0.1
            elif "embed" in name and weight.dim() < 4:  # with 4 it is the convolution over patches
                scale = 1.0
            else:
                scale = 2.0 / (weight.shape[-1] if weight.dim() == 2 else weight[0].numel())**0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model.eval()


def export_by_job(family, model, processor, folder):
    """Runs jobs/export/FAMILY.py on the saved model and returns the model as it was loaded from there."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        model.save_pretrained(work)
        processor.save_pretrained(work)
        # optimum's order of a merged decoder's weights is that of a set.
        subprocess.run([sys.executable, ROOT / f"jobs/export/{family}.py", work, folder], check=True,
                       env=os.environ | {"PYTHONHASHSEED": "0"})
        return type(model).from_pretrained(work).eval()


def probes(tensors):
    """The shape that the tensors of all photographs have, and a few values of each, told by flat index."""
    last = tensors[0].numel() - 1
    places = [last * step // 11 for step in range(12)]
    return {"shape": list(tensors[0].shape), "places": places,
            "values": [tensor.flatten()[places].tolist() for tensor in tensors]}


@torch.no_grad()
def cases(settings, pixels, fast, start, ends, generate, logits):
    """The cases of a golden file, one photograph at a time.

    `generate(pixels, prefix, settings)` gives the whole sequence [T], `logits(pixels, sequence)` [T, vocabulary] without a
    cache, both for a batch of one; the prefix is `start` and the prompt's tokens.
    """
    made = []
    for name, given in settings.items():
        plain = {key: value for key, value in given.items() if key != "prompt"}
        prefix = torch.tensor([[start, *fast(given.get("prompt", ""), add_special_tokens=False).input_ids]])
        rows, margins = [], []
        for image in pixels:
            sequence = generate(image, prefix, plain)
            tokens = sequence[prefix.shape[1]:]
            scores = logits(image, sequence[None, :-1])[prefix.shape[1] - 1:]
            best = scores.topk(2).values
            margins.append((best[:, 0] - best[:, 1]).min().item())
            logprob = scores.double().log_softmax(-1).gather(1, tokens[:, None]).sum().item()
            rows.append({"tokens": tokens.tolist(), "logprob": logprob,
                         "text": fast.decode(tokens, skip_special_tokens=True).strip(),
                         "finish": "eos" if tokens[-1] in ends else "length"})
        report(name, rows, margins)
        made.append({"name": name, "settings": given, "rows": rows})
    return made


def report(name, rows, margins):
    """Prints what a case shows, and ends the script where a case shows too little."""
    ends = [row["finish"] for row in rows]
    print(f"  {name:14} {len({tuple(row['tokens']) for row in rows})} distinct, eos {ends.count('eos')}, length "
          f"{ends.count('length')}, smallest margin {min(margins):.1e}, {rows[0]['text']!r}")
    if name in ("greedy", "beam") and len(set(ends)) < 2:
        raise SystemExit(f"error: every row of {name} ends by {ends[0]}\nhint: another emphasis of the end token")
    if name == "greedy" and min(margins) < MARGIN:
        raise SystemExit(f"error: two tokens are only {min(margins):.1e} apart\nhint: another seed")


def apart(kind, embeddings):
    """Ends the script where two of the embeddings [N, E] of length one are too alike for a test to tell them apart."""
    alike = (embeddings @ embeddings.T - 2 * torch.eye(len(embeddings))).max().item()
    print(f"  cosine of two different {kind} at most {alike:.3f}")
    if alike > 0.99:
        raise SystemExit(f"error: two {kind} have a cosine of {alike}\nhint: another seed")


def rounded(value):
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


def write(name, content):
    """Writes NAME.json beside the scripts."""
    path = pathlib.Path(__file__).with_name(f"{name}.json")
    path.write_text(json.dumps({"photos": NAMES} | rounded(content), separators=(",", ":"), ensure_ascii=False) + "\n")
    print(f"  {path.name}: {path.stat().st_size} bytes")
