"""Writes tests/fixtures/models/coca/ and tests/goldens/families/coca.json.

A tiny CoCa of open_clip with fixed random weights and CLIP's tokenizer with a few merges, exported by jobs/export/coca.py, and
what open_clip says about photographs, one at a time: embeddings, and captions without beams, asked for one token more than
wanted, as open_clip ends every caption that is too long with an end token in the last place.

Its beam search adds up logits that are no logarithms of probabilities, knows no length penalty and takes no prompt. Cases
with beams or repeated n-grams are therefore of transformers' `generate` over open_clip's model; `oracle` says which it was.

    python tests/goldens/families/coca.py       # needs torch, open_clip_torch 3.3.0, transformers 4.57.6, onnxruntime, pillow
"""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers.generation
from safetensors.torch import save_file
from transformers import (CLIPImageProcessor, GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel,
                          PreTrainedTokenizerFast)
from transformers.generation.beam_search import BeamSearchScorer
from transformers.modeling_outputs import CausalLMOutput

import common

# open_clip 3.3.0 looks for this name here and refuses to generate without it; transformers 4.57 keeps it elsewhere.
transformers.generation.BeamSearchScorer = BeamSearchScorer
import open_clip

SIDE, WIDTH, CONTEXT = 32, 32, 16
# One for each photograph, of different lengths; the last but one is longer than the context.
TEXTS = ["a", "Ba di, ku", "the face of a cat", "Café: one   cup", "two horses'll run", "in 1999",
         "pancakes with syrup & butter", "!?"]


def configuration(merges):
    towers = {"context_length": CONTEXT, "vocab_size": 512 + len(common.SYLLABLES) * 2 + 2, "width": WIDTH, "heads": 2,
              "layers": 1, "mlp_ratio": 1.5}
    # The image tokens are wider than the embedding space is.
    vision = {"image_size": SIDE, "patch_size": 8, "layers": 1, "width": 24, "head_width": 12, "mlp_ratio": 2.0,
              "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 6, "output_tokens": True}
    return {"embed_dim": WIDTH, "vision_cfg": vision, "multimodal_cfg": towers | {"attn_pooler_heads": 2}, "custom_text": True,
            "text_cfg": towers | {"embed_cls": True, "output_tokens": True, "tokenizer_kwargs": {"bpe_path": str(merges)}}}


def save(folder, seed, emphasis):
    """A checkpoint as open_clip loads it."""
    merges = ["#version: 0.2"] + [f"{a} {b}{end}" for end in ("", "</w>") for a, b in common.SYLLABLES]
    with gzip.open(folder / "merges.txt.gz", "wt") as file:
        file.write("\n".join(merges))
    config = configuration(folder / "merges.txt.gz")
    size = config["text_cfg"]["vocab_size"]
    coca = common.reinitialise(open_clip.CoCa(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg",
                                                                              "multimodal_cfg")}), seed)
    with torch.no_grad():
        head = coca.text_decoder.text_projection
        head *= (size / WIDTH)**0.5
        head[:, :512] = 0  # bytes and the start are never written
        head[:, -2] = 0
        head[:, -1] *= emphasis
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(coca.state_dict(), folder / "open_clip_model.safetensors")


class Captioner(PreTrainedModel, GenerationMixin):
    """open_clip's CoCa as transformers' `generate` wants it."""

    config_class = PretrainedConfig

    def __init__(self, coca, settings):
        super().__init__(PretrainedConfig(vocab_size=coca.text.vocab_size))
        self.coca, self.generation_config = coca, settings

    def prepare_inputs_for_generation(self, input_ids, pixel_values=None, **_):
        return {"input_ids": input_ids, "pixel_values": pixel_values}

    def forward(self, input_ids, pixel_values, **_):
        return CausalLMOutput(logits=self.coca(pixel_values, input_ids, output_labels=False)["logits"])


def oracle(settings):
    known = {"min_new_tokens", "max_new_tokens", "repetition_penalty", "prompt"}
    return "open_clip" if settings.keys() <= known else "transformers"


def by_open_clip(coca, pixels, prefix, settings, files):
    """The sequence [T] that open_clip gives, without the end that it forces in the last place."""
    length, least = prefix.shape[1], files.min_length
    most = length + settings["max_new_tokens"] if "max_new_tokens" in settings else files.max_length
    least = max(least, length + settings.get("min_new_tokens", 0))
    sequence = coca.generate(pixels, text=prefix, seq_len=most + 1, min_seq_len=least, generation_type="top_k", top_k=1,
                             repetition_penalty=settings.get("repetition_penalty", 1.0), pad_token_id=files.pad_token_id,
                             eos_token_id=files.eos_token_id, sot_token_id=files.bos_token_id)[0]
    return sequence[:most]


@torch.no_grad()
def main(seed=11, emphasis=1.5):
    folder = common.MODELS / "coca"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        save(pathlib.Path(work), seed, emphasis)
        subprocess.run([sys.executable, common.ROOT / "jobs/export/coca.py", work, folder], check=True)
        coca = open_clip.create_model_from_pretrained(f"local-dir:{work}", precision="fp32", return_transform=False).eval()
        original = open_clip.get_tokenizer(f"local-dir:{work}")
    files = GenerationConfig.from_pretrained(folder)
    captioner = Captioner(coca, files)
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder)
    pixels = [processor(picture, return_tensors="pt").pixel_values for picture in common.photos()]

    def generate(image, prefix, settings):
        theirs = captioner.generate(prefix, pixel_values=image, do_sample=False, use_cache=False, **settings)[0]
        if oracle(settings) == "open_clip":
            ours = by_open_clip(coca, image, prefix, settings, files)
            assert ours.tolist() == theirs.tolist(), f"open_clip {ours.tolist()}, transformers {theirs.tolist()}"
        return theirs

    def logits(image, sequence):
        return captioner(sequence, image).logits[0]

    cases = common.cases(common.CASES, pixels, fast, files.bos_token_id, [files.eos_token_id], generate, logits)
    for case in cases:
        case["oracle"] = oracle(case["settings"])
    images, states = zip(*((embeds[0], tokens[0]) for embeds, tokens in map(coca._encode_image, pixels)))
    texts = [coca.encode_text(original([text], context_length=CONTEXT))[0] for text in TEXTS]
    for kind, embeddings in [("images", images), ("texts", texts)]:
        common.apart(kind, torch.stack(list(embeddings)))
    common.write("coca", {
        "pixels": common.probes([image[0] for image in pixels]),
        "states": {"output": "last_hidden_state"} | common.probes(states),
        "image_embeddings": [row.tolist() for row in images], "texts": TEXTS,
        "text_embeddings": [row.tolist() for row in texts], "cases": cases})


if __name__ == "__main__":
    main()
