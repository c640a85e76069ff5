"""Outputs of the frozen layers, cached on disk, so that training computes only what it changes.

StemCache: `[views, photographs, 192, 7, 7]` f16, augmented views of each photograph, filled when first asked for.
TextCache: MiniLM's token states of every caption after its frozen layers, ragged, f16, made in one pass.
Both are memory-mapped and survive a restart.
"""

import time

import numpy as np
import torch
from PIL import Image

from backbone import GRID, IMAGE_SIZE, MEAN, STD, STEM_CHANNELS
from model import WIDTH

PLAIN = 0


def pixels(image):
    """A PIL image as `[3, 224, 224]` f32: exact bicubic resize in 8 bit, rescaled, normalised."""
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    array = (np.asarray(image, dtype=np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return array.transpose(2, 0, 1)


def augment(image, view, rng):
    """View 0 is the photograph itself, the others are mild random crops, mirrored half of the time."""
    if view == PLAIN:
        return image
    width, height = image.size
    area, ratio = rng.uniform(0.55, 1.0), np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    w, h = min(1.0, np.sqrt(area * ratio)) * width, min(1.0, np.sqrt(area / ratio)) * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    image = image.crop((round(left), round(top), round(left + w), round(top + h)))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


class StemCache:
    """Stem maps by photograph and view. `name` tells splits apart in `directory`."""

    def __init__(self, directory, name, photographs, stem, views, seed):
        self.photographs, self.seed = photographs, seed
        self.stem = stem.to(torch.bfloat16).to(memory_format=torch.channels_last)
        shape = (views, len(photographs), STEM_CHANNELS, GRID, GRID)
        self.maps = _memmap(directory / f"{name}-stem.f16", np.float16, shape)
        self.filled = _memmap(directory / f"{name}-stem.filled", np.uint8, shape[:2])

    def get(self, views, indices):
        """The maps `[batch, 192, 7, 7]` f32 of these views of these photographs."""
        missing = [(v, i) for v, i in zip(views, indices) if not self.filled[v, i]]
        for start in range(0, len(missing), 32):
            self._fill(missing[start : start + 32])
        return torch.from_numpy(self.maps[views, indices].astype(np.float32))

    @torch.inference_mode()
    def _fill(self, pairs):
        batch = [pixels(augment(self.photographs.image(i), v, np.random.default_rng((self.seed, v, i))))
                 for v, i in pairs]
        batch = torch.from_numpy(np.stack(batch)).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        for (v, i), value in zip(pairs, self.stem(batch).float().numpy()):
            self.maps[v, i] = value
            self.filled[v, i] = 1


class TextCache:
    """Frozen token states by caption number. `ids` is the zero-padded id matrix of all captions."""

    def __init__(self, directory, name, ids, encoder):
        self.lengths = (ids > 0).sum(1)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.states = _memmap(directory / f"{name}-text.f16", np.float16, (int(self.offsets[-1]), WIDTH))
        done = _memmap(directory / f"{name}-text.filled", np.uint8, (1,))
        if not done[0]:
            self._fill(ids, encoder)
            done[0] = 1

    @torch.inference_mode()
    def _fill(self, ids, encoder, batch=256):
        # Sorted by length, so that batches have little padding.
        order, began = np.argsort(self.lengths, kind="stable"), time.time()
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            part = torch.from_numpy(ids[rows, : self.lengths[rows].max()])
            with torch.autocast("cpu", torch.bfloat16):
                states = encoder.frozen_states(part, (part > 0).long()).float().numpy()
            for row, value in zip(rows, states):
                self.states[self.offsets[row] : self.offsets[row + 1]] = value[: self.lengths[row]]
            if start // batch % 20 == 0:
                print(f"text states {start}/{len(order)}, {time.time() - began:.0f} s", flush=True)

    def get(self, rows):
        """States `[batch, longest, WIDTH]` f32 and mask `[batch, longest]` i64 of these captions."""
        lengths = self.lengths[rows]
        states = np.zeros((len(rows), lengths.max(), WIDTH), np.float32)
        for i, row in enumerate(rows):
            states[i, : lengths[i]] = self.states[self.offsets[row] : self.offsets[row + 1]]
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]
        return torch.from_numpy(states), torch.from_numpy(mask.astype(np.int64))


def _memmap(path, dtype, shape):
    """A zero-filled file of this shape, or the one that is there already."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    known = path.exists() and path.stat().st_size == size
    return np.memmap(path, dtype, "r+" if known else "w+", shape=shape)
