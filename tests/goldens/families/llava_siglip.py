"""Writes tests/fixtures/models/llava_siglip/ and tests/goldens/families/llava_siglip.json.

The tiny LLaVA of llava.py with SigLIP's image encoder, which has no class token, so that all its states are features.

    python tests/goldens/families/llava_siglip.py       # needs torch, transformers 4.57.6, onnx, onnxruntime, pillow
"""

import sys

import torch
from transformers import (GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor,
                          SiglipImageProcessor, SiglipVisionConfig)

import common
import llava as family
import prompted


def model(fast, seed, emphasis=1.8):
    layers = {"hidden_size": family.WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**layers, image_size=family.SIDE, patch_size=family.PATCH),
        text_config=LlamaConfig(**layers, vocab_size=len(fast), max_position_embeddings=256),
        vision_feature_select_strategy="full", vision_feature_layer=-2,
        image_token_id=fast.image_token_id, image_seq_length=(family.SIDE // family.PATCH)**2)
    llava = common.reinitialise(LlavaForConditionalGeneration(config), seed)
    with torch.no_grad():
        head = llava.get_output_embeddings().weight
        head.mul_(0.5)
        head[3:259].mul_(0.2)  # few bytes, or no text would be valid
        head[[fast.image_token_id, fast.pad_token_id]] = 0  # never written
        head[fast.eos_token_id].mul_(emphasis)
    llava.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=fast.pad_token_id,
                                               max_new_tokens=12)
    return llava


@torch.no_grad()
def main():
    fast = family.tokenizer()
    processor = LlavaProcessor(SiglipImageProcessor(size={"height": family.SIDE, "width": family.SIDE}), fast,
                               patch_size=family.PATCH, vision_feature_select_strategy="full",
                               num_additional_image_tokens=0, chat_template=family.TEMPLATE)
    seed = int(sys.argv[1]) if sys.argv[1:] else 8
    llava = common.export_by_job("llava", model(fast, seed), processor, common.MODELS / "llava_siglip")
    given, golden = prompted.chat_golden(llava, processor)
    states = [llava.get_image_features(each.pixel_values)[0] for each in given]
    common.write("llava_siglip", {"pixels": common.probes([each.pixel_values[0] for each in given]),
                                  "states": {"output": "image_features"} | common.probes(states)} | golden)


if __name__ == "__main__":
    main()
