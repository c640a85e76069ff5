"""How good the weights of an epoch are: losses, greedy captions and retrieval on the first validation images, with PyTorch."""

import numpy as np
import torch
from torch import Tensor

import metrics
from captioner import Captioner
from data import tokens
from data.pixels import PLAIN
from data.split import Split
from losses import TEXT_CUT, losses

BATCH = 50


@torch.inference_mode()
def greedy(captioner: Captioner, memory: Tensor, length: int) -> list[list[int]]:
    """Greedy captions of each row of `memory` as ids, without the end token."""
    ids, rows = torch.full((len(memory), 1), tokens.CLS), []
    past, ended = captioner.decoder.empty_past(len(memory)), torch.zeros(len(memory), dtype=torch.bool)
    for _ in range(length):
        logits, past = captioner.decoder(ids, memory, past)
        ids = logits[:, -1].argmax(-1, keepdim=True)
        rows.append(ids)
        ended |= ids[:, 0] == tokens.SEP
        if ended.all():
            break
    return [row[: row.index(tokens.SEP)] if tokens.SEP in row else row for row in torch.cat(rows, 1).tolist()]


@torch.inference_mode()
def validate(captioner: Captioner, split: Split, limit: int) -> tuple[dict[str, float], list[str]]:
    """Losses and scores of the first `limit` images without side text, BLEU-4 with it, and the captions without it."""
    captioner.eval()
    count, settings = min(limit, len(split.images)), captioner.recipe
    captions: list[str] = []
    assisted: list[str] = []
    images, sums, rng = [], [], np.random.default_rng(0)
    for start in range(0, count, BATCH):
        part = np.arange(start, min(start + BATCH, count))
        frozen = split.frozen.get(np.full_like(part, PLAIN), part)
        drawn = split.draw(part, settings.training.captions, rng)
        found = losses(captioner, split, frozen, *drawn, rng)
        sums.append([len(part) * value.item() for value in found.values()])
        image_tokens, embeds = captioner.image.from_frozen(frozen)
        images.append(embeds.numpy())
        entered, mask = split.texts.get(split.first[part])
        states, _ = captioner.text.from_input(entered, mask)
        for given, out in ((torch.zeros_like(mask), captions), (mask, assisted)):
            memory = captioner.fusion(image_tokens, states, given)[0]
            out += split.vocabulary.tokenizer.decode_batch(greedy(captioner, memory, settings.decoder.max_new_tokens))
    ends = int(split.first[count])
    texts = []
    for start in range(0, ends, 2 * BATCH):
        entered, mask = split.texts.get(np.arange(start, min(start + 2 * BATCH, ends)))
        texts.append(captioner.text.from_input(entered[:, :TEXT_CUT], mask[:, :TEXT_CUT])[1].numpy())
    references = split.images.captions[:count]
    scores = {"validation loss": float(np.sum(sums) / count)}
    scores |= {f"validation {name}": float(value / count) for name, value in zip(found, np.sum(sums, 0))}
    scores |= metrics.caption_scores(captions, references)
    scores |= metrics.recalls(np.concatenate(images), np.concatenate(texts), split.owners[:ends])
    # The first caption was the side text, so it is no reference.
    others = [i for i, group in enumerate(references) if len(group) > 1]
    if others:
        kept = [references[i][1:] for i in others]
        scores["BLEU-4 side text"] = metrics.caption_scores([assisted[i] for i in others], kept)["BLEU-4"]
        scores["BLEU-4 same references"] = metrics.caption_scores([captions[i] for i in others], kept)["BLEU-4"]
    return scores, captions
