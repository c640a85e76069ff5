"""How far the outputs of one version of a model's graphs are from those of another, fed with the same inputs.

The inputs of the first graphs are images and texts, those of the others are outputs of the first version.
"""

import numpy as np
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoImageProcessor

import common

ROWS = 4
TEXTS = ["a black cat sleeps on a red chair", "two men in a small boat, with a dog", "a plate of food and a cup on a table",
         "people walk over the bridge in the rain"]
TYPES = {"tensor(bool)": bool, "tensor(int64)": np.int64, "tensor(float)": np.float32}


def report(model, images, pairs):
    """Prints a line for each output of the graphs, `pairs` of files (expected, found)."""
    known, waiting = samples(model, images), list(pairs)
    # A merged decoder begins without a past; otherwise another graph makes it.
    alone = not any(expected.stem == "decoder_model" for expected, _ in pairs)
    while waiting:
        for pair in waiting:
            runners = [common.session(path) for path in pair]
            fed = feed(runners[0], known, alone)
            if fed is not None:
                break
        else:
            print(f"drift not measured for want of inputs: {', '.join(found.name for _, found in waiting)}")
            return
        waiting.remove(pair)
        expected, found = (common.run(runner, fed) for runner in runners)
        # The first row without the others.
        single = common.run(runners[1], {name: value[:1] for name, value in fed.items()})
        for name in expected:
            # Scores of every image with every text follow from the embeddings.
            if not name.startswith(("present", "logits_per_")):
                print(f"{pair[1].name}: {name}: {distance(name, found[name], expected[name])}; "
                      f"alone and in a batch of {ROWS}: {distance(name, single[name], found[name][:len(single[name])])}")
        known |= {name.replace("present", "past_key_values"): value for name, value in expected.items()}
        if "last_hidden_state" in expected:
            known["encoder_hidden_states"] = expected["last_hidden_state"]


def distance(name, found, expected):
    if name == "logits":
        same = (found.argmax(-1) == expected.argmax(-1)).sum()
        return (f"largest difference {np.abs(found - expected).max():.3g} where logits go up to {np.abs(expected).max():.3g}, "
                f"the best token is the same in {same} of {expected[..., 0].size} places")
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return f"smallest cosine {((found * expected).sum(-1) / lengths).min():.5f}"


def samples(model, images):
    """Input arrays by name: pixel values of the image processor, and tokens cut to one length."""
    known = {}
    if (model / "preprocessor_config.json").exists():
        pictures = [Image.open(path).convert("RGB") for path in sorted(images.iterdir())[:ROWS]] if images else [
            common.picture().rotate(turn, expand=True) for turn in (0, 90, 180, 270)]
        known |= AutoImageProcessor.from_pretrained(model, use_fast=False)(pictures, return_tensors="np")
    if (model / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        tokenizer.no_padding()
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
        known["input_ids"] = np.array([ids[:min(map(len, tokens))] for ids in tokens])
    return known


def feed(runner, known, alone):
    """The inputs of a graph, or nothing as long as one of them is not known."""
    fed = {value.name: known[value.name] for value in runner.get_inputs() if value.name in known}
    past = next((states.shape[2] for name, states in fed.items() if name.startswith("past_key_values")), 0)
    if past and "input_ids" in fed:
        fed["input_ids"] = fed["input_ids"][:, -1:]
    logits = next((value for value in runner.get_outputs() if value.name == "logits"), None)
    if logits and "input_ids" in fed and isinstance(logits.shape[-1], int):
        # Some decoders know only the first of the tokens.
        fed["input_ids"] = np.minimum(fed["input_ids"], logits.shape[-1] - 1)
    new = fed.get("input_ids", fed.get("inputs_embeds"))
    for value in runner.get_inputs():
        if value.name in fed:
            continue
        if value.name == "use_cache_branch":
            made = np.array([False])
        elif value.name == "encoder_attention_mask" and "encoder_hidden_states" in fed:
            made = np.ones(fed["encoder_hidden_states"].shape[:2])
        elif new is None:
            return None
        elif value.name == "attention_mask":
            made = np.ones((len(new), past + new.shape[1]))
        elif value.name == "position_ids":
            made = np.tile(np.arange(past, past + new.shape[1]), (len(new), 1))
        elif value.name.startswith("past_key_values") and alone:
            made = np.zeros((len(new), value.shape[1], 0, value.shape[3]))
        else:
            return None
        fed[value.name] = made
    return {value.name: fed[value.name].astype(TYPES[value.type]) for value in runner.get_inputs()}
