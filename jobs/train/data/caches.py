"""Outputs of the frozen layers, cached on disk when they are first asked for, so that training computes only what it changes.

ImageCache: `[views, images, *frozen_shape]` f16, augmented views of each image. TextCache: token states of every caption after the
frozen layers, ragged, f16. Both are memory-mapped, survive a restart, and are named by a hash of the data and of the frozen weights:
recipes that freeze the same layers share them.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.images import Images
from data.pixels import augment, pixels


def _digest(*parts: Any, modules: list[nn.Module]) -> str:
    found = hashlib.sha256(repr(parts).encode())
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:12]


class ImageCache:
    """The frozen part of an image encoder, by view and image."""

    def __init__(self, directory: Path, images: Images, encoder: Any, size: int, views: int, seed: int, batch: int = 16):
        self.images, self.encoder, self.size, self.seed, self.batch = images, encoder, size, seed, batch
        frozen = [module for module in encoder.children() if not any(p.requires_grad for p in module.parameters())]
        name = _digest(images.digest(), size, seed, encoder.frozen_shape, modules=frozen)
        shape = (views, len(images), *encoder.frozen_shape)
        self.maps = _memmap(directory / f"images-{name}-{views}.f16", np.float16, shape)
        self.filled = _memmap(directory / f"images-{name}-{views}.filled", np.uint8, shape[:2])

    def get(self, views: np.ndarray, indices: np.ndarray) -> Tensor:
        """The frozen outputs `[batch, *frozen_shape]` f32 of these views of these images."""
        missing = list(dict.fromkeys((int(v), int(i)) for v, i in zip(views, indices) if not self.filled[v, i]))
        for start in range(0, len(missing), self.batch):
            self._fill(missing[start : start + self.batch])
        return torch.from_numpy(self.maps[views, indices].astype(np.float32))

    @torch.inference_mode()
    def _fill(self, pairs: list[tuple[int, int]]) -> None:
        batch = [pixels(augment(self.images.image(i), v, np.random.default_rng((self.seed, v, i))), self.size)
                 for v, i in pairs]
        for (v, i), value in zip(pairs, self.encoder.frozen(torch.from_numpy(np.stack(batch))).float().numpy()):
            self.maps[v, i] = value
            self.filled[v, i] = 1


class TextCache:
    """What a text encoder reads, by caption number: cached states of its frozen layers, or ids where it has none."""

    def __init__(self, directory: Path, ids: np.ndarray, encoder: Any):
        self.ids, self.encoder, self.lengths = ids, encoder, (ids > 0).sum(1)
        if not encoder.cached_width:
            return
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        name = _digest(hashlib.sha256(ids.tobytes()).hexdigest(), modules=[encoder.embedding, encoder.frozen])
        self.states = _memmap(directory / f"texts-{name}.f16", np.float16, (int(self.offsets[-1]), encoder.cached_width))
        self.filled = _memmap(directory / f"texts-{name}.filled", np.uint8, (len(ids),))

    @torch.inference_mode()
    def _fill(self, rows: np.ndarray, batch: int = 128) -> None:
        # sorted by length, so that batches have little padding
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            ids = torch.from_numpy(self.ids[part, : self.lengths[part].max()])
            for row, value in zip(part, self.encoder.frozen_states(ids, (ids > 0).long()).float().numpy()):
                self.states[self.offsets[row] : self.offsets[row + 1]] = value[: self.lengths[row]]
                self.filled[row] = 1

    def get(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The encoder's input (states `[batch, longest, width]` f32, or ids) and the mask `[batch, longest]` i64."""
        lengths = self.lengths[rows]
        mask = torch.from_numpy((np.arange(lengths.max())[None, :] < lengths[:, None]).astype(np.int64))
        if not self.encoder.cached_width:
            return torch.from_numpy(self.ids[rows, : lengths.max()]), mask
        if len(missing := np.unique(rows[self.filled[rows] == 0])):
            self._fill(missing)
        states = np.zeros((len(rows), lengths.max(), self.encoder.cached_width), np.float32)
        for i, row in enumerate(rows):
            states[i, : lengths[i]] = self.states[self.offsets[row] : self.offsets[row + 1]]
        return torch.from_numpy(states), mask


def _memmap(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A zero-filled file of this shape, or the one that is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.exists() and path.stat().st_size == math.prod(shape) * np.dtype(dtype).itemsize
    return np.memmap(path, dtype, "r+" if known else "w+", shape=shape)
