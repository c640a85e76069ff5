"""Train the captioner: python train.py --train TRAIN.parquet --dev DEV.parquet --work DIR

One step takes one view and three captions of each photograph. The decoder writes two of them, half of the time with
the third as side text; images, fused states and texts are pulled together by a contrastive loss (CLIP: Radford et
al., 2021). DIR keeps caches, `last.pt` (to resume) and `best.pt` (the averaged weights that did best).
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import data
import features
import metrics
import model as network

VIEWS = 2
CAPTION_CUT, TEXT_CUT = 21, 26
WARMUP_STEPS = 100
DECAY = 0.998
LABEL_SMOOTHING = 0.1
CONTRAST, FUSED_CONTRAST = 0.5, 0.25
RATES = {"image.tail": 1.5e-4, "text.last": 1e-4, "text.embed": 2e-4, "decoder.embedding": 3e-4}
RATE = 5e-4
WEIGHT_DECAY = 0.05


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, help="Parquet: image_id, image {bytes, path}, captions")
    parser.add_argument("--dev", required=True, help="Parquet of the same columns, to choose the best weights by")
    parser.add_argument("--work", required=True, type=Path, help="directory for caches and checkpoints")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64, help="photographs a step")
    parser.add_argument("--limit", type=int, help="use only the first rows of each split")
    parser.add_argument("--dev-images", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


class Split:
    """A split with its caches: photograph i has the captions `first[i] .. first[i + 1]`."""

    def __init__(self, name, path, args, tokenizer=None):
        self.photographs = data.read(path, args.limit)
        if tokenizer is None:
            tokenizer = data.build_tokenizer(self.photographs.captions)
        self.tokenizer, self.decoder_vocab, self.order = tokenizer
        captions = [caption for group in self.photographs.captions for caption in group]
        self.first = np.cumsum([0] + [len(group) for group in self.photographs.captions])
        self.owners = np.repeat(np.arange(len(self.photographs)), np.diff(self.first))
        self.text_ids = data.encode(self.tokenizer, captions, data.TEXT_LENGTH)
        self.targets = data.encode(self.tokenizer, [data.clean(c) for c in captions], data.CAPTION_LENGTH,
                                   self.decoder_vocab)
        self.name = name

    def open_caches(self, work, model, views, seed):
        """Open or make the caches with the frozen layers of `model`."""
        self.stem = features.StemCache(work, self.name, self.photographs, copy.deepcopy(model.image.stem), views, seed)
        self.text = features.TextCache(work, self.name, self.text_ids, model.text)


def contrast(left, right, log_scale):
    """CLIP's symmetric InfoNCE of matching rows."""
    logits = left @ right.T * log_scale.clamp(max=math.log(100)).exp()
    labels = torch.arange(len(left))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def losses(model, split, maps, captions, rng):
    """The three losses of a batch: `maps` `[batch, 192, 7, 7]`, `captions` `[batch, 3]` caption numbers.

    The first two captions are written; the third is the side text, some words of it hidden, or none.
    """
    batch = maps.shape[0]
    frozen, mask = split.text.get(captions[:, [0, 2]].T.reshape(-1))
    # The few longer texts are cut, not ended.
    frozen, mask = frozen[:, :TEXT_CUT], mask[:, :TEXT_CUT]
    states, texts = model.text.from_frozen(frozen, mask)
    tokens, images = model.image.from_stem(maps)

    kept = rng.random((batch, mask.shape[1])) >= rng.uniform(0, 0.5, (batch, 1))
    kept &= rng.random((batch, 1)) < 0.5
    memory, fused = model.fusion(tokens, states[batch:], mask[batch:] * torch.from_numpy(kept.astype(np.int64)))

    ids = torch.from_numpy(split.targets[captions[:, :2].reshape(-1), :CAPTION_CUT])
    written, targets = model.decoder.states(ids[:, :-1], memory)[0], ids[:, 1:]
    counted = (targets != data.PAD) & (targets != data.UNK)
    caption = F.cross_entropy(model.decoder.logits(written[counted]).float(), targets[counted],
                              label_smoothing=LABEL_SMOOTHING)
    image = sum(contrast(images, half, model.log_scale) for half in texts.split(batch)) / 2
    return caption, image, contrast(fused, texts[:batch], model.log_scale)


@torch.inference_mode()
def greedy(model, memory, length=24):
    """Greedy captions of each row of `memory` as id lists."""
    ids, past, rows = torch.full((len(memory), 1), data.CLS), None, []
    for _ in range(length):
        logits, past = model.decoder(ids, memory, past)
        ids = logits[:, -1].argmax(-1, keepdim=True)
        rows.append(ids)
    return [row[: row.index(data.SEP)] if data.SEP in row else row for row in torch.cat(rows, 1).tolist()]


@torch.inference_mode()
def evaluate(model, split, limit):
    """Scores of the first `limit` photographs without side text, and BLEU-4 with it."""
    model.eval()
    count = min(limit, len(split.photographs))
    captions, assisted, images = [], [], []
    for start in range(0, count, 50):
        part = np.arange(start, min(start + 50, count))
        tokens, embeds = model.image.from_stem(split.stem.get(np.zeros_like(part), part))
        images.append(embeds.numpy())
        states, _ = model.text.from_frozen(*(side := split.text.get(split.first[part])))
        for mask, out in ((torch.zeros_like(side[1]), captions), (side[1], assisted)):
            out += split.tokenizer.decode_batch(greedy(model, model.fusion(tokens, states, mask)[0]))
    ends = split.first[count]
    texts = [model.text.from_frozen(*split.text.get(np.arange(s, min(s + 100, ends))))[1].numpy()
             for s in range(0, ends, 100)]
    references = split.photographs.captions[:count]
    scores = metrics.caption_scores(captions, references)
    scores |= metrics.recalls(np.concatenate(images), np.concatenate(texts), split.owners[:ends])
    # The first caption was the side text, so it is no reference.
    scores["BLEU-4 side"] = metrics.caption_scores(assisted, [group[1:] for group in references])["BLEU-4"]
    scores["BLEU-4 same references"] = metrics.caption_scores(captions, [g[1:] for g in references])["BLEU-4"]
    return scores, captions


def optimizer_for(model):
    """AdamW; pretrained parts learn more slowly, vectors do not decay."""
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((r for prefix, r in RATES.items() if name.startswith(prefix)), RATE)
            decay = WEIGHT_DECAY if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW([{"params": p, "lr": r, "base": r, "weight_decay": d} for (r, d), p in groups.items()],
                             betas=(0.9, 0.98), fused=True)


def trainable_state(model):
    """The weights that training changes, as they are now."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    train = Split("train", args.train, args)
    dev = Split("dev", args.dev, args, (train.tokenizer, train.decoder_vocab, train.order))
    model = network.pretrained(train.order, train.decoder_vocab)
    model.eval()
    train.open_caches(args.work, model, VIEWS, args.seed)
    dev.open_caches(args.work, model, 1, args.seed)
    optimizer, averaged = optimizer_for(model), copy.deepcopy(model)
    steps_an_epoch = len(train.photographs) // args.batch
    total, step, best, spent = args.epochs * steps_an_epoch, 0, -1.0, 0.0
    if (args.work / "last.pt").exists():
        saved = torch.load(args.work / "last.pt", weights_only=True)
        model.load_state_dict(saved["model"], strict=False)
        averaged.load_state_dict(saved["averaged"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])
        step, best, spent = saved["step"], saved["best"], saved["seconds"]
    print(f"decoder vocabulary {train.decoder_vocab}, {steps_an_epoch} steps an epoch, from step {step} to {total}",
          flush=True)

    recent, began = [], time.time()
    while step < total:
        epoch, at = divmod(step, steps_an_epoch)
        # An epoch's order, views and captions depend on seed and epoch alone, so a resumed run draws the same ones.
        order = np.random.default_rng((args.seed, epoch)).permutation(len(train.photographs))
        rng = np.random.default_rng((args.seed, epoch, at))
        torch.manual_seed(args.seed * 1_000_003 + step)
        part = order[at * args.batch : (at + 1) * args.batch]
        # Each of the first epochs makes a new view, later ones draw from those.
        views = np.full(len(part), epoch) if epoch < VIEWS else rng.integers(0, VIEWS, len(part))
        captions = np.stack([train.first[i] + rng.permutation(train.first[i + 1] - train.first[i])[:3] for i in part])
        progress = max(0, step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)
        factor = min(1, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor

        model.train()
        maps = train.stem.get(views, part)
        with torch.autocast("cpu", torch.bfloat16):
            parts = losses(model, train, maps, captions, rng)
        loss = parts[0] + CONTRAST * parts[1] + FUSED_CONTRAST * parts[2]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(DECAY, step / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(averaged.parameters(), model.parameters()):
                if fast.requires_grad:
                    slow.lerp_(fast, 1 - decay)

        recent.append([p.item() for p in parts])
        if step % 20 == 0:
            caption, image, fusion = np.mean(recent, 0)
            print(f"step {step}/{total} epoch {step / steps_an_epoch:.2f} caption {caption:.3f} image {image:.3f} "
                  f"fused {fusion:.3f} lr x{factor:.3f} {spent + time.time() - began:.0f} s", flush=True)
            recent.clear()
        if step % steps_an_epoch == 0:
            scores, captions = evaluate(averaged, dev, args.dev_images)
            print("dev", " ".join(f"{k} {v:.2f}" for k, v in scores.items()), "|", " / ".join(captions[:3]), flush=True)
            header = {"order": torch.as_tensor(train.order), "decoder_vocab": train.decoder_vocab, "step": step,
                      "seconds": spent + time.time() - began, "tokenizer": train.tokenizer.to_str()}
            if scores["CIDEr"] > best:
                best = scores["CIDEr"]
                torch.save(header | {"model": trainable_state(averaged)}, args.work / "best.pt")
            torch.save(header | {"model": trainable_state(model), "averaged": trainable_state(averaged),
                                 "optimizer": optimizer.state_dict(), "best": best}, args.work / "last.pt.new")
            (args.work / "last.pt.new").replace(args.work / "last.pt")


if __name__ == "__main__":
    main()
