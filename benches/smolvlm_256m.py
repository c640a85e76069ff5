"""Makes a model of HuggingFaceTB/SmolVLM-256M-Instruct's shape with random weights: python benches/smolvlm_256m.py FOLDER

FOLDER gets `torch/`, which transformers loads, and `onnx/`, made of it by jobs/export/smolvlm.py. Images are capped at the
side of a tile, so that each is one tile of 64 features; with a longest edge of 2048, one of 640 x 480 would be 13 tiles.
"""

import pathlib
import subprocess
import sys

from peers.models import REPO, reinitialise, words

import torch
from transformers import (GenerationConfig, PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration,
                          SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor)

TILE, PATCH, SCALE, VOCABULARY = 512, 16, 4, 49280
FEATURES = (TILE // PATCH // SCALE)**2
UNKNOWN, START, PAD, FAKE, GLOBAL, IMAGE, END = 0, 1, 2, 49189, 49152, 49190, 49279
SPECIALS = {UNKNOWN: "<|endoftext|>", START: "<|im_start|>", PAD: "<|im_end|>", FAKE: "<fake_token_around_image>",
            GLOBAL: "<global-img>", IMAGE: "<image>", END: "<end_of_utterance>"}
# SmolVLM's own, for a user's message of one image and a text. The tokenizer knows neither `User:` nor `Assistant:`, so
# that each is one unknown token.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def model():
    """256 million weights: embedding and head are not tied."""
    config = SmolVLMConfig(
        vision_config={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                       "image_size": TILE, "patch_size": PATCH},
        text_config={"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": VOCABULARY, "rope_theta": 100000,
                     "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "pad_token_id": PAD},
        scale_factor=SCALE, image_token_id=IMAGE, pad_token_id=PAD, tie_word_embeddings=False)
    made = reinitialise(SmolVLMForConditionalGeneration(config))
    made.generation_config = GenerationConfig(bos_token_id=START, eos_token_id=END, pad_token_id=PAD)
    return made


def processor():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words(VOCABULARY, SPECIALS), bos_token=SPECIALS[START], eos_token=SPECIALS[END],
        pad_token=SPECIALS[PAD], unk_token=SPECIALS[UNKNOWN], padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens={"fake_image_token": SPECIALS[FAKE], "image_token": SPECIALS[IMAGE],
                              "end_of_utterance_token": SPECIALS[END], "global_image_token": SPECIALS[GLOBAL]})
    images = SmolVLMImageProcessor(size={"longest_edge": TILE}, max_image_size={"longest_edge": TILE})
    return SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), image_seq_len=FEATURES, chat_template=TEMPLATE)


def main(folder):
    torch.manual_seed(0)
    model().save_pretrained(folder / "torch")
    processor().save_pretrained(folder / "torch")
    subprocess.run([sys.executable, REPO / "jobs/export/smolvlm.py", folder / "torch", folder / "onnx"], check=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
