"""Writes tests/fixtures/models/llava/ and tests/goldens/families/llava.json.

A tiny LLaVA with fixed random weights, LLaVA 1.5's chat template and a tokenizer of the kind that Llama has, exported by
jobs/export/llava.py, and what transformers' `generate` says about photographs, one at a time.

    python tests/goldens/families/llava.py       # needs torch, transformers 4.57.6, onnx, onnxruntime, pillow
"""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import (CLIPImageProcessor, CLIPVisionConfig, GenerationConfig, LlamaConfig, LlamaTokenizerFast, LlavaConfig,
                          LlavaForConditionalGeneration, LlavaProcessor)

import common
import prompted

SIDE, PATCH, WIDTH = 32, 8, 32
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")


def tokenizer():
    """Llama's tokenizer: SentencePiece BPE without pre-tokenizer, unknown characters as bytes, `<s>` in front."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    syllables = common.SYLLABLES
    words = (["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁"] + letters
             + [letter.upper() for letter in letters] + list(".,:!?") + syllables + ["▁" + each for each in syllables])
    merges = [(each[0], each[1]) for each in syllables] + [("▁", each) for each in syllables]
    bpe = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges, unk_token="<unk>",
                               fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    bpe.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in ["<unk>", "<s>", "</s>", "<image>",
                                                                                         "<pad>"]])
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return LlamaTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", padding_side="left", model_max_length=256,
                              extra_special_tokens={"image_token": "<image>"})


def model(fast, seed=6, emphasis=1.8):
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**layers, image_size=SIDE, patch_size=PATCH),
        text_config=LlamaConfig(**layers, vocab_size=len(fast), max_position_embeddings=256),
        image_token_id=fast.image_token_id, image_seq_length=(SIDE // PATCH)**2)
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
    fast = tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}), fast, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=TEMPLATE)
    llava = common.export_by_job("llava", model(fast), processor, common.MODELS / "llava")
    given, golden = prompted.chat_golden(llava, processor)
    states = [llava.get_image_features(each.pixel_values)[0] for each in given]
    common.write("llava", {"pixels": common.probes([each.pixel_values[0] for each in given]),
                           "states": {"output": "image_features"} | common.probes(states)} | golden)


if __name__ == "__main__":
    main()
