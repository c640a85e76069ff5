"""transformers on a GPU, as gpu.py asks for it: python benches/gpu_peers.py FAMILY MODEL [--device cuda] [--pictures FOLDER]

FAMILY is clip, vit_gpt2, blip or smolvlm; MODEL a folder made by peers/models.py or smolvlm_256m.py. Loads the checkpoint, prints
`{"ready": ...}` and then answers each line of JSON that it is sent with lines of JSON, the last of which is `{"done": true}`:

    {"what": "captions", "types": ["float16"], "batches": [64, 256], "beams": 1, "tokens": 20, "seconds": 60}
        captions a second for each type and batch size, from tensors that lie ready on the device
    {"what": "vectors", "types": ["float16"], "workers": 16, "count": 16384, "seconds": 60}
        images a second from the JPEGs of FOLDER, read in a DataLoader, and of the model alone
    {"what": "tokens", "count": 64, "tokens": 20}
        the tokens of the first images of FOLDER, in float32

So several families are imported at once, before anything is measured. What does not start within `seconds` is left out.
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import sys
import time
import warnings

warnings.filterwarnings("ignore")
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import torch
import transformers
from PIL import Image

CLASSES = {"clip": transformers.CLIPVisionModelWithProjection, "vit_gpt2": transformers.VisionEncoderDecoderModel,
           "blip": transformers.BlipForConditionalGeneration, "smolvlm": transformers.AutoModelForImageTextToText}
SIDES = {"vit_gpt2": 224, "clip": 224, "blip": 384, "smolvlm": 512}
# A tile's features for the language model, with some tokens of the prompt before and after them.
BEFORE, FEATURES, AFTER = 4, 64, 12


def say(**what):
    print(json.dumps(what), flush=True)


class Files(torch.utils.data.Dataset):
    """What CLIP's processor does, by torchvision on uint8, the fastest that PyTorch's users have for JPEGs on a processor."""

    def __init__(self, files):
        from torchvision.transforms import v2
        self.files = files
        self.transform = v2.Compose([
            v2.PILToTensor(), v2.Resize(224, interpolation=v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        return self.transform(Image.open(self.files[place]).convert("RGB"))


class Peer:
    def __init__(self, family, folder, device, pictures):
        self.family, self.device, self.pictures = family, torch.device(device), pictures
        self.master = CLASSES[family].from_pretrained(folder / "torch", dtype=torch.float32).eval()
        self.held = (None, None)

    def model(self, dtype):
        """The model on the device, of which one is held at a time."""
        if self.held[0] != dtype:
            self.held = (None, None)
            self.held = (dtype, copy.deepcopy(self.master).to(self.device, getattr(torch, dtype)))
        return self.held[1]

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def rate(self, work, count, repeats=3, short=0.5):
        """`count` over the median of the seconds that `work` takes after a first time; after one of 3 s there is no other."""
        work()
        self.wait()
        taken = []
        while len(taken) < repeats or (sum(taken) < short and len(taken) < 20):
            start = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - start)
            if taken[-1] > 3:
                break
        return count / statistics.median(taken)

    def inputs(self, batch, dtype):
        side = SIDES[self.family]
        if self.family != "smolvlm":
            return {"pixel_values": torch.randn(batch, 3, side, side).to(self.device, getattr(torch, dtype))}
        image = self.master.config.image_token_id
        ids = torch.tensor([[1, *range(10, 9 + BEFORE), *[image] * FEATURES, *range(20, 20 + AFTER)]]).expand(batch, -1).contiguous()
        return {"input_ids": ids.to(self.device), "attention_mask": torch.ones_like(ids).to(self.device),
                "pixel_values": torch.randn(batch, 1, 3, side, side).to(self.device, getattr(torch, dtype)),
                "pixel_attention_mask": torch.ones(batch, 1, side, side, dtype=torch.bool, device=self.device)}

    def generate(self, dtype, given, tokens, beams=1):
        return self.model(dtype).generate(**given, max_new_tokens=tokens, min_new_tokens=tokens, num_beams=beams, do_sample=False)

    def captions(self, types, batches, seconds, tokens, beams=1):
        end = time.monotonic() + seconds
        for dtype in types:
            for batch in batches:
                about = {"peer": "transformers", "type": dtype, "batch": batch}
                if time.monotonic() > end:
                    say(**about, left_out="no time was left")
                    continue
                try:
                    given = self.inputs(batch, dtype)
                    self.model(dtype)
                    repeats = 2 if beams > 1 or tokens > 20 else 3
                    say(**about, rate=self.rate(lambda: self.generate(dtype, given, tokens, beams), batch, repeats))
                except Exception as error:
                    say(**about, left_out=f"{type(error).__name__}: {error}"[:300])
                    given = None
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()

    def vectors(self, types, workers, count, seconds, batch=256):
        end, batch = time.monotonic() + seconds, min(batch, -(-count // 4))
        files = sorted(map(str, self.pictures.glob("*.jpg")))
        files = (files * -(-count // len(files)))[:count]
        for dtype in types:
            model = self.model(dtype)
            given = torch.randn(batch, 3, 224, 224).to(self.device, getattr(torch, dtype))
            say(peer="transformers, the model alone", type=dtype, batch=batch, rate=self.rate(lambda: model(given), len(given)))
            if time.monotonic() > end:
                say(peer="transformers with DataLoader", type=dtype, batch=batch, left_out="no time was left")
                continue
            loader = torch.utils.data.DataLoader(Files(files), batch_size=batch, num_workers=workers,
                                                 prefetch_factor=4 if workers else None, pin_memory=self.device.type == "cuda")
            seen, start = 0, None
            for pixels in loader:
                model(pixels.to(self.device, getattr(torch, dtype), non_blocking=True)).image_embeds.cpu()
                if start is None:
                    start = time.perf_counter()  # workers have started
                    continue
                seen += len(pixels)
            say(peer="transformers with DataLoader", type=dtype, batch=batch, workers=workers, rate=seen / (time.perf_counter() - start))

    def tokens(self, count, tokens):
        """By ViTImageProcessor's arithmetic on Pillow, whose pixels nightcap has: the processors on torchvision round in other ways."""
        files = sorted(self.pictures.glob("*.jpg"))[:count]
        side = SIDES[self.family]
        images = [np.asarray(Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)) for file in files]
        pixels = torch.from_numpy(np.stack(images).astype(np.float32) / 255).sub(0.5).div(0.5).permute(0, 3, 1, 2).contiguous()
        made = [self.generate("float32", {"pixel_values": each.to(self.device)}, tokens)[:, -tokens:] for each in pixels.split(32)]
        say(tokens=torch.cat(made).tolist())


@torch.inference_mode()
def main(given):
    torch.manual_seed(0)
    torch.set_num_threads(1 if given.device != "cpu" else torch.get_num_threads())
    transformers.utils.logging.disable_progress_bar()
    peer = Peer(given.family, given.model, given.device, given.pictures)
    say(ready=f"torch {torch.__version__}, transformers {transformers.__version__}")
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            getattr(peer, asked.pop("what"))(**asked)
        except Exception as error:
            say(peer="transformers", left_out=f"{type(error).__name__}: {error}"[:300])
        say(done=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=CLASSES)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pictures", type=pathlib.Path)
    main(parser.parse_args())
