"""The losses of one batch. Multi-task learning: the caption loss is always there, the recipe adds those of the shared space.

loss = caption + a * contrast(image, text) + b * contrast(fused, text) + c * reconstruction, with a, b, c of [shared], and what the
image block adds (names.py).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.shared.contrastive import contrast
from captioner import Captioner
from data import tokens
from data.split import Split

# The few longer texts are cut, not ended.
CAPTION_CUT, TEXT_CUT = 21, 26


def caption_loss(captioner: Captioner, targets: Tensor, memory: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of each next word, `targets` `[captions, length]`; padding and words that cannot be written do not count."""
    states = captioner.decoder.states(targets[:, :-1], memory)[0]
    wanted = targets[:, 1:]
    counted = (wanted != tokens.PAD) & (wanted != tokens.UNK)
    return F.cross_entropy(captioner.decoder.logits(states[counted]).float(), wanted[counted], label_smoothing=smoothing)


def hidden(mask: Tensor, has_side: np.ndarray, share: float, rng: np.random.Generator) -> Tensor:
    """The mask `[batch, text]` of side texts with up to half of the words hidden, and all of them but for a share of the images."""
    kept = rng.random(tuple(mask.shape)) >= rng.uniform(0, 0.5, (len(mask), 1))
    kept &= (rng.random((len(mask), 1)) < share) & has_side[:, None]
    return mask * torch.from_numpy(kept.astype(np.int64))


def losses(captioner: Captioner, split: Split, frozen: Tensor, captions: np.ndarray, has_side: np.ndarray,
           rng: np.random.Generator) -> dict[str, Tensor]:
    """The losses by name, weighted; `frozen` `[batch, ...]`, `captions` `[batch, written + 1]`, the last one the side text.

    Some words of the side text are hidden, and it is given to a share of the images only.
    """
    recipe, batch = captioner.recipe, frozen.shape[0]
    entered, mask = split.texts.get(np.concatenate([captions[:, 0], captions[:, -1]]))
    entered, mask = entered[:, :TEXT_CUT], mask[:, :TEXT_CUT]
    states, texts = captioner.text.from_input(entered, mask)
    image_tokens, images, found = captioner.image.with_losses(frozen)

    side = hidden(mask[batch:], has_side, recipe.training.side_text, rng)
    memory, fused = captioner.fusion(image_tokens, states[batch:], side)

    targets = torch.from_numpy(split.targets[captions[:, :-1].reshape(-1), :CAPTION_CUT])
    found["caption"] = caption_loss(captioner, targets, memory, recipe.training.label_smoothing)
    shared = recipe.shared
    if shared.objective != "autoencoder":
        pairs = [contrast(images, half, captioner.log_scale) for half in texts.split(batch)]
        found["contrastive"] = shared.contrastive * (pairs[0] + pairs[1]) / 2
        found["fused"] = shared.fused * contrast(fused, texts[:batch], captioner.log_scale)
    if captioner.autoencoder is not None:
        image, text = captioner.image.target(frozen), captioner.text.target(entered[:batch], mask[:batch])
        error = captioner.autoencoder([images, texts[:batch], fused], image, text)
        found["reconstruction"] = shared.reconstruction * error
    return found
