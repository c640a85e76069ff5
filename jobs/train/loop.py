"""The training loop: steps, epochs, validation, early stopping, and going on after a kill.

Everything random depends on the seed, the epoch and the step alone, and `last.pt` holds the whole state after each epoch, so that a
run that was killed continues bit for bit as if it had not been (with the same number of threads on the same kind of processor).
"""

import copy
import csv
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import checkpoint
import plots
from captioner import Captioner
from configuration import Recipe
from data.split import Split
from losses import losses
from rewards import Cider
from self_critical import self_critical_losses
from validation import validate

PRINT_EVERY = 20


def optimizer_for(captioner: Captioner) -> torch.optim.Optimizer:
    """AdamW; rates by the start of a parameter's name, the longest that fits; vectors do not decay."""
    recipe = captioner.recipe
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in captioner.named_parameters():
        if parameter.requires_grad:
            fitting = [prefix for prefix in recipe.rates if name.startswith(prefix)]
            rate = recipe.rates[max(fitting, key=len)] if fitting else recipe.training.rate
            decay = recipe.training.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW([{"params": p, "lr": r, "base": r, "weight_decay": d} for (r, d), p in groups.items()],
                             betas=(0.9, 0.98), fused=True)


def rate_factor(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then cosine decay to 2 %: Loshchilov and Hutter, *SGDR*, 2017."""
    progress = max(0, step - warmup) / max(1, total - warmup)
    return min(1, (step + 1) / max(1, warmup)) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


class Run:
    """A training run in the directory `output`: last.pt to go on, best.pt, history.csv, curves.png."""

    def __init__(self, captioner: Captioner, train: Split, validation: Split, output: Path):
        self.captioner, self.train, self.validation, self.output = captioner, train, validation, output
        self.recipe: Recipe = captioner.recipe
        settings = self.recipe.training
        self.batch = min(settings.batch, len(train.images))
        whole = len(train.images) // self.batch
        self.steps_per_epoch = min(settings.steps_per_epoch or whole, whole)
        self.supervised = settings.epochs * self.steps_per_epoch
        self.total = self.supervised + settings.self_critical_epochs * self.steps_per_epoch
        self.reward = Cider(train.images.captions, ending=True)
        self.optimizer, self.averaged = optimizer_for(captioner), copy.deepcopy(captioner)
        self.step, self.best, self.worse, self.seconds = 0, -1.0, 0, 0.0
        self.history: list[dict[str, float]] = []

    def resume(self) -> bool:
        """Takes up the run that `output` holds, if there is one."""
        path = self.output / "last.pt"
        if not path.exists():
            return False
        saved = torch.load(path, weights_only=True)
        if saved["recipe"] != self.recipe.as_table():
            raise checkpoint.CheckpointError(f"{path}: is of another recipe\nhint: choose another --output, or delete it")
        self.captioner.load_state_dict(saved["model"], strict=False)
        self.averaged.load_state_dict(saved["averaged"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.best, self.worse = saved["step"], saved["best"], saved["worse"]
        self.seconds, self.history = saved["seconds"], saved["history"]
        return True

    @property
    def finished(self) -> bool:
        patience = self.recipe.training.patience
        return self.step >= self.total or bool(patience and self.worse >= patience)

    def train_all(self) -> None:
        """Trains to the end, or until no epoch was better for `patience` epochs."""
        parameters = sum(p.numel() for p in self.captioner.parameters())
        trained = sum(p.numel() for p in self.captioner.parameters() if p.requires_grad)
        print(f"{parameters / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained; {len(self.train.images)} images, "
              f"{self.steps_per_epoch} steps of {self.batch} an epoch; from step {self.step} to {self.total}", flush=True)
        while not self.finished:
            began = time.time()
            trained_losses = self.epoch()
            scores, captions = validate(self.averaged, self.validation, self.recipe.training.validation_images)
            self.seconds += time.time() - began
            self.record(trained_losses, scores, captions)
        if self.step < self.total:
            print(f"stopped early: neither CIDEr nor the validation loss was better for {self.worse} epochs", flush=True)

    def measure_start(self) -> None:
        """Scores the weights before the first step as epoch 0. `best.pt` holds them until an epoch is better."""
        scores, captions = validate(self.averaged, self.validation, self.recipe.training.validation_images)
        self.record({}, scores, captions)

    def epoch(self) -> dict[str, float]:
        """The steps of one epoch; the mean of each loss."""
        settings, epoch = self.recipe.training, self.step // self.steps_per_epoch
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(self.train.images))
        sums: dict[str, float] = {}
        began = time.time()
        for at in range(self.steps_per_epoch):
            found = self.train_step(order[at * self.batch : (at + 1) * self.batch], epoch, at)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
            if (at + 1) % PRINT_EVERY == 0 or at + 1 == self.steps_per_epoch:
                left = (time.time() - began) / (at + 1) * (self.total - self.step)
                said = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
                print(f"step {self.step}/{self.total}  {said}  about {left:.0f} s left", flush=True)
        return {name: value / self.steps_per_epoch for name, value in sums.items()}

    def train_step(self, part: np.ndarray, epoch: int, at: int) -> dict[str, float]:
        """One step on these images."""
        settings = self.recipe.training
        rng = np.random.default_rng((settings.seed, epoch, at))
        torch.manual_seed(settings.seed * 1_000_003 + self.step)
        # Each of the first epochs makes a new view, later ones draw from those.
        views = np.full(len(part), epoch) if epoch < settings.views else rng.integers(0, settings.views, len(part))
        drawn = self.train.draw(part, settings.captions, rng)
        frozen = self.train.frozen.get(views, part)
        measured: dict[str, float] = {}
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            if self.step < self.supervised:
                phase, rate = self.step, rate_factor(self.step, self.supervised, settings.warmup_steps)
                rates = [rate * group["base"] for group in self.optimizer.param_groups]
                found = losses(self.captioner.train(), self.train, frozen, *drawn, rng)
            else:
                phase = self.step - self.supervised
                rate = settings.self_critical_rate * rate_factor(phase, self.total - self.supervised, 0)
                rates = [rate] * len(self.optimizer.param_groups)
                found, measured["reward"] = self_critical_losses(self.captioner.eval(), self.train, self.reward, part, frozen, *drawn, rng)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate
        loss = torch.stack(list(found.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.captioner.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(settings.averaging, (phase + 1) / (phase + 11))
        with torch.no_grad():
            for slow, fast in zip(self.averaged.parameters(), self.captioner.parameters()):
                if fast.requires_grad:
                    slow.lerp_(fast, 1 - decay)
        return {"loss": loss.item()} | {name: value.item() for name, value in found.items()} | measured

    def record(self, trained: dict[str, float], scores: dict[str, float], captions: list[str]) -> None:
        """Prints, logs and draws the epoch, and writes the checkpoints."""
        epoch = self.step // self.steps_per_epoch
        self.history.append({"epoch": epoch, "step": self.step, "seconds": round(self.seconds, 1)} | trained | scores)
        said = "  ".join(f"{name} {scores[name]:.2f}" for name in ("BLEU-4", "CIDEr", "i2t R@1", "i2t R@10", "t2i R@1", "t2i R@10"))
        learned = f"epoch {epoch}: loss {trained['loss']:.3f}" if trained else "before training:"
        print(f"{learned}  validation loss {scores['validation loss']:.3f}  {said}  "
              f"{self.seconds:.0f} s\n  " + " / ".join(captions[:3]), flush=True)
        head: dict[str, Any] = checkpoint.header(self.recipe, self.train.vocabulary) | {"step": self.step}
        # CIDEr stays near zero while a model learns its first words: until then, only the validation loss tells progress.
        lower = all(scores["validation loss"] < row["validation loss"] for row in self.history[:-1])
        self.worse = 0 if lower or scores["CIDEr"] > self.best else self.worse + 1
        if scores["CIDEr"] > self.best:
            self.best = scores["CIDEr"]
            checkpoint.save(self.output / "best.pt", head | {"model": self.averaged.state_dict(), "complete": True})
        with open(self.output / "history.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, list(dict.fromkeys(name for row in self.history for name in row)))
            rows.writeheader()
            rows.writerows(self.history)
        names = dict.fromkeys(name for row in self.history for name in row)
        column = {name: [row.get(name, math.nan) for row in self.history] for name in ("loss", *names)}
        plots.curves(self.output / "curves.png", {
            "losses": {"training": column["loss"], "validation": column["validation loss"]},
            "captions": {name: column[name] for name in ("BLEU-4", "CIDEr")},
            "retrieval": {name: column[name] for name in ("i2t R@1", "i2t R@10", "t2i R@1", "t2i R@10")}},
            first=int(self.history[0]["epoch"]))
        checkpoint.save(self.output / "last.pt", head | {
            "model": checkpoint.trainable_state(self.captioner), "averaged": checkpoint.trainable_state(self.averaged),
            "optimizer": self.optimizer.state_dict(), "best": self.best, "worse": self.worse, "seconds": self.seconds,
            "history": self.history})
