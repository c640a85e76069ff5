"""Writes tests/fixtures/models/smolvlm/ and tests/goldens/families/smolvlm.json.

A tiny SmolVLM with fixed random weights, SmolVLM's chat template and its tiling at a sixteenth of its size, exported by
jobs/export/smolvlm.py, and what transformers' `generate` says about photographs, one at a time.

    python tests/goldens/families/smolvlm.py       # needs torch, torchvision, transformers 4.57.6, num2words, onnx,
                                                   # onnxruntime, pillow
"""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (GenerationConfig, GPT2TokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration,
                          SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor)

import common
import prompted

TILE, PATCH, SCALE, WIDTH = 32, 8, 2, 32
# Five times a tile and a little more: the photographs get grids of 4 x 6, 5 x 6 and 6 x 6 tiles.
LONGEST = 170
FEATURES = (TILE // PATCH // SCALE)**2
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def tokenizer():
    """SmolLM's tokenizer: byte-level BPE with single digits, nothing in front of a text, special tokens for the tiles."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    syllables = common.SYLLABLES
    text = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    image = (["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
             + [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)])
    words = text + alphabet + syllables + ["Ġ" + each for each in syllables]
    merges = [(each[0], each[1]) for each in syllables] + [("Ġ", each) for each in syllables]
    bpe = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in text + image])
    return GPT2TokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", padding_side="left", model_max_length=512, additional_special_tokens=image[:3],
        extra_special_tokens={"fake_image_token": image[0], "image_token": image[1], "end_of_utterance_token": image[2],
                              "global_image_token": image[3]})


def model(fast, seed=14, emphasis=1.8):
    config = SmolVLMConfig(
        vision_config={"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
                       "image_size": TILE, "patch_size": PATCH},
        text_config={"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": len(fast),
                     "max_position_embeddings": 512, "pad_token_id": fast.pad_token_id},
        scale_factor=SCALE, image_token_id=fast.image_token_id, pad_token_id=fast.pad_token_id)
    smolvlm = common.reinitialise(SmolVLMForConditionalGeneration(config), seed)
    with torch.no_grad():
        head = smolvlm.get_output_embeddings().weight
        head.mul_(0.5)
        head[3:259].mul_(0.2)  # few single bytes, or no text would be valid
        head[[place for place in fast.get_added_vocab().values() if place != fast.eos_token_id]] = 0  # never written
        head[fast.eos_token_id].mul_(emphasis)
    smolvlm.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=fast.eos_token_id,
                                                 pad_token_id=fast.pad_token_id, max_new_tokens=12)
    return smolvlm


@torch.no_grad()
def main():
    fast = tokenizer()
    images = SmolVLMImageProcessor(size={"longest_edge": LONGEST}, max_image_size={"longest_edge": TILE})
    processor = SmolVLMProcessor(images, fast, SmolVLMVideoProcessor(), image_seq_len=FEATURES, chat_template=TEMPLATE)
    smolvlm = common.export_by_job("smolvlm", model(fast), processor, common.MODELS / "smolvlm")
    given, golden = prompted.chat_golden(smolvlm, processor)
    pixels = [each.pixel_values[0] for each in given]
    states = [smolvlm.get_image_features(each.pixel_values) for each in given]
    tiles = [len(picture) for picture in pixels]
    # The tiles that every photograph has, and the last one, which is the whole image.
    common.write("smolvlm", {
        "tiles": tiles,
        "pixels": common.probes([picture[:min(tiles)] for picture in pixels]),
        "global_pixels": common.probes([picture[-1] for picture in pixels]),
        "states": {"output": "image_features"} | common.probes([state[:min(tiles)] for state in states]),
        "global_states": {"output": "image_features"} | common.probes([state[-1] for state in states])} | golden)


if __name__ == "__main__":
    main()
