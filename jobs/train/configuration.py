"""A recipe: one TOML file that says which blocks a model has and how it is trained.

In:  a file of recipes/, or your own. Out: a `Recipe` of frozen dataclasses. Unknown keys, values of another type, and keys
that the chosen block does not use are errors, so that no setting is silently without effect.
"""

import dataclasses
import difflib
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


class RecipeError(ValueError):
    """A recipe that cannot be used: says where, what was expected and what was found."""


def only(default: Any, *options: str) -> Any:
    """A key that is allowed only where the section's first key is one of `options`."""
    return field(default=default, metadata={"only": options})


@dataclass(frozen=True)
class Tokens:
    """Where the pieces of words come from: MiniLM's WordPiece, or the words of the training captions."""

    source: Literal["minilm", "captions"] = "minilm"
    min_count: int = 3  # words (or pieces) that are rarer are not written
    text_length: int = 48  # tokens of a side text, [CLS] and [SEP] included


@dataclass(frozen=True)
class Model:
    """Sizes that all blocks share."""

    width: int = 384  # of image tokens, text tokens and the decoder
    heads: int = 12
    inner: int = 1536  # of feed-forward layers
    projection: int = 384  # of the shared space
    dropout: float = 0.2


@dataclass(frozen=True)
class Image:
    encoder: Literal["cnn", "vit"] = "cnn"
    size: int = 224
    pretrained: bool = only(True, "cnn")
    train_tail: bool = only(True, "cnn")  # else the whole CNN is frozen
    names: bool = only(False, "cnn")  # names of things from the CNN's ImageNet head are added to the image tokens
    width: int = only(192, "vit")
    layers: int = only(4, "vit")
    heads: int = only(3, "vit")
    patch: int = only(16, "vit")


@dataclass(frozen=True)
class Text:
    encoder: Literal["words", "transformer", "minilm"] = "minilm"
    pretrained: bool = only(True, "minilm")
    width: int = 384
    layers: int = only(6, "transformer", "minilm")
    frozen_layers: int = only(5, "minilm")
    heads: int = only(12, "transformer", "minilm")
    inner: int = only(1536, "transformer", "minilm")


@dataclass(frozen=True)
class Shared:
    """The shared representation, and the weights of its losses beside the caption loss."""

    objective: Literal["contrastive", "autoencoder", "both"] = "contrastive"
    contrastive: float = only(0.5, "contrastive", "both")
    fused: float = only(0.25, "contrastive", "both")
    reconstruction: float = only(1.0, "autoencoder", "both")


@dataclass(frozen=True)
class Fusion:
    method: Literal["multi_head", "single_head", "concatenate", "gated"] = "multi_head"


@dataclass(frozen=True)
class Decoder:
    kind: Literal["transformer", "lstm", "gru"] = "transformer"
    max_new_tokens: int = 24
    layers: int = only(2, "transformer")
    start: Literal["minilm", "random"] = only("random", "transformer")
    positions: int = only(64, "transformer")


@dataclass(frozen=True)
class Training:
    epochs: int = 20
    batch: int = 64  # images a step
    captions: int = 2  # captions of an image that are written in a step
    steps_per_epoch: int = 0  # 0: as many as the images give
    patience: int = 0  # stop after so many epochs without a better CIDEr or validation loss; 0: never
    views: int = 2  # cached views of each image, the first one plain, the others augmented
    validation_images: int = 300
    rate: float = 5e-4
    warmup_steps: int = 100
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    averaging: float = 0.998  # decay of the running average of weights, which is what is evaluated and exported
    side_text: float = 0.5  # share of images whose captions are written with a side text
    self_critical_epochs: int = 0  # after `epochs`: the decoder alone learns from the CIDEr of captions that it samples
    self_critical_rate: float = 1e-4
    samples: int = 5  # captions of an image that are sampled in a self-critical step
    bfloat16: bool = False
    seed: int = 7


@dataclass(frozen=True)
class Recipe:
    tokens: Tokens = Tokens()
    model: Model = Model()
    image: Image = Image()
    text: Text = Text()
    shared: Shared = Shared()
    fusion: Fusion = Fusion()
    decoder: Decoder = Decoder()
    training: Training = Training()
    rates: dict[str, float] = field(default_factory=dict)  # learning rates by the start of a parameter's name

    def as_table(self) -> dict[str, Any]:
        """The recipe as `from_table` takes it: without keys that the chosen blocks do not use."""
        table: dict[str, Any] = {"rates": dict(self.rates)}
        for section in dataclasses.fields(self):
            value = getattr(self, section.name)
            if dataclasses.is_dataclass(value):
                table[section.name] = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if _used(value, f)}
        return table


def load(path: str | Path) -> Recipe:
    """Reads a recipe. `extends = "FILE"` takes the tables that it does not have from another one, beside it."""
    return from_table(_tables(Path(path)), str(path))


def _tables(path: Path, extended: int = 0) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str) or extended > 8:
        raise RecipeError(f"{path}: extends: expected the name of a recipe that does not extend this one, found {base!r}")
    return _tables(path.parent / base, extended + 1) | table


def from_table(table: dict[str, Any], where: str = "recipe") -> Recipe:
    """A checked recipe from TOML's tables."""
    recipe = _build(Recipe, table, where)
    _check(recipe, where)
    return recipe


def as_toml(recipe: Recipe) -> str:
    """The recipe as a TOML file with every key that has an effect."""
    lines = []
    for name, section in sorted(recipe.as_table().items(), key=lambda item: item[0] == "rates"):
        lines.append(f"[{name}]")
        for key, value in section.items():
            lines.append(f"{_toml(key) if '.' in key else key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _used(section: Any, entry: dataclasses.Field) -> bool:
    """Whether the option that the section's first key names uses this key."""
    options = entry.metadata.get("only")
    return options is None or getattr(section, dataclasses.fields(section)[0].name) in options


def _build(cls: Any, table: dict[str, Any], where: str) -> Any:
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    types = typing.get_type_hints(cls)
    for key in table:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(fields)}"
            raise RecipeError(f"{where}: unknown key {key!r}\nhint: {hint}")
    values = {key: _value(types[key], value, f"{where}: {key}") for key, value in table.items()}
    made = cls(**values)
    for key in table:
        if not _used(made, fields[key]):
            first = dataclasses.fields(made)[0].name
            raise RecipeError(f"{where}: {key}: only {' and '.join(fields[key].metadata['only'])} use this key, "
                              f"but {first} is {getattr(made, first)!r}")
    return made


def _value(wanted: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: expected a table, found {value!r}")
        return _build(wanted, value, where)
    if typing.get_origin(wanted) is Literal:
        options = typing.get_args(wanted)
        if value not in options:
            raise RecipeError(f"{where}: expected one of {', '.join(options)}; found {value!r}")
        return value
    if typing.get_origin(wanted) is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: expected a table, found {value!r}")
        return {key: _value(float, entry, f"{where}: {key}") for key, entry in value.items()}
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise RecipeError(f"{where}: expected {wanted.__name__}, found {value!r}")
    return value


def _check(recipe: Recipe, where: str) -> None:
    """What single keys do not tell: sizes that have to fit each other."""
    model, image, text, decoder, training = recipe.model, recipe.image, recipe.text, recipe.decoder, recipe.training

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise RecipeError(f"{where}: {what}")

    need(model.width % model.heads == 0, f"model.width {model.width} is no multiple of model.heads {model.heads}")
    if image.encoder == "cnn":
        need(image.size % 32 == 0, f"image.size: the CNN needs a multiple of 32, found {image.size}")
        need(image.pretrained or not image.names, "image.names needs image.pretrained, because the names are those of ImageNet's classes")
    else:
        need(image.size % image.patch == 0, f"image.size {image.size} is no multiple of image.patch {image.patch}")
        need(image.width % image.heads == 0, f"image.width {image.width} is no multiple of image.heads {image.heads}")
    if text.encoder != "words":
        need(text.width % text.heads == 0, f"text.width {text.width} is no multiple of text.heads {text.heads}")
    if text.encoder == "minilm":
        need(0 < text.frozen_layers <= text.layers, "text.frozen_layers: expected a number from 1 to text.layers")
        if text.pretrained:
            need(recipe.tokens.source == "minilm", "text.pretrained needs tokens.source = \"minilm\"")
            need((text.width, text.heads, text.inner, text.layers) == (384, 12, 1536, 6),
                 "text: MiniLM has width 384, 12 heads, inner 1536 and 6 layers")
    if decoder.kind == "transformer":
        need(decoder.max_new_tokens < decoder.positions, "decoder.max_new_tokens: expected less than decoder.positions")
        if decoder.start == "minilm":
            need(recipe.tokens.source == "minilm" and (model.width, model.heads, model.inner) == (384, 12, 1536),
                 "decoder.start = \"minilm\" needs tokens.source = \"minilm\", model.width 384, heads 12 and inner 1536")
            need(decoder.layers <= 6, "decoder.layers: MiniLM has 6")
    for name in ("epochs", "batch", "captions", "views"):
        need(getattr(training, name) > 0, f"training.{name}: expected more than 0")
    need(training.self_critical_epochs >= 0, "training.self_critical_epochs: expected 0 or more")
    need(not (training.patience and training.self_critical_epochs),
         "training.patience: has no meaning with self_critical_epochs, which follow after the last of the other epochs")
    need(training.samples > 1, "training.samples: expected 2 or more, because a sample is compared with the others")
    need(0 <= training.side_text <= 1, "training.side_text: expected a share from 0 to 1")
