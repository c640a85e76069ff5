"""Captions on a GPU: python benches/gpu.py NIGHTCAP MODEL PICTURES [--device cuda:0]

`nightcap run` captions PICTURES on the device, 20 greedy tokens each, from JPEG files to Parquet; transformers' `generate` writes as many for
tensors that lie ready in the host's memory, with random weights of the same shape. Prints a Markdown table of images/s, those of
nightcap while its model stage was busy, without loading. Then the first 64 images are captioned on the processor too, and what the
device wrote is compared with that, and with what it writes a second time.

MODEL is made by `python benches/peers/models.py vit-gpt2 MODEL`, and PICTURES by `python benches/peers/pictures.py PICTURES 1024 640 480`.
Needs pyarrow, torch and transformers, and ORT_DYLIB_PATH, which names an ONNX Runtime with the CUDA execution provider.
"""

import argparse
import pathlib
import subprocess
import tempfile
import time

import pyarrow.parquet as pq
import torch
from transformers import GenerationConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

TOKENS, BATCHES = 20, (64, 256)
PRECISIONS = {"": "float32", "fp16": "float16"}


def nightcap(program, model, pictures, output, device, precision="", batch=64, limit=None):
    """Images/s of the model stage, and {id: (caption, log-probability)}."""
    job = output.with_suffix(".toml")
    job.write_text(f"""
        input = {{ manifest = "{pictures / 'manifest.parquet'}", key = "id", image = "image" }}
        model = {{ path = "{model / 'onnx'}"{f', precision = "{precision}"' if precision else ''} }}
        generation = {{ max_new_tokens = {TOKENS} }}
        output = {{ path = "{output}", part_rows = 1024 }}
        runtime = {{ devices = ["{device}"], batch_size = {batch} }}
    """)
    command = [program, "run", job] + (["--limit", str(limit)] if limit else [])
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"{command} ended with status {ran.returncode}:\n{ran.stderr}")
    busy = next(float(line.split()[1]) for line in ran.stderr.splitlines() if line.startswith("model "))
    parts = pq.read_table(sorted(output.glob("run=*/part-*.parquet")), columns=["id", "caption", "caption_logprob"])
    rows = {row["id"]: (row["caption"], row["caption_logprob"]) for row in parts.to_pylist()}
    return len(rows) / busy, rows


@torch.inference_mode()
def transformers(model, device, dtype, batch, count):
    """Images/s."""
    config = VisionEncoderDecoderConfig.from_pretrained(model / "torch")
    made = VisionEncoderDecoderModel(config).eval().to(device, dtype)
    end = config.decoder.eos_token_id
    made.generation_config = GenerationConfig(decoder_start_token_id=end, pad_token_id=end, eos_token_id=end, bos_token_id=end)
    pixels = torch.randn(batch, 3, 224, 224)

    def write(batches):
        start = time.monotonic()
        for _ in range(batches):
            made.generate(pixels.to(device, dtype), max_new_tokens=TOKENS, min_new_tokens=TOKENS, num_beams=1, do_sample=False)
        torch.cuda.synchronize()
        return batch * batches / (time.monotonic() - start)

    write(1)
    return write(max(2, count // batch))


def compare(name, these, those):
    both = these.keys() & those.keys()
    same = sum(these[row][0] == those[row][0] for row in both)
    apart = max(abs(these[row][1] - those[row][1]) for row in both)
    print(f"{name}: {same} of {len(both)} captions are the same; log-probabilities of captions differ by at most {apart:.1e}")


def main(program, model, pictures, device):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        print("| | type | batch | images/s |\n|---|---|--:|--:|", flush=True)
        rows = {}
        for precision, dtype in PRECISIONS.items():
            if not (model / f"onnx/encoder_model{precision and '_' + precision}.onnx").exists():
                continue
            for batch in BATCHES:
                output = folder / f"{dtype}-{batch}"
                rate, rows[dtype, batch] = nightcap(program, model, pictures, output, device, precision, batch)
                print(f"| nightcap | {dtype} | {batch} | {rate:.0f} |", flush=True)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for batch in BATCHES:
                rate = transformers(model, device, dtype, batch, len(rows["float32", 64]))
                print(f"| transformers | {str(dtype).removeprefix('torch.')} | {batch} | {rate:.0f} |", flush=True)
        _, again = nightcap(program, model, pictures, folder / "again", device)
        _, by_cpu = nightcap(program, model, pictures, folder / "cpu", "cpu", limit=64)
    compare("the processor", by_cpu, rows["float32", 64])
    compare("a second run", again, rows["float32", 64])
    compare("another batch size", rows["float32", 256], rows["float32", 64])
    print(torch.cuda.get_device_name(), "torch", torch.__version__)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("nightcap", "model", "pictures"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--device", default="cuda:0")
    given = parser.parse_args()
    main(given.nightcap.resolve(), given.model.resolve(), given.pictures.resolve(), given.device)
