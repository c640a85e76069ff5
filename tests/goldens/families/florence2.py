"""Writes tests/fixtures/models/florence2/ and tests/goldens/families/florence2.json.

A tiny Florence-2 with fixed random weights, its task prompts and its settings of `generate` (three beams, forced first and
last tokens, no trigram twice), exported by jobs/export/florence2.py, and what transformers says about photographs, one at a
time. As the last token is forced, every caption ends with it; a caption of MOST tokens was ended by its length.

    python tests/goldens/families/florence2.py       # needs torch, transformers 4.57.6, optimum-onnx 0.1.0, onnx,
                                                     # onnxruntime, pillow
"""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (BartTokenizerFast, CLIPImageProcessor, Florence2Config, Florence2ForConditionalGeneration,
                          Florence2Processor, GenerationConfig)

import common
import prompted

SIDE, WIDTH, MOST = 40, 32, 13
# The two stages of this DaViT divide each side by 4 and by 2; the mean of all patches comes in front of them.
FEATURES = 1 + (SIDE // 8)**2
PROMPT = "<CAPTION>"
# The prompt is always given: a task, which stands for a sentence, or any other text.
CASES = {
    "defaults": {},
    "greedy": {"num_beams": 1, "no_repeat_ngram_size": 0},
    "beam": {"num_beams": 3, "no_repeat_ngram_size": 0},
    "beam_long": {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    "beam_wide": {"num_beams": 4, "early_stopping": False, "length_penalty": 0.5},
    "fixed": {"num_beams": 1, "min_new_tokens": 7, "max_new_tokens": 7},
    "beam_fixed": {"min_new_tokens": 7, "max_new_tokens": 7},
    "short": {"num_beams": 1, "max_new_tokens": 4},
    "repetition": {"num_beams": 1, "repetition_penalty": 1.3},
    "detailed": {"prompt": "<DETAILED_CAPTION>", "num_beams": 1},
    "beam_text": {"prompt": "Is it a cat?"},
}


def tokenizer():
    """BART's byte-level BPE, `<s>` before a text and `</s>` behind it, and Florence-2's token for the image."""
    start = ["<s>", "<pad>", "</s>", "<unk>"]
    words = start + sorted(pre_tokenizers.ByteLevel.alphabet()) + common.SYLLABLES + [f"Ġ{each}" for each in common.SYLLABLES]
    merges = [(each[0], each[1]) for each in common.SYLLABLES] + [("Ġ", each) for each in common.SYLLABLES]
    bpe = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in [*start, "<mask>", "<image>"]])
    bpe.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls=("<s>", 0), add_prefix_space=False)
    return BartTokenizerFast(tokenizer_object=bpe, model_max_length=128, extra_special_tokens={"image_token": "<image>"})


def model(fast, seed=3, emphasis=1.5):
    text = {"model_type": "bart", "vocab_size": len(fast), "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 2,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
            "max_position_embeddings": 128, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
              "patch_prenorm": [False, True], "embed_dim": [16, WIDTH], "num_heads": [2, 2], "num_groups": [2, 2],
              "window_size": 4, "projection_dim": WIDTH, "max_position_embeddings": 8, "max_temporal_embeddings": 4}
    florence = common.reinitialise(Florence2ForConditionalGeneration(Florence2Config(
        text_config=text, vision_config=vision, image_token_id=fast.image_token_id)), seed)
    with torch.no_grad():
        head = florence.get_output_embeddings().weight  # the table of embeddings, too
        head.mul_(0.5)
        head[4:260].mul_(0.2)  # few single bytes, or no text would be valid
        head[-2:] = 0  # `<mask>` and `<image>` are never written
        head[fast.eos_token_id].mul_(emphasis)
    florence.generation_config = GenerationConfig(
        decoder_start_token_id=2, bos_token_id=0, pad_token_id=1, eos_token_id=2, forced_bos_token_id=0, forced_eos_token_id=2,
        num_beams=3, no_repeat_ngram_size=3, early_stopping=True, max_length=MOST + 1)
    return florence


def logits(florence, given, sequence):
    """The logits [T, vocabulary] of a whole sequence, without a cache."""
    return florence(**given, decoder_input_ids=sequence).logits[0]


def report(name, rows, margins):
    """Prints what a case shows, and ends the script where a case shows too little."""
    early = sum(len(each["tokens"]) < MOST for each in rows)
    print(f"  {name:10} {len({tuple(each['tokens']) for each in rows})} distinct, {early} shorter than {MOST} tokens, smallest "
          f"margin {min(margins):.1e}, {rows[0]['text']!r}")
    if name in ("defaults", "greedy", "beam") and early in (0, len(rows)):
        raise SystemExit(f"error: {early} of {len(rows)} rows of {name} end early\nhint: another emphasis of the end token")
    if name == "greedy" and min(margins) < common.MARGIN:
        raise SystemExit(f"error: two tokens are only {min(margins):.1e} apart\nhint: another seed")


@torch.no_grad()
def main():
    fast = tokenizer()
    images = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE},
                                do_center_crop=False, image_seq_length=FEATURES)
    processor = Florence2Processor(images, fast)
    florence = common.export_by_job("florence2", model(fast), processor, common.MODELS / "florence2")
    pictures = common.photos()

    def inputs(prompt):
        return [processor(images=picture, text=prompt, return_tensors="pt") for picture in pictures]

    given = inputs(PROMPT)
    states = [florence.get_image_features(each.pixel_values)[0] for each in given]
    settings = {name: {"prompt": PROMPT} | case for name, case in CASES.items()}
    common.write("florence2", {
        "pixels": common.probes([each.pixel_values[0] for each in given]),
        "states": {"output": "image_features"} | common.probes(states),
        "prefix_tokens": [each.input_ids[0].tolist() for each in given],
        # The decoder starts with one token of its own.
        "cases": prompted.cases(florence, fast, settings, inputs, lambda each: 1, logits, report)})


if __name__ == "__main__":
    main()
