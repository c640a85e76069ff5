"""Writes tests/fixtures/models/blip/ and tests/goldens/families/blip.json.

A tiny BLIP captioner with fixed random weights and a tokenizer of BERT's kind, exported by jobs/export/blip.py, and what
transformers' `generate` says about photographs, one at a time. A caption starts with `[DEC]`, which is no token of texts,
and ends with `[SEP]`; `eos_token_id` is, as in BLIP's checkpoints, something else.

    python tests/goldens/families/blip.py       # needs torch, transformers 4.57.6, onnx, onnxruntime, pillow
"""

import torch
from transformers import (BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor,
                          BlipTextConfig, BlipVisionConfig)

import common

SIDE, WIDTH = 32, 32


def tokenizer():
    pieces = common.word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"])
    return BertTokenizerFast(tokenizer_object=pieces, bos_token="[DEC]", model_max_length=32)


def model(fast, seed=16, emphasis=1.8):
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    text = BlipTextConfig(**layers, vocab_size=len(fast), encoder_hidden_size=WIDTH, max_position_embeddings=32,
                          bos_token_id=fast.bos_token_id, eos_token_id=4, pad_token_id=fast.pad_token_id,
                          sep_token_id=fast.sep_token_id, max_length=13, tie_word_embeddings=False)
    vision = BlipVisionConfig(**layers, image_size=SIDE, patch_size=8)
    blip = BlipForConditionalGeneration(BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    common.reinitialise(blip, seed)
    with torch.no_grad():
        head = blip.text_decoder.get_output_embeddings().weight
        head[[fast.pad_token_id, fast.unk_token_id, fast.cls_token_id, fast.mask_token_id, fast.bos_token_id]] *= 0.2
        head[fast.sep_token_id] *= emphasis
    return blip


@torch.no_grad()
def main():
    fast = tokenizer()
    processor = BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), fast)
    blip = common.export_by_job("blip", model(fast), processor, common.MODELS / "blip")
    pixels = [processor(images=picture, return_tensors="pt").pixel_values for picture in common.photos()]

    def generate(image, prefix, settings):
        # BLIP drops the last token of what it is given, as its tokenizer puts `[SEP]` there.
        given = torch.cat([prefix, torch.tensor([[fast.sep_token_id]])], 1)
        return blip.generate(image, input_ids=given, attention_mask=torch.ones_like(given), do_sample=False, **settings)[0]

    def logits(image, sequence):
        return blip(pixel_values=image, input_ids=sequence, attention_mask=torch.ones_like(sequence)).logits[0]

    states = [blip.vision_model(pixel_values=image).last_hidden_state[0] for image in pixels]
    common.write("blip", {
        "pixels": common.probes([image[0] for image in pixels]),
        "states": {"output": "last_hidden_state"} | common.probes(states),
        "cases": common.cases(common.CASES, pixels, fast, fast.bos_token_id, [fast.sep_token_id], generate, logits)})


if __name__ == "__main__":
    main()
