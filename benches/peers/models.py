"""Makes a model of real size with random weights: python benches/peers/models.py NAME FOLDER

NAME is one of vit-gpt2 (nlpconnect/vit-gpt2-image-captioning's shape), blip (Salesforce/blip-image-captioning-base's) and
clip (openai/clip-vit-base-patch32's). FOLDER gets `torch/`, which transformers loads, and `onnx/`, the same model as its
users export it: by optimum, or for BLIP by jobs/export/blip.py. The models have learnt nothing; what they cost is the same.
vit-gpt2-ends is ../vit-gpt2 with many end tokens, so that captions differ in length as real ones do. clip-image is the image
part of the graph in ../clip/onnx alone, as fastembed takes it, with its processor's settings.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

warnings.filterwarnings("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import onnx.utils
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor,
                          BlipTextConfig, CLIPConfig, CLIPImageProcessor, CLIPModel, GenerationConfig, GPT2Config,
                          PreTrainedTokenizerFast, ViTConfig, ViTImageProcessor, VisionEncoderDecoderConfig,
                          VisionEncoderDecoderModel)

REPO = pathlib.Path(__file__).resolve().parents[2]


def words(size, specials):
    """A tokenizer of `size` words, w0 w1 ..., of which `specials` replaces some: {token id: word}."""
    vocabulary = {specials.get(token, f"w{token}"): token for token in range(size)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(specials.values()))))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.WordPiece(cleanup=False)
    made.add_special_tokens(list(specials.values()))
    return made


@torch.no_grad()
def reinitialise(model):
    """Weights large enough that captions differ between images and no two tokens tie within rounding."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() >= 2 and "position" not in name and "wpe" not in name:
            fan = weight[0].numel()
            scale = 1.0 if "embeddings" in name or "wte" in name else 1.5 / fan**0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model.eval()


def vit_gpt2(folder):
    end = 50256
    decoder = GPT2Config(add_cross_attention=True, is_decoder=True, tie_word_embeddings=False)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = end
    model = reinitialise(VisionEncoderDecoderModel(config))
    model.generation_config = GenerationConfig(decoder_start_token_id=end, pad_token_id=end, eos_token_id=end, bos_token_id=end)
    model.save_pretrained(folder / "torch")
    ViTImageProcessor().save_pretrained(folder / "torch")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words(end + 1, {end: "<|endoftext|>"}), eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder / "torch")
    by_optimum(folder, "image-to-text-with-past")


def vit_gpt2_ends(folder):
    """Every sixth token ends a caption."""
    whole = folder.parent / "vit-gpt2"
    if not whole.exists():
        raise SystemExit(f"error: {whole} is not there; it is made first, by vit-gpt2")
    shutil.copytree(whole, folder, copy_function=os.link)
    for config in folder.glob("*/generation_config.json"):
        settings = json.loads(config.read_text()) | {"eos_token_id": list(range(0, 50257, 6))}
        config.unlink()  # the link, and not what it links to
        config.write_text(json.dumps(settings))


def blip(folder):
    text = BlipTextConfig(num_attention_heads=12, bos_token_id=30522, sep_token_id=102, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
    specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 30522: "[DEC]"}
    model = reinitialise(BlipForConditionalGeneration(BlipConfig(text_config=text.to_dict(), vision_config={})))
    tokenizer = BertTokenizerFast(tokenizer_object=words(text.vocab_size, specials), bos_token="[DEC]")
    model.save_pretrained(folder / "torch")
    BlipProcessor(BlipImageProcessor(), tokenizer).save_pretrained(folder / "torch")
    exporter = REPO / "jobs/export/blip.py"
    subprocess.run([sys.executable, exporter, folder / "torch", folder / "onnx"], check=True)


def clip(folder):
    config = CLIPConfig()
    reinitialise(CLIPModel(config)).save_pretrained(folder / "torch")
    CLIPImageProcessor().save_pretrained(folder / "torch")
    end = config.text_config.vocab_size - 1
    tokenizer = words(end + 1, {end: "<|endoftext|>"})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder / "torch")
    by_optimum(folder, "zero-shot-image-classification")


def clip_image(folder):
    whole = folder.parent / "clip/onnx"
    folder.mkdir()
    onnx.utils.extract_model(whole / "model.onnx", folder / "model.onnx", ["pixel_values"], ["image_embeds"])
    shutil.copy(whole / "preprocessor_config.json", folder)


def by_optimum(folder, task):
    from optimum.exporters.onnx import main_export
    main_export(str(folder / "torch"), str(folder / "onnx"), task=task, do_validation=False)


if __name__ == "__main__":
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.manual_seed(0)
    {"vit-gpt2": vit_gpt2, "vit-gpt2-ends": vit_gpt2_ends, "blip": blip, "clip": clip, "clip-image": clip_image}[name](folder)
