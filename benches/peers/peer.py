"""Runs one peer over a folder of pictures: python benches/peers/peer.py NAME MODEL PICTURES COUNT BATCH

NAME is transformers, transformers-bf16 or optimum; MODEL a folder made by models.py; BATCH 0 finds the batch size that is
fastest on the first pictures. Prints one line of JSON: seconds for the pictures (files read, decoded, processed, captioned or
embedded), the batch size, and the tokens or vectors.
"""

import json
import pathlib
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import torch
import transformers
from PIL import Image
from transformers import (AutoConfig, BlipForConditionalGeneration, BlipImageProcessor, CLIPImageProcessor, CLIPModel,
                          ViTImageProcessor, VisionEncoderDecoderModel)

transformers.utils.logging.set_verbosity_error()
TOKENS = 20
BATCHES = (1, 4, 16)
PROCESSORS = {"vision-encoder-decoder": ViTImageProcessor, "blip": BlipImageProcessor, "clip": CLIPImageProcessor}
MODELS = {"vision-encoder-decoder": VisionEncoderDecoderModel, "blip": BlipForConditionalGeneration, "clip": CLIPModel}


def load(name, folder):
    """The processor, and what turns pixels into rows of tokens or vectors."""
    kind = AutoConfig.from_pretrained(folder / "torch").model_type
    processor = PROCESSORS[kind].from_pretrained(folder / "torch")
    if name == "optimum":
        from optimum.onnxruntime import ORTModelForVision2Seq
        model, dtype = ORTModelForVision2Seq.from_pretrained(folder / "onnx", use_merged=False), torch.float32
    else:
        dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
        model = MODELS[kind].from_pretrained(folder / "torch", dtype=dtype).eval()
    if kind == "clip":
        return processor, dtype, lambda pixels: torch.nn.functional.normalize(model.get_image_features(pixels).float(), dim=-1)
    settings = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    return processor, dtype, lambda pixels: model.generate(pixel_values=pixels, **settings)[:, -TOKENS:]


@torch.inference_mode()
def main(name, folder, pictures, count, batch):
    files = sorted(pictures.glob("*.jpg"))[:count]
    processor, dtype, work = load(name, folder)

    def run(files, size):
        start, rows = time.perf_counter(), []
        for place in range(0, len(files), size):
            images = [Image.open(file).convert("RGB") for file in files[place:place + size]]
            rows += work(processor(images, return_tensors="pt").pixel_values.to(dtype)).tolist()
        return time.perf_counter() - start, rows

    run(files[:2], 2)  # the first call allocates
    batch = batch or min(BATCHES, key=lambda size: run(files[:max(BATCHES)], size)[0])
    seconds, rows = run(files, batch)
    print(json.dumps({"seconds": seconds, "batch": batch, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), *map(int, sys.argv[4:]))
