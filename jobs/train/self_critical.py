"""Self-critical training: the decoder samples captions, and those with more CIDEr than the image's other samples become likelier.

Rennie et al., *Self-Critical Sequence Training*, 2017, with the baseline of Luo, *A Better Variant of Self-Critical Sequence Training*,
2020. Only the decoder learns. Of an image's samples, the best and the worst are learned from: most of the gradient is theirs, and its
cost does not grow with the number of samples.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from captioner import Captioner
from data import tokens
from data.split import Split
from losses import CAPTION_CUT, TEXT_CUT, caption_loss, hidden
from rewards import Cider

# Ids that are not sampled.
NEVER, MINUS_INFINITY = (tokens.PAD, tokens.CLS, tokens.UNK), -1e9
# The weight of the captions' cross-entropy beside it, which keeps the language.
CAPTION_WEIGHT = 0.05


@torch.no_grad()
def sample(decoder: Any, memory: Tensor, count: int, length: int) -> Tensor:
    """`count` captions for each row of `memory`, row by row: ids `[rows * count, at most length + 1]`, [CLS] first, [PAD] after [SEP]."""
    rows = len(memory) * count
    ids, past = torch.full((rows, 1), tokens.CLS), decoder.empty_past(rows)
    ended, found = torch.zeros(rows, dtype=torch.bool), [ids]
    for _ in range(length):
        logits, past = decoder(ids, memory, past)
        ids = torch.multinomial(_allowed(logits[:, -1].float()).softmax(-1), 1).masked_fill(ended[:, None], tokens.PAD)
        ended |= ids[:, 0] == tokens.SEP
        found.append(ids)
        if ended.all():
            break
    return torch.cat(found, 1)


def _allowed(logits: Tensor) -> Tensor:
    return logits.index_fill(-1, torch.tensor(NEVER), MINUS_INFINITY)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards `[images, samples]`, each less the mean of the image's other samples."""
    return (rewards - rewards.mean(1, keepdim=True)) * rewards.shape[1] / (rewards.shape[1] - 1)


def extremes(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """The best and the worst sample of each image: their numbers in the flat list of samples, and their advantages, `[images * 2]`."""
    picked = torch.stack([rewards.argmax(1), rewards.argmin(1)], 1)
    numbers = picked + torch.arange(len(rewards))[:, None] * rewards.shape[1]
    return numbers.reshape(-1), advantages(rewards).gather(1, picked).reshape(-1)


def policy_loss(decoder: Any, memory: Tensor, ids: Tensor, advantage: Tensor) -> Tensor:
    """Policy gradient, -(advantage * log p(word)) as a mean over words; `ids` as `sample` gives them, as many for each row of `memory`."""
    states, targets = decoder.states(ids[:, :-1], memory)[0], ids[:, 1:]
    counted = targets != tokens.PAD
    logits = _allowed(decoder.logits(states[counted]).float())
    likelihood = -F.cross_entropy(logits, targets[counted], reduction="none")
    return -(likelihood * advantage[:, None].expand_as(targets)[counted]).mean()


def self_critical_losses(captioner: Captioner, split: Split, reward: Cider, images: np.ndarray, frozen: Tensor, captions: np.ndarray,
                         has_side: np.ndarray, rng: np.random.Generator) -> tuple[dict[str, Tensor], float]:
    """The losses by name, weighted, and the mean CIDEr of the samples, in percent; the arguments are those of `losses`."""
    recipe = captioner.recipe
    with torch.no_grad():
        entered, mask = split.texts.get(captions[:, -1])
        entered, mask = entered[:, :TEXT_CUT], mask[:, :TEXT_CUT]
        side = hidden(mask, has_side, recipe.training.side_text, rng)
        memory = captioner.fusion(captioner.image.from_frozen(frozen)[0], captioner.text.from_input(entered, mask)[0], side)[0]
    given = [int(c - split.first[i]) if row.any() else None for i, c, row in zip(images, captions[:, -1], side.numpy())]
    ids = sample(captioner.decoder, memory, recipe.training.samples, recipe.decoder.max_new_tokens)
    said = split.vocabulary.tokenizer.decode_batch(ids.tolist())
    whole = (ids == tokens.SEP).any(1).tolist()
    of = np.arange(len(ids)) // recipe.training.samples
    scores = [reward.score(int(images[i]), said[at], given[i]) if whole[at] else 0.0 for at, i in enumerate(of)]
    rewards = torch.tensor(scores).view(len(images), -1)
    numbers, advantage = extremes(rewards)
    targets = torch.from_numpy(split.targets[captions[:, 0], :CAPTION_CUT])
    found = {"self-critical": policy_loss(captioner.decoder, memory, ids[numbers], advantage),
             "caption": CAPTION_WEIGHT * caption_loss(captioner, targets, memory, 0.0)}
    return found, 10 * float(rewards.mean())
