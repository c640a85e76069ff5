"""nightcap's preprocessing beside Pillow and numpy: python benches/peers/preprocess.py [--photo FILE] [--rounds N]

The same JPEG bytes are decoded, and made into a tensor [3, 224, 224] as transformers' ViT and CLIP image processors do, by Pillow and
numpy in this process and by nightcap in another (ours.rs), both on one core. The two sides take turns for several rounds; a round is
the median of many calls, and what is printed is the median of the rounds. What comes out must be equal, byte for byte. At 4000 x 3000
pixels this is done at full size and with `input.jpeg_scaling`, which is Pillow's `draft`.

Builds with the profile of the tests. Needs Pillow 13 and numpy, as in requirements.txt. The image is a sample photograph of
640 x 480 and the same enlarged.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
PHOTO = HERE.parents[1] / "sample_data/photos/german-shepherd.jpg"
HALF = np.float32([0.5, 0.5, 0.5])
OPENAI = np.float32([0.48145466, 0.4578275, 0.40821073]), np.float32([0.26862954, 0.26130258, 0.27577711])


def built():
    """The program that does our side."""
    command = ["cargo", "build", "--locked", "--quiet", "--bench", "ours", "--message-format", "json"]
    said = subprocess.run(command, cwd=HERE.parents[1], check=True, stdout=subprocess.PIPE, text=True).stdout
    made = [json.loads(line) for line in said.splitlines()]
    return next(each["executable"] for each in made if each.get("executable") and each["target"]["name"] == "ours")


def decoded(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def drafted(data, target):
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", tuple(2 * side for side in target))
    image.load()
    return image


def vit(image):
    return image.resize((224, 224), Image.Resampling.BILINEAR)


def clip(image):
    """The short side becomes 224, and the centre is taken."""
    width, height = image.size
    size = (224, int(224 * height / width)) if width <= height else (int(224 * width / height), 224)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    return image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))


def tables(mean, std):
    """What transformers makes of each value of each channel."""
    values = (np.arange(256) * (1 / 255)).astype(np.float32)
    return np.stack([(values - mean[channel]) / std[channel] for channel in range(3)])


def by_arithmetic(resized, mean, std):
    """One multiplication and one addition a value: not the same last bits, but what is usually written."""
    planes = np.array(np.asarray(resized).transpose(2, 0, 1), dtype=np.float32, order="C")
    planes *= (1 / 255 / std)[:, None, None].astype(np.float32)
    planes -= (mean / std)[:, None, None]
    return planes


def by_table(resized, table):
    """A look-up a value: the same bits."""
    pixels = np.asarray(resized)
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        np.take(table[channel], pixels[:, :, channel], out=planes[channel], mode="clip")
    return planes


def timed(step, count):
    """The median of `count` calls, and what the last one made."""
    seconds = []
    made = step()
    for _ in range(count):
        begun = time.perf_counter()
        made = step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), made


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photo", type=pathlib.Path, default=PHOTO, help="a JPEG; default: a sample photograph of 640 x 480")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    program = built()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        small = pathlib.Path(folder, "small.jpg")
        small.write_bytes(given.photo.read_bytes())
        large = pathlib.Path(folder, "large.jpg")
        decoded(small.read_bytes()).resize((4000, 3000), Image.Resampling.BICUBIC).save(large, quality=90)
        compare(program, small, large, given.rounds, pathlib.Path(folder, "result"))


def compare(program, small, large, rounds, result):
    def ours(step, kind, file, count):
        said = subprocess.run([program, step, kind, file, str(count), result], check=True, capture_output=True, text=True)
        return float(said.stdout), result.read_bytes()

    data, data_large = small.read_bytes(), large.read_bytes()
    picture = decoded(data)
    of_vit, of_clip = tables(HALF, HALF), tables(*OPENAI)
    def by_pillow(decode, data):
        return by_table(vit(decode(data)), of_vit)

    def drafted_for_vit(data):
        return drafted(data, (224, 224))

    # What is compared, and its sides: name -> step, and whether what it makes is the same as that of the first.
    table = {
        f"decode {picture.width}x{picture.height}": {
            "Pillow": (lambda: timed(lambda: decoded(data), 100), True),
            "nightcap": (lambda: ours("decode", "ViT", small, 100), True)},
        "process, ViT": {
            "Pillow and numpy, by table": (lambda: timed(lambda: by_table(vit(picture), of_vit), 100), True),
            "Pillow and numpy, by arithmetic": (lambda: timed(lambda: by_arithmetic(vit(picture), HALF, HALF), 100), False),
            "nightcap": (lambda: ours("process", "ViT", small, 100), True)},
        "process, CLIP": {
            "Pillow and numpy, by table": (lambda: timed(lambda: by_table(clip(picture), of_clip), 100), True),
            "Pillow and numpy, by arithmetic": (lambda: timed(lambda: by_arithmetic(clip(picture), *OPENAI), 100), False),
            "nightcap": (lambda: ours("process", "CLIP", small, 100), True)},
        "decode 4000x3000": {
            "Pillow": (lambda: timed(lambda: decoded(data_large), 7), True),
            "nightcap": (lambda: ours("decode", "ViT", large, 7), True)},
        "decode 4000x3000, scaled": {
            "Pillow": (lambda: timed(lambda: drafted_for_vit(data_large), 15), True),
            "nightcap": (lambda: ours("scaled-decode", "ViT", large, 15), True)},
        "4000x3000 to tensor, ViT": {
            "Pillow and numpy": (lambda: timed(lambda: by_pillow(decoded, data_large), 7), True),
            "nightcap": (lambda: ours("both", "ViT", large, 7), True)},
        "4000x3000 to tensor, scaled": {
            "Pillow and numpy": (lambda: timed(lambda: by_pillow(drafted_for_vit, data_large), 15), True),
            "nightcap": (lambda: ours("scaled-both", "ViT", large, 15), True)},
    }
    seconds = {what: {side: [] for side in sides} for what, sides in table.items()}
    for _ in range(rounds):
        for what, sides in table.items():
            expected = None
            for side, (step, is_equal) in sides.items():
                took, made = step()
                seconds[what][side].append(took)
                made = made if isinstance(made, bytes) else made.tobytes()
                expected = expected or made
                if is_equal and made != expected:
                    raise SystemExit(f"error: {what}: expected the same bytes from every side, those of {side} are others")
    middle = {what: {side: statistics.median(all_of) for side, all_of in sides.items()} for what, sides in seconds.items()}
    print(f"{'':31}{'':33}{'ms':>8}{'min-max':>16}{'nightcap is':>14}")
    for what, sides in seconds.items():
        best = middle[what]["nightcap"]
        for side, all_of in sides.items():
            ratio = "" if side == "nightcap" else f"{middle[what][side] / best:.2f} x"
            spread = f"{1e3 * min(all_of):.2f}-{1e3 * max(all_of):.2f}"
            print(f"{what:31}{side:33}{1e3 * middle[what][side]:8.2f}{spread:>16}{ratio:>14}")
    for what, full, scaled in [("decode", "decode 4000x3000", "decode 4000x3000, scaled"),
                               ("decode and process", "4000x3000 to tensor, ViT", "4000x3000 to tensor, scaled")]:
        print(f"nightcap with jpeg_scaling, {what}: {middle[full]['nightcap'] / middle[scaled]['nightcap']:.2f} x as fast as without")
    print("Bytes were equal in every round, except those by arithmetic.")


if __name__ == "__main__":
    main()
