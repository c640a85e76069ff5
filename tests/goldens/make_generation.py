"""Writes tests/fixtures/models/ and tests/goldens/generation.json.

Two tiny vision-encoder-decoder models with fixed random weights, exported by optimum as their full-size relatives are
(ViT-GPT2 and TrOCR), and what transformers' `generate` says about photographs, one image at a time. The models have
learnt nothing; their weights are large enough that no two tokens tie.

    python tests/goldens/make_generation.py       # needs torch, transformers 4.57.6, optimum-onnx 0.1.0, onnx, pillow
"""

import json
import logging
import os
import pathlib
import shutil
import tempfile
import warnings

warnings.filterwarnings("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
logging.disable(logging.WARNING)

import onnx
import torch
from onnx import TensorProto, numpy_helper
from optimum.exporters.onnx import main_export
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (GenerationConfig, GPT2Config, MinPLogitsWarper, PreTrainedTokenizerFast, TemperatureLogitsWarper,
                          TopKLogitsWarper, TopPLogitsWarper, TrOCRConfig, ViTConfig, ViTImageProcessor,
                          VisionEncoderDecoderConfig, VisionEncoderDecoderModel)

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/fixtures/models"
PHOTOS = ROOT / "sample_data/photos"
NAMES = ["astronaut.jpg", "canyon-river.jpg", "cat-face.jpg", "coffee.jpg", "horses.webp", "hot-air-balloon.png", "pancakes.jpg",
         "rocket.jpg"]
torch.set_num_threads(1)
GRAPHS = ["encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged"]
SIDE, WIDTH = 32, 32
CONSONANTS, VOWELS = "bcdfgklmprst", "aeiou"

# Named settings of `generate`, under the names that a job file uses; `stop` stands for `stop_strings`.
CASES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "beam_long": {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    "beam_short": {"num_beams": 4, "length_penalty": -1.0, "early_stopping": True},
    "beam_never": {"num_beams": 2, "early_stopping": "never", "length_penalty": 0.5},
    "beam_penalty": {"num_beams": 3, "repetition_penalty": 1.5},
    "beam_fixed": {"num_beams": 3, "min_new_tokens": 7, "max_new_tokens": 7},
    "beam_stop": {"num_beams": 3, "stop": ["STOP"]},
    "fixed": {"min_new_tokens": 6, "max_new_tokens": 6},
    "short": {"max_new_tokens": 4},
    "processed": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "unigrams": {"no_repeat_ngram_size": 1},
    "stop": {"stop": ["STOP"]},
    "prompt": {"prompt": "baba di"},
    "beam_prompt": {"prompt": "baba di", "num_beams": 3},
}
# What only a model's files can ask for.
FILES = {"forced_bos_token_id": 60, "forced_eos_token_id": 2, "begin_suppress_tokens": [33, 34], "min_length": 4,
         "max_length": 9, "suppress_tokens": [8, 9], "bad_words_ids": [[45], [60, 61], [101, 8, 32]]}
CASES |= {"files": {"files": FILES}, "beam_files": {"num_beams": 3, "files": FILES},
          "prompt_files": {"prompt": "baba di", "files": FILES}}
WARPERS = [{"temperature": 0.7}, {"top_k": 3}, {"top_k": 5, "temperature": 2.0}, {"top_p": 0.8}, {"top_p": 0.1}, {"top_p": 0.999},
           {"min_p": 0.2}, {"min_p": 1.0}, {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1}]


def tokenizer(specials):
    """Byte-level BPE over syllables, so that text does not end where tokens do."""
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    words = specials + ["Ġ"] + list(CONSONANTS + VOWELS) + syllables + ["Ġ" + s for s in syllables]
    vocabulary = {word: place for place, word in enumerate(words)}
    merges = [(s[0], s[1]) for s in syllables] + [("Ġ", s) for s in syllables]
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(word, special=True) for word in specials])
    return bpe


def reinitialise(model, seed, eos, emphasis):
    """Weights of unit gain, with an end token that is sometimes likely."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layernorm" in name.lower() or "ln_" in name or "layer_norm" in name:
                continue
            if weight.dim() < 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
            else:
                fan = weight.shape[-1] if weight.dim() == 2 else weight[0].numel()
                scale = 1.0 if "wte" in name or "embed" in name or "wpe" in name else 2.0 / fan**0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        model.decoder.get_output_embeddings().weight.mul_(0.5)
        model.decoder.get_output_embeddings().weight[eos].mul_(emphasis)
    return model.eval()


VIT = ViTConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=SIDE, patch_size=8)


def vit_gpt2():
    bpe = tokenizer(["<|endoftext|>"])
    size, end = bpe.get_vocab_size(), 0
    decoder = GPT2Config(n_embd=WIDTH, n_layer=1, n_head=2, n_inner=48, vocab_size=size, n_positions=32, bos_token_id=end,
                         eos_token_id=end, add_cross_attention=True, is_decoder=True, tie_word_embeddings=False)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(VIT, decoder)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = end
    model = reinitialise(VisionEncoderDecoderModel(config), 1, end, 2.0)
    model.generation_config = GenerationConfig(decoder_start_token_id=end, pad_token_id=end, eos_token_id=end,
                                               bos_token_id=end, max_length=13)
    return model, bpe


def trocr():
    bpe = tokenizer(["<s>", "<pad>", "</s>"])
    decoder = TrOCRConfig(d_model=WIDTH, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=48,
                          vocab_size=bpe.get_vocab_size(), max_position_embeddings=32, cross_attention_hidden_size=WIDTH,
                          use_cache=True, tie_word_embeddings=False)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(VIT, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    model = reinitialise(VisionEncoderDecoderModel(config), 2, 2, 1.4)
    model.generation_config = GenerationConfig(decoder_start_token_id=2, pad_token_id=1, eos_token_id=[2, 40], bos_token_id=0,
                                               max_length=13, bad_words_ids=[[30], [50, 60]], suppress_tokens=[70, 71, 72],
                                               begin_suppress_tokens=[80, 81], forced_eos_token_id=2)
    return model, bpe


def half(source, target):
    """The graph with every float as float16, inputs and outputs included, its weights in a file beside it."""
    graph = onnx.load(source)

    def convert(tensor):
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype("float16")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    def walk(part):
        for tensor in part.initializer:
            convert(tensor)
        for value in [*part.input, *part.output, *part.value_info]:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    convert(attribute.t)
                if attribute.HasField("g"):
                    walk(attribute.g)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16

    walk(graph.graph)
    name = f"{target.name}_data"
    target.with_name(name).unlink(missing_ok=True)
    onnx.save(graph, target, save_as_external_data=True, location=name, size_threshold=0)


def export(name, model, bpe, processor):
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        source, target = pathlib.Path(work, "pytorch"), pathlib.Path(work, "onnx")
        model.save_pretrained(source)
        processor.save_pretrained(source)
        main_export(str(source), str(target), task="image-to-text-with-past", do_validation=False)
        print(name, sorted(path.name for path in target.iterdir()))
        for graph in GRAPHS:
            shutil.copy(target / f"{graph}.onnx", folder)
        for file in ["config.json", "generation_config.json", "preprocessor_config.json"]:
            shutil.copy(target / file, folder)
    bpe.save(str(folder / "tokenizer.json"))
    if name == "vit_gpt2":
        for graph in ["encoder_model", "decoder_with_past_model"]:
            half(folder / f"{graph}.onnx", folder / f"{graph}_fp16.onnx")


def finish(tokens, ends, text, stops):
    if tokens[-1] in ends:
        return "eos"
    return "stop" if any(stop in text for stop in stops) else "length"


@torch.no_grad()
def golden(model, fast, pixels, settings):
    settings = dict(settings)
    start = torch.tensor([[model.generation_config.decoder_start_token_id]])
    prompt = settings.pop("prompt", None)
    if prompt:
        start = torch.cat([start, torch.tensor([fast(prompt, add_special_tokens=False).input_ids])], 1)
    settings |= settings.pop("files", {})
    stops = settings.pop("stop", [])
    if stops:
        settings |= {"stop_strings": stops, "tokenizer": fast}
    given = model.generate(pixels, decoder_input_ids=start, do_sample=False, **settings)[0]
    tokens = given[start.shape[1]:]
    logits = model(pixel_values=pixels, decoder_input_ids=given[None, :-1]).logits[0, start.shape[1] - 1:]
    logprobs = logits.double().log_softmax(-1)
    ends = model.generation_config.eos_token_id  # a forced end that is none of them ends by length
    ends = ends if isinstance(ends, list) else [ends]
    text = fast.decode(tokens, skip_special_tokens=True)
    margin = (logits.topk(2).values[:, 0] - logits.topk(2).values[:, 1]).min().item()
    return {"tokens": tokens.tolist(), "logprob": logprobs.gather(1, tokens[:, None]).sum().item(), "text": text.strip(),
            "finish": finish(tokens.tolist(), ends, text, stops)}, margin


def goldens(model, bpe, processor, stop):
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)
    pixels = [processor(Image.open(PHOTOS / name).convert("RGB"), return_tensors="pt").pixel_values for name in NAMES]
    cases, margins = [], []
    for name, settings in CASES.items():
        settings = {key: [stop] if key == "stop" else value for key, value in settings.items()}
        made = [golden(model, fast, image, settings) for image in pixels]
        rows, smallest = [row for row, _ in made], [margin for _, margin in made]
        margins += smallest if name == "greedy" else []
        cases.append({"name": name, "settings": settings, "rows": rows})
        ends = [row["finish"] for row in rows]
        print(f"  {name:14} {len({tuple(r['tokens']) for r in rows}):2} distinct, "
              + ", ".join(f"{kind} {ends.count(kind)}" for kind in ["eos", "stop", "length"]), rows[0]["text"])
    print("  smallest margin between two tokens", min(margins))
    # a few values of each image, so that a difference of the pixels is not taken for one of the decoder
    probes = [[round(image.flatten()[place].item(), 6) for place in (0, 517, 1500, 2222, 3071)] for image in pixels]
    return {"pixels": probes, "cases": cases}


def warped():
    """The probabilities that sampling draws from."""
    logits = [1.0, 2.5, -0.5, 0.0, 3.0, 2.0, -4.0, 1.5, 2.5, 0.25, -1.75, 2.75]
    cases = []
    for settings in WARPERS:
        scores = torch.tensor([logits])
        for name, warper in [("temperature", TemperatureLogitsWarper), ("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper),
                             ("min_p", MinPLogitsWarper)]:
            if name in settings:
                scores = warper(settings[name])(None, scores)
        cases.append({"settings": settings, "probabilities": scores.double().softmax(-1)[0].tolist()})
    return {"logits": logits, "cases": cases}


def main():
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    answers = {}
    for make, stop in [(vit_gpt2, "STOP"), (trocr, "STOP")]:
        name = make.__name__
        model, bpe = make()
        export(name, model, bpe, processor)
        fast = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)
        # two letters out of the middle of a caption, from two tokens
        image = processor(Image.open(PHOTOS / NAMES[0]).convert("RGB"), return_tensors="pt").pixel_values
        said, _ = golden(model, fast, image, {"max_new_tokens": 6})
        print(name, said)
        stop = said["text"][3:6].strip()
        answers[name] = goldens(model, bpe, processor, stop)
    pathlib.Path(__file__).with_name("generation.json").write_text(
        json.dumps({"photos": NAMES, "models": answers, "warpers": warped()}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
