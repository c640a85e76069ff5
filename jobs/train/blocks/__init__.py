"""The blocks of a captioner by the names that recipes use: to add an option, write its module and enter it here.

Every block of a kind has the same shapes and methods, so that captioner, losses, loop and exporter do not know which is used.

- image(recipe): `forward(pixels) -> tokens, embeddings`; the same in two parts, `frozen(pixels)`, which training does not change, and
  `from_frozen`; `frozen_shape`; `tokens`, their number; `target(frozen)` and `target_width`, what an autoencoder reconstructs
- text(recipe, vocabulary): `forward(ids, mask) -> states, embeddings`; `from_input`, of the ids or, where `cached_width` is not 0,
  of `frozen_states(ids, mask)`; `target(input, mask)` and `target_width`
- fusion(recipe): `forward(image_states, text_states, text_mask) -> memory, fused embeddings`
- decoder(recipe, vocabulary): `forward(ids, memory, past) -> logits, next past`; `states` and `logits`, its two parts; `empty_past`,
  `past_names`, `present_names`, `past_axes`, `one_token_steps`
"""

from collections.abc import Callable

from torch import nn

from blocks.decoder import recurrent, transformer
from blocks.fusion import attention, combine
from blocks.image.cnn import Cnn
from blocks.image.vit import Vit
from blocks.text.bert import MiniLm, Transformer
from blocks.text.words import Words

IMAGE: dict[str, Callable[..., nn.Module]] = {"cnn": Cnn, "vit": Vit}
TEXT: dict[str, Callable[..., nn.Module]] = {"words": Words, "transformer": Transformer, "minilm": MiniLm}
FUSION: dict[str, Callable[..., nn.Module]] = {
    "single_head": attention.single_head, "multi_head": attention.multi_head,
    "concatenate": combine.concatenate, "gated": combine.gated}
DECODER: dict[str, Callable[..., nn.Module]] = {
    "transformer": transformer.TransformerDecoder, "lstm": recurrent.lstm, "gru": recurrent.gru}
