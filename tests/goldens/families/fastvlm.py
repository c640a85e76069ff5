"""Writes tests/fixtures/models/fastvlm/ and tests/goldens/families/fastvlm.json.

A tiny FastVLM with fixed random weights: the class of transformers 5 with FastViT of timm and Qwen2, saved by it, exported by
jobs/export/fastvlm.py, and what `generate` says about photographs, one at a time.

    python tests/goldens/families/fastvlm.py PYTHON      # needs torch, transformers 5.24, timm, pillow

PYTHON is the interpreter of an environment for jobs/export.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (CLIPImageProcessorPil, FastVlmConfig, FastVlmForConditionalGeneration, GenerationConfig, LlavaProcessor,
                          PreTrainedTokenizerFast)

import common
import prompted

SIDE, WIDTH, FEATURES, SCALE = 128, 32, 4, 0.03
VISION = {"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "hidden_size": 64,
          "model_args": {"inference_mode": True, "layers": [1, 1, 1, 1, 1], "embed_dims": [8, 8, 16, 32, 32]}}
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>\n{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def tokenizer():
    """Qwen2's tokenizer: byte-level BPE, nothing around a text."""
    syllables, special = common.SYLLABLES, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet()) + syllables + ["Ġ" + each for each in syllables]
    merges = [(each[0], each[1]) for each in syllables] + [("Ġ", each) for each in syllables]
    bpe = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in [*special, "<image>"]])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left",
                                   model_max_length=256, image_token="<image>")


def model(fast, seed=5, emphasis=1.8):
    config = FastVlmConfig(
        vision_config=dict(VISION), image_token_id=fast.convert_tokens_to_ids("<image>"), image_seq_length=FEATURES,
        text_config={"model_type": "qwen2", "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": len(fast), "max_position_embeddings": 256,
                     "bos_token_id": None, "eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id})
    fastvlm = common.reinitialise(FastVlmForConditionalGeneration(config), seed)
    with torch.no_grad():
        fastvlm.model.multi_modal_projector.linear_1.weight.mul_(SCALE)  # a convolution of unit gain after the other
        head = fastvlm.get_output_embeddings().weight
        head.mul_(0.5)
        head[3:259].mul_(0.2)  # few single bytes, or no text would be valid
        head[[config.image_token_id, fast.pad_token_id, 1]] = 0  # never written
        head[fast.eos_token_id].mul_(emphasis)
    fastvlm.generation_config = GenerationConfig(eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id, max_new_tokens=12)
    return fastvlm


@torch.no_grad()
def main():
    fast = tokenizer()
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=[0.0] * 3,
                                   image_std=[1.0] * 3)
    processor = LlavaProcessor(images, fast, patch_size=SIDE // 2, vision_feature_select_strategy="full",
                               num_additional_image_tokens=0, chat_template=TEMPLATE)
    seed, emphasis = (int(sys.argv[2]), float(sys.argv[3])) if sys.argv[2:] else (5, 1.8)
    fastvlm = model(fast, seed, emphasis)
    folder = common.MODELS / "fastvlm"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        fastvlm.save_pretrained(work)
        processor.save_pretrained(work)
        fastvlm = FastVlmForConditionalGeneration.from_pretrained(work).eval()
        subprocess.run([sys.argv[1], pathlib.Path(common.ROOT, "jobs/export/fastvlm.py"), work, folder], check=True, env=os.environ)
    given, golden = prompted.chat_golden(fastvlm, processor)
    states = [fastvlm.get_image_features(each.pixel_values).pooler_output[0] for each in given]
    common.write("fastvlm", {"pixels": common.probes([each.pixel_values[0] for each in given]),
                             "states": {"output": "image_features"} | common.probes(states)} | golden)


if __name__ == "__main__":
    main()
