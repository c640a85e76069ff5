"""Export a CoCa: python jobs/export/coca.py CHECKPOINT OUTPUT

CHECKPOINT is a CoCa of open_clip: a folder with open_clip_config.json, or a name on the Hugging Face hub, such as
laion/CoCa-ViT-B-32-laion2B-s13B-b90k. OUTPUT gets onnx/{vision_model,text_model,multimodal_decoder}.onnx, a tokenizer.json
and configuration with transformers' keys. The graphs have to give open_clip's tokens before the command says that it is done.

Differences from open_clip that remain: its sampling ends a caption that is too long with an end token in the last place, its
tokenizer first repairs broken Unicode and HTML entities, and torchvision rounds the place of a centre crop to the even number
where transformers rounds down, which moves images of some sizes by one pixel.
"""

import json
import pathlib
from types import SimpleNamespace

import numpy as np
import torch
import transformers.generation
from PIL import Image
from tokenizers import decoders
from transformers import CLIPImageProcessor
from transformers.convert_slow_tokenizer import CLIPConverter
from transformers.generation.beam_search import BeamSearchScorer

import common

# open_clip 3.3.0 looks for this name here and refuses to generate without it; transformers 4.57 keeps it elsewhere.
transformers.generation.BeamSearchScorer = BeamSearchScorer
import open_clip

# The defaults of open_clip's `generate`: `seq_len` and `min_seq_len`, the start token included.
MAX_LENGTH, MIN_LENGTH = 30, 5
START, END = "<start_of_text>", "<end_of_text>"
TEXTS = ["a cat", "A man's hat,  on (two) red   chairs!", "Café — 123 déjà-vu 東京 🙂",
         "it'll end in 1999" + " and a long tail" * 40]
RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Attention(torch.nn.Module):
    """`torch.nn.MultiheadAttention` in operations that tracing keeps free of sizes."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, query, key, value, need_weights=False, attn_mask=None):
        given = self.attention
        weights = (given.in_proj_weight.chunk(3) if given.in_proj_weight is not None
                   else (given.q_proj_weight, given.k_proj_weight, given.v_proj_weight))
        query, key, value = (
            torch.nn.functional.linear(states, weight, bias).unflatten(-1, (given.num_heads, given.head_dim)).transpose(1, 2)
            for states, weight, bias in zip((query, key, value), weights, given.in_proj_bias.chunk(3)))
        scores = query @ key.transpose(2, 3) * given.head_dim**-0.5
        if attn_mask is not None:  # [Q, K], or [B * heads, Q, K]
            scores = scores + (attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, given.num_heads)))
        return given.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)), None


def replace_attention(module):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.MultiheadAttention):
            setattr(module, name, Attention(child))
        else:
            replace_attention(child)


class Vision(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `image_embeds` [B, E] of length one, `last_hidden_state` [B, queries, width]."""

    def __init__(self, coca):
        super().__init__()
        self.coca = coca

    def forward(self, pixel_values):
        return self.coca._encode_image(pixel_values)


class Text(torch.nn.Module):
    """`input_ids` [B, T] -> `text_embeds` [B, E] of length one, `token_embeds` [B, T, width].

    The embedding is that of open_clip if the text is padded to the context length; those of tokens see what is before them.
    """

    def __init__(self, coca):
        super().__init__()
        self.coca = coca

    def forward(self, input_ids):
        return self.coca._encode_text(input_ids)


class Decoder(torch.nn.Module):
    """`token_embeds` of the whole text so far and the image -> `logits` [B, T, vocabulary]."""

    def __init__(self, coca):
        super().__init__()
        self.decoder = coca.text_decoder

    def forward(self, token_embeds, encoder_hidden_states):
        return self.decoder(encoder_hidden_states, token_embeds)


def export(coca, side, folder):
    batch, new = 2, 5
    pixels, ids = torch.randn(batch, 3, *side), torch.arange(1, batch * new + 1).reshape(batch, new)
    rows, words = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}
    with torch.no_grad():
        image, tokens = coca._encode_image(pixels)[1], coca._encode_text(ids)[1]
    common.export(Vision(coca), folder / "vision_model.onnx", {"pixel_values": (pixels, rows)},
                  {"image_embeds": rows, "last_hidden_state": rows})
    common.export(Text(coca), folder / "text_model.onnx", {"input_ids": (ids, words)},
                  {"text_embeds": rows, "token_embeds": words})
    common.export(Decoder(coca), folder / "multimodal_decoder.onnx",
                  {"token_embeds": (tokens, words), "encoder_hidden_states": (image, rows)}, {"logits": words})


def tokenizer(original, context, pad):
    """open_clip's tokenizer as a `tokenizer.json` that pads and cuts texts to the context length."""
    if not isinstance(original, open_clip.SimpleTokenizer):
        common.fail(f"expected a CoCa with CLIP's tokenizer, found {type(original).__name__}", "export another checkpoint")
    made = CLIPConverter(SimpleNamespace(
        encoder=original.encoder, bpe_ranks=original.bpe_ranks, unk_token=END, bos_token=START, eos_token=END,
        bos_token_id=original.sot_token_id, eos_token_id=original.eot_token_id)).converted()
    made.add_special_tokens([START, END])
    # CLIP's tokenizer class does this outside of the file.
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    made.enable_truncation(context)
    made.enable_padding(length=context, pad_id=pad, pad_token=original.decoder[pad])
    expected = original(TEXTS, context_length=context).tolist()
    for text, tokens, found in zip(TEXTS, expected, made.encode_batch(TEXTS), strict=True):
        if found.ids != tokens:
            common.fail(f"expected open_clip's tokens {tokens} of {text!r}, found {found.ids}", "export another checkpoint")
    return made


def image_processor(visual):
    """transformers' image processor for open_clip's preprocessing."""
    given = visual.preprocess_cfg
    mode, resample = given["resize_mode"], RESAMPLE.get(given["interpolation"])
    if mode != "shortest" or resample is None:
        common.fail(f"expected preprocessing with resize_mode shortest and interpolation bicubic or bilinear, found {given}",
                    "export another checkpoint")
    height, width = side(visual)
    if height != width:
        common.fail(f"expected square images, found {height} by {width}", "export another checkpoint")
    return CLIPImageProcessor(size={"shortest_edge": height}, crop_size={"height": height, "width": width}, resample=resample,
                              image_mean=list(given["mean"]), image_std=list(given["std"]))


def side(visual):
    size = visual.image_size
    return size if isinstance(size, (tuple, list)) else (size, size)


def patch_side(visual):
    """`patch_size` for the configuration; towers of timm have none."""
    size = getattr(visual, "patch_size", None)
    return {} if size is None else {"patch_size": size[0] if isinstance(size, (tuple, list)) else size}


def write_configuration(coca, original, context, folder):
    special = {"bos_token_id": original.sot_token_id, "eos_token_id": original.eot_token_id, "pad_token_id": coca.pad_id,
               "decoder_start_token_id": original.sot_token_id}
    files = {
        "config": {"model_type": "coca", "architectures": ["CoCa"], "projection_dim": coca.text.output_dim,
                   "vocab_size": coca.text.vocab_size, "max_position_embeddings": context,
                   "image_size": side(coca.visual)[0], **patch_side(coca.visual), **special},
        "generation_config": {**special, "max_length": min(MAX_LENGTH, context), "min_length": MIN_LENGTH},
        "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "bos_token": START,
                             "eos_token": END, "clean_up_tokenization_spaces": False},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def generate(folder, pixels, start, end, steps):
    """Greedy tokens [B, steps] by the graphs, the end token never among them."""
    vision, text, decoder = (common.session(folder / f"{name}.onnx")
                             for name in ("vision_model", "text_model", "multimodal_decoder"))
    image = common.run(vision, {"pixel_values": pixels})["last_hidden_state"]
    tokens = np.full((len(pixels), 1), start)
    for _ in range(steps):
        embeds = common.run(text, {"input_ids": tokens})["token_embeds"]
        logits = common.run(decoder, {"token_embeds": embeds, "encoder_hidden_states": image})["logits"]
        logits[..., end] = -np.inf
        tokens = np.concatenate([tokens, logits[:, -1:].argmax(-1)], 1)
    return tokens[:, 1:]


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    name = f"{'local-dir' if pathlib.Path(checkpoint).is_dir() else 'hf-hub'}:{checkpoint}"
    coca, preprocess = open_clip.create_model_from_pretrained(name, precision="fp32")
    if not isinstance(coca, open_clip.CoCa):
        common.fail(f"expected a CoCa, found {type(coca).__name__}", "CLIP models are exported by optimum")
    original, context = open_clip.get_tokenizer(name), min(coca.text.context_length, coca.context_length)
    processor = image_processor(coca.visual)
    graphs = output / "onnx"
    graphs.mkdir(parents=True)
    processor.save_pretrained(output)
    tokenizer(original, context, coca.pad_id).save(str(output / "tokenizer.json"))
    write_configuration(coca, original, context, output)

    pixels = processor(common.picture(), return_tensors="pt").pixel_values
    if (difference := (pixels[0] - preprocess(common.picture())).abs().max()) > 1e-5:
        common.fail(f"expected open_clip's pixels, found a difference of {difference}", "export another checkpoint")
    pixels, steps = torch.cat([pixels, pixels.flip(-1)]), min(16, context - 2)
    # Its length counts the start token and the end token that it puts in the last place.
    expected = coca.eval().generate(pixels, seq_len=steps + 2, min_seq_len=steps + 1, generation_type="top_k", top_k=1,
                                    sot_token_id=original.sot_token_id, eos_token_id=original.eot_token_id)[:, 1:-1]
    replace_attention(coca)
    export(coca, side(coca.visual), graphs)
    found = generate(graphs, pixels.numpy(), original.sot_token_id, original.eot_token_id, steps)
    common.same_tokens(found, expected.numpy())
    print(f"done: {output}")


main()
