"""Trains a captioner on images with captions.

    python train.py --recipe recipes/default.toml --train TRAIN.parquet --validation VALIDATION.parquet --output DIR

The data are a Parquet file with a column of images (paths, bytes, or structs of both, as `nightcap run` reads them) and a column of
captions (a list of strings), or a CSV with one caption a row and the path of its image. Relative paths start at the file's folder.

DIR gets last.pt (the same command goes on from there after a kill), best.pt (the averaged weights with the best CIDEr), history.csv
and curves.png. Then export.py makes a model directory of best.pt, which `nightcap run` takes.

With --from, training starts from a finished checkpoint, or from a model directory that export.py wrote: blocks, sizes and words are
taken from there, and the recipe may only have the tables [training] and [rates] (recipes/fine_tune.toml).
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

import captioner as network
import checkpoint
import configuration
import finished
from captioner import Captioner
from configuration import Recipe, RecipeError
from data import images, tokens
from data.split import Split
from data.tokens import Vocabulary
from loop import Run


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path, help="TOML file, see recipes/")
    parser.add_argument("--train", required=True, type=Path, help="Parquet or CSV of images with captions")
    parser.add_argument("--validation", required=True, type=Path, help="the same of other images, to choose the best weights by")
    parser.add_argument("--output", required=True, type=Path, help="directory for checkpoints, log and curves")
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint (.pt) or exported model directory to start from")
    parser.add_argument("--cache", type=Path, help="directory for outputs of frozen layers, which recipes share [OUTPUT/cache]")
    add_columns(parser)
    parser.add_argument("--limit", type=int, help="use only the first images of each file")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(given)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Options for the names of columns."""
    parser.add_argument("--key", help="column that names an image [image_id if there is one, else the path or the row's number]")
    parser.add_argument("--image", default="image", help="column of images [image]")
    parser.add_argument("--captions", default="captions", help="column of captions [captions]")


def start(args: argparse.Namespace, train: images.Images) -> tuple[Recipe, Vocabulary, Captioner]:
    """The recipe, the vocabulary and the captioner with the weights to start from."""
    given = configuration.load(args.recipe)
    if args.start is None:
        vocabulary = tokens.build(given.tokens.source, train.captions, given.tokens.min_count)
        return given, vocabulary, network.build(given, vocabulary)
    captioner, vocabulary = finished.load(args.start) if args.start.is_dir() else checkpoint.load(args.start)
    defaults = Recipe(training=given.training, rates=given.rates)
    if given != defaults:
        raise RecipeError(f"{args.recipe}: with --from, only [training] and [rates] are allowed: blocks come from {args.start}")
    recipe = dataclasses.replace(captioner.recipe, training=given.training, rates=given.rates)
    captioner.recipe = recipe
    return recipe, vocabulary, captioner


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    columns = images.Columns(args.key, args.image, args.captions)
    train = images.read(args.train, columns, args.limit)
    validation = images.read(args.validation, columns, args.limit)
    recipe, vocabulary, captioner = start(args, train)
    args.output.mkdir(parents=True, exist_ok=True)
    cache = args.cache or args.output / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (args.output / "recipe.toml").write_text(configuration.as_toml(recipe), encoding="utf-8")
    splits = [Split(part, vocabulary, recipe) for part in (train, validation)]
    captioner.eval()
    for split, views in zip(splits, (recipe.training.views, 1)):
        split.open_caches(cache, captioner, views)
    trained = Run(captioner, splits[0], splits[1], args.output)
    if not trained.resume() and args.start:
        trained.measure_start()
    trained.train_all()


def main() -> None:
    try:
        run(arguments())
    except (RecipeError, images.DataError, checkpoint.CheckpointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
