"""Runs one peer over a folder of images: python benches/peers/peer.py NAME MODEL PICTURES COUNT [SETTINGS]

NAME is transformers, transformers-bf16, optimum or clip-retrieval; MODEL a folder made by models.py. SETTINGS is JSON,
{"batch": 16, "workers": 1}, for optimum with "merged" too: the size of a batch, and how many processes of a DataLoader read,
decode and process images while the model works (0: the model's own process does). Without SETTINGS the fastest are found and
printed. With SETTINGS prints one line of JSON: seconds for the images (files read, decoded, processed, captioned or
embedded), and the tokens or vectors.

clip-retrieval is what that program does (2.45: clip_inference's reader and mapper), written anew because it wants an older
NumPy: torchvision's transforms in a DataLoader, float32, vectors stored as float16. Processors of transformers are those on
Pillow, whose pixels nightcap reproduces; those on torchvision differ by a step of 1/255 here and there and took on one core
1.9 ms instead of 4.4 for CLIP's image of 640x480, 4.2 instead of 8.0 for BLIP's, and for ViT's 4.2 instead of 3.1.
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
from torch.utils.data import DataLoader
from transformers import (AutoConfig, BlipForConditionalGeneration, BlipImageProcessor, CLIPImageProcessor, CLIPModel,
                          ViTImageProcessor, VisionEncoderDecoderModel)

from tuning import TOKENS, fastest, fewest_tokens, speed

transformers.utils.logging.set_verbosity_error()
PROCESSORS = {"vision-encoder-decoder": ViTImageProcessor, "blip": BlipImageProcessor, "clip": CLIPImageProcessor}
MODELS = {"vision-encoder-decoder": VisionEncoderDecoderModel, "blip": BlipForConditionalGeneration, "clip": CLIPModel}


def load(name, folder, merged=False):
    """What turns files into pixels, and what turns pixels into rows of tokens or vectors."""
    kind = AutoConfig.from_pretrained(folder / "torch").model_type
    processor = PROCESSORS[kind].from_pretrained(folder / "torch")
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32

    def pixels(files):
        images = [Image.open(file).convert("RGB") for file in files]
        return processor(images, return_tensors="pt").pixel_values.to(dtype)

    if name == "optimum":
        from optimum.onnxruntime import ORTModelForVision2Seq
        model = ORTModelForVision2Seq.from_pretrained(folder / "onnx", use_merged=merged)
    else:
        model = MODELS[kind].from_pretrained(folder / "torch", dtype=dtype).eval()
    if kind == "clip":
        stored = torch.float32
        if name == "clip-retrieval":
            pixels, stored = of_clip_retrieval(processor), torch.float16
        return pixels, lambda given: torch.nn.functional.normalize(model.get_image_features(given).float(), dim=-1).to(stored)
    settings = {"min_new_tokens": fewest_tokens(folder), "max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    return pixels, lambda given: model.generate(pixel_values=given, **settings)[:, 1:]


def of_clip_retrieval(processor):
    from torchvision import transforms
    transform = transforms.Compose([
        transforms.Resize(processor.size["shortest_edge"], transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(processor.crop_size["height"]), lambda image: image.convert("RGB"), transforms.ToTensor(),
        transforms.Normalize(processor.image_mean, processor.image_std)])
    return lambda files: torch.stack([transform(Image.open(file)) for file in files])


def runner(pixels, work):
    """What gives seconds and rows of files, a batch size and a number of workers."""
    def run(files, batch, workers):
        batches = [[0]]  # starts the processes, and the first call allocates
        loader = DataLoader(files, batch_sampler=batches, collate_fn=pixels, num_workers=workers, persistent_workers=workers > 0,
                            multiprocessing_context="fork" if workers else None)
        for given in loader:
            work(given)
        batches[:] = [range(len(files))[place:place + batch] for place in range(0, len(files), batch)]
        start = time.perf_counter()
        rows = [row for given in loader for row in work(given).tolist()]
        return time.perf_counter() - start, rows

    return run


def workers_to_try(name, folder, file):
    """The numbers of workers to try. Where the model takes many times as long as reading images, more are of no use."""
    if name == "optimum":
        return [0]
    embeds, large = "clip" in folder.name, Image.open(file).width > 1000
    return [0, 1, 2] if embeds or large else [0, 1]


@torch.inference_mode()
def main(name, folder, pictures, count, settings=None):
    files = sorted(pictures.glob("*.jpg"))
    if settings is None:
        found = fastest(runner(*load(name, folder)), files, count, workers_to_try(name, folder, files[0]))
        if name == "optimum":
            batch = found[1]["batch"]
            seconds, _ = runner(*load(name, folder, merged=True))(files[:max(count, batch)], batch, 0)
            found = max(found, (max(count, batch) / seconds, found[1] | {"merged": True}), key=speed)
        print(json.dumps(found[1]))
        return
    files = files[:count]
    batch, workers = settings.pop("batch"), settings.pop("workers")
    seconds, rows = runner(*load(name, folder, **settings))(files, batch, workers)
    print(json.dumps({"seconds": seconds, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), int(sys.argv[4]), *map(json.loads, sys.argv[5:]))
