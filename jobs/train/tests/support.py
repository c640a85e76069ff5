"""What the tests share: small recipes that together have every option, and toy data."""

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import configuration
from configuration import Recipe
from tests import toy_images

HERE = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {
    "tokens": {"source": "captions", "min_count": 1, "text_length": 24},
    "model": {"width": 32, "heads": 4, "inner": 48, "projection": 24},
    "text": {"encoder": "words", "width": 16},
    "training": {"epochs": 2, "batch": 8, "captions": 2, "views": 2, "validation_images": 12, "rate": 3e-3, "warmup_steps": 2,
                 "averaging": 0.9}}
VIT = {"encoder": "vit", "size": 32, "width": 24, "layers": 1, "heads": 3, "patch": 16}
CNN = {"encoder": "cnn", "size": 64, "pretrained": False}
WORDS = {"encoder": "words", "width": 16}
TRANSFORMER = {"encoder": "transformer", "width": 16, "layers": 1, "heads": 2, "inner": 24}
MINILM = {"encoder": "minilm", "pretrained": False, "width": 16, "layers": 2, "frozen_layers": 1, "heads": 2, "inner": 24}
STEPS = {"max_new_tokens": 12}
# Every option of every block is in one of these.
TOYS: dict[str, dict[str, Any]] = {
    "cnn, minilm, contrastive, multi-head, transformer": {
        "image": {"encoder": "cnn", "size": 64, "names": True}, "text": MINILM,
        "decoder": {"kind": "transformer", "layers": 1, "positions": 32, **STEPS}},
    "cnn frozen, words, both, gated, gru": {
        "image": {**CNN, "train_tail": False}, "text": WORDS, "shared": {"objective": "both"}, "fusion": {"method": "gated"},
        "decoder": {"kind": "gru", **STEPS}},
    "vit, words, autoencoder, single-head, lstm": {
        "image": VIT, "text": WORDS, "shared": {"objective": "autoencoder"}, "fusion": {"method": "single_head"},
        "decoder": {"kind": "lstm", **STEPS}},
    "vit, transformer, contrastive, concatenate, transformer": {
        "image": VIT, "text": TRANSFORMER, "fusion": {"method": "concatenate"},
        "decoder": {"kind": "transformer", "layers": 2, "positions": 32, **STEPS}}}


def recipe(blocks: dict[str, Any], **training: Any) -> Recipe:
    """A small recipe with these blocks."""
    return configuration.from_table({**SMALL, "training": SMALL["training"] | training, **blocks})


def toy_data(directory: Path, count: int = 32) -> tuple[Path, Path]:
    """Training and validation Parquet files."""
    return toy_images.write(directory, "train", count, 1), toy_images.write(directory, "validation", 12, 2)


def arguments(directory: Path, wanted: Recipe, output: str, count: int = 32) -> list[str]:
    """The arguments of train.py for a toy run in `directory`."""
    path = directory / f"{output}.toml"
    path.write_text(configuration.as_toml(wanted), encoding="utf-8")
    train, validation = directory / "train.parquet", directory / "validation.parquet"
    if not train.exists():
        toy_data(directory, count)
    return ["--recipe", str(path), "--train", str(train), "--validation", str(validation), "--output", str(directory / output),
            "--cache", str(directory / "cache"), "--threads", "1"]


def train(directory: Path, wanted: Recipe, output: str, *more: str) -> Path:
    """Trains in this process, quietly; the output directory."""
    import train as command

    with contextlib.redirect_stdout(io.StringIO()):
        command.run(command.arguments([*arguments(directory, wanted, output), *more]))
    return directory / output


def start_process(given: list[str]) -> subprocess.Popen[str]:
    """train.py in a process of its own."""
    return subprocess.Popen([sys.executable, "-W", "ignore", str(HERE / "train.py"), *given], stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def folder() -> Any:
    """A temporary directory as a path."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
