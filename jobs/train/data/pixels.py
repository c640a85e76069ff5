"""Images as pixels, as `nightcap` makes them from the exported preprocessor_config.json; augmented views for training."""

import numpy as np
from PIL import Image

MEAN = STD = (0.5, 0.5, 0.5)
PLAIN = 0


def pixels(image: Image.Image, size: int) -> np.ndarray:
    """An image as `[3, size, size]` f32: exact bicubic resize in 8 bit, rescaled, normalised."""
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    array = (np.asarray(image, dtype=np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return array.transpose(2, 0, 1)


def augment(image: Image.Image, view: int, rng: np.random.Generator) -> Image.Image:
    """View 0 is the image itself, the others are mild random crops, mirrored half of the time."""
    if view == PLAIN:
        return image
    width, height = image.size
    area, ratio = rng.uniform(0.55, 1.0), np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    w, h = min(1.0, np.sqrt(area * ratio)) * width, min(1.0, np.sqrt(area / ratio)) * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    image = image.crop((round(left), round(top), round(left + w), round(top + h)))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image
