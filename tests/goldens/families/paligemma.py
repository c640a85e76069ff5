"""Writes tests/fixtures/models/paligemma/ and tests/goldens/families/paligemma.json.

A tiny PaliGemma with fixed random weights and a tokenizer of the kind that Gemma has, exported by jobs/export/paligemma.py, and
what transformers' `generate` says about photographs, one at a time.

    python tests/goldens/families/paligemma.py       # needs torch, transformers 4.57.6, onnx, onnxruntime, pillow
"""

import json

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import (GemmaConfig, GemmaTokenizerFast, GenerationConfig, PaliGemmaConfig,
                          PaliGemmaForConditionalGeneration, PaliGemmaProcessor, SiglipImageProcessor, SiglipVisionConfig)

import common
import prompted

SIDE, PATCH, WIDTH = 32, 8, 32
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>"]


def tokenizer():
    """Gemma's tokenizer: BPE without pre-tokenizer, unknown characters as bytes, no space before a text."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    syllables = common.SYLLABLES
    words = (SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)] + ["\n", "▁"] + letters
             + [letter.upper() for letter in letters] + list(".,:!?") + syllables + ["▁" + each for each in syllables])
    merges = [(each[0], each[1]) for each in syllables] + [("▁", each) for each in syllables]
    bpe = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges, unk_token="<unk>",
                               fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS + ["<image>"]])
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return GemmaTokenizerFast(tokenizer_object=bpe, model_max_length=256, extra_special_tokens={"image_token": "<image>"})


def model(fast, vocabulary, seed=7, emphasis=2.8):
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**layers, image_size=SIDE, patch_size=PATCH, vision_use_head=False).to_dict(),
        text_config=GemmaConfig(**layers, num_key_value_heads=1, head_dim=16, vocab_size=vocabulary,
                                max_position_embeddings=256).to_dict(),
        projection_dim=WIDTH, hidden_size=WIDTH, image_token_index=fast.image_token_id)
    pali = common.reinitialise(PaliGemmaForConditionalGeneration(config), seed)
    with torch.no_grad():
        head = pali.get_output_embeddings().weight
        head.mul_(0.5)
        head[4:260].mul_(0.2)  # few bytes, or no text would be valid
        head[[fast.image_token_id, fast.pad_token_id]] = 0  # never written
        head[fast.eos_token_id].mul_(emphasis)
    pali.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=1, pad_token_id=0, max_new_tokens=12)
    return pali


def without_places(folder):
    """Takes the tokens for places and segments, which the processor adds and no test uses, out of the tokenizer's files."""
    def used(token):
        return not token["content"].startswith(("<loc", "<seg"))

    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if used(token)]
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    content["added_tokens_decoder"] = {id: token for id, token in content["added_tokens_decoder"].items() if used(token)}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    (folder / "added_tokens.json").unlink(missing_ok=True)


@torch.no_grad()
def main():
    fast = tokenizer()
    vocabulary = len(fast)
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH)**2
    processor = PaliGemmaProcessor(images, fast)
    folder = common.MODELS / "paligemma"
    pali = common.export_by_job("paligemma", model(fast, vocabulary), processor, folder)
    without_places(folder)
    pictures = common.photos()

    def inputs(prompt):
        return [processor(images=[picture], text=["<image>" + prompt], return_tensors="pt") for picture in pictures]

    given = inputs(prompted.PROMPT)
    states = [pali.get_image_features(each.pixel_values)[0] for each in given]
    common.write("paligemma", {
        "pixels": common.probes([each.pixel_values[0] for each in given]),
        "states": {"output": "image_features"} | common.probes(states),
        "prefix_tokens": [each.input_ids[0].tolist() for each in given],
        "cases": prompted.cases(pali, fast, prompted.CASES, inputs, lambda each: each.input_ids.shape[1], logits)})


def logits(model, given, sequence):
    """The logits [T, vocabulary] of a whole sequence: the prompt in both directions, then one token a step."""
    prefix = given.input_ids.shape[1]
    outputs = model(**dict(given), use_cache=True)
    made, past = [outputs.logits[0]], outputs.past_key_values
    for place in range(prefix, sequence.shape[1]):
        outputs = model(input_ids=sequence[:, place:place + 1], attention_mask=torch.ones(1, place + 1, dtype=torch.int64),
                        past_key_values=past, use_cache=True, cache_position=torch.tensor([place]),
                        position_ids=torch.tensor([[place + 1]]))
        made.append(outputs.logits[0])
    return torch.cat(made)


if __name__ == "__main__":
    main()
