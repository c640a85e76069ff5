"""Writes tests/fixtures/models/{clip,clip_split}/ and tests/goldens/families/clip.json.

One tiny CLIP with fixed random weights in its two layouts: the joint graph of optimum (`model.onnx`, embeddings of length
one) and `vision_model` with `text_model` (embeddings as the projections give them). The embeddings of the golden file are
transformers' own, scaled to length one, and hold for both.

    python tests/goldens/families/clip.py       # needs torch, transformers 4.57.6, optimum-onnx 0.1.0, onnxruntime, pillow
"""

import re

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

import common
import embedders

SIDE, WIDTH, CONTEXT = 32, 32, 24
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer():
    """CLIP's lower-cased byte-level BPE with marked ends of words: every byte, then the beginnings of the texts' words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = letters + [letter + "</w>" for letter in letters], []
    words = sorted({word for text in embedders.TEXTS for word in re.findall("[a-z]+", text.lower())})
    for length in (2, 3, 4):
        for word in sorted({word[:length] for word in words if len(word) > length}):
            vocabulary.append(word)
            merges.append((word[:-1], word[-1]))
    bpe = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(vocabulary)}, merges=merges, unk_token=END,
                               end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    words = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, behavior="removed", invert=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([START, END])  # behind all others: CLIP's pooling takes the greatest token
    start, end = bpe.token_to_id(START), bpe.token_to_id(END)
    bpe.post_processor = processors.RobertaProcessing(sep=(END, end), cls=(START, start), add_prefix_space=False,
                                                      trim_offsets=False)
    return CLIPTokenizerFast(tokenizer_object=bpe, model_max_length=CONTEXT)


def model(fast):
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = CLIPConfig(
        text_config=layers | {"vocab_size": len(fast), "max_position_embeddings": CONTEXT, "projection_dim": 24,
                              "bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id},
        vision_config=layers | {"image_size": SIDE, "patch_size": 8, "projection_dim": 24}, projection_dim=24)
    return common.reinitialise(CLIPModel(config), 3)


class Image(torch.nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values):
        return self.clip.get_image_features(pixel_values=pixel_values)


class Text(torch.nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, input_ids):
        return self.clip.get_text_features(input_ids=input_ids)


def split(clip, folder):
    """The two towers as graphs. No attention mask: text is causal and pooled at its first end token."""
    rows = {0: "batch_size"}
    pixels, ids = torch.randn(2, 3, SIDE, SIDE), torch.randint(clip.config.text_config.vocab_size, (2, CONTEXT))
    for name, module, given, source, target in [
            ("vision_model", Image(clip), pixels, {"pixel_values": rows}, "image_embeds"),
            ("text_model", Text(clip), ids, {"input_ids": rows | {1: "sequence_length"}}, "text_embeds")]:
        torch.onnx.export(module, (given,), folder / f"{name}.onnx", dynamo=False, opset_version=17,
                          input_names=list(source), output_names=[target], dynamic_axes=source | {target: rows})


def main():
    fast = tokenizer()
    clip = model(fast)
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
                              fast)
    joint, towers = common.MODELS / "clip", common.MODELS / "clip_split"
    embedders.export(clip, processor, joint)
    common.emptied(towers)
    split(clip, towers)
    embedders.copy_metadata(joint, towers)
    embedders.write("clip", clip, processor, {"padding": True, "truncation": True}, [joint, towers])


if __name__ == "__main__":
    main()
