"""Writes tests/fixtures/models/idefics3/ and tests/goldens/families/idefics3.json.

A tiny Idefics3 with the tokenizer and sizes of smolvlm.py, and with Idefics3's own classes and chat template.

    python tests/goldens/families/idefics3.py       # needs what smolvlm.py needs
"""

import sys

import torch
from transformers import GenerationConfig, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

import common
import prompted
import smolvlm as family

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def model(fast, seed, emphasis):
    layers = {"hidden_size": family.WIDTH, "intermediate_size": 48}
    config = Idefics3Config(
        vision_config={**layers, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": family.TILE, "patch_size": family.PATCH},
        text_config={**layers, "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                     "vocab_size": len(fast), "max_position_embeddings": 512, "pad_token_id": fast.pad_token_id},
        scale_factor=family.SCALE, image_token_id=fast.image_token_id, pad_token_id=fast.pad_token_id)
    made = common.reinitialise(Idefics3ForConditionalGeneration(config), seed)
    with torch.no_grad():
        head = made.get_output_embeddings().weight
        head.mul_(0.5)
        head[3:259].mul_(0.2)  # few single bytes, or no text would be valid
        head[[place for place in fast.get_added_vocab().values() if place != fast.eos_token_id]] = 0  # never written
        head[fast.eos_token_id].mul_(emphasis)
    made.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
                                              max_new_tokens=12)
    return made


@torch.no_grad()
def main():
    fast = family.tokenizer()
    images = Idefics3ImageProcessor(size={"longest_edge": family.LONGEST}, max_image_size={"longest_edge": family.TILE})
    processor = Idefics3Processor(images, fast, image_seq_len=family.FEATURES, chat_template=TEMPLATE)
    seed, emphasis = (int(sys.argv[1]), float(sys.argv[2])) if sys.argv[1:] else (14, 1.8)
    made = common.export_by_job("smolvlm", model(fast, seed, emphasis), processor, common.MODELS / "idefics3")
    given, golden = prompted.chat_golden(made, processor)
    pixels = [each.pixel_values[0] for each in given]
    states = [made.get_image_features(each.pixel_values) for each in given]
    tiles = [len(picture) for picture in pixels]
    # The tiles that every photograph has, and the last one, which is the whole image.
    common.write("idefics3", {
        "tiles": tiles,
        "pixels": common.probes([picture[:min(tiles)] for picture in pixels]),
        "global_pixels": common.probes([picture[-1] for picture in pixels]),
        "states": {"output": "image_features"} | common.probes([state[:min(tiles)] for state in states]),
        "global_states": {"output": "image_features"} | common.probes([state[-1] for state in states])} | golden)


if __name__ == "__main__":
    main()
