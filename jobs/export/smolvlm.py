"""Export a SmolVLM checkpoint: python jobs/export/smolvlm.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with the architecture of SmolVLM or Idefics3, such as
HuggingFaceTB/SmolVLM2-256M-Video-Instruct. OUTPUT gets onnx/{vision_encoder,embed_tokens,decoder_model_merged}.onnx and the
files of the processor. The graphs have to give PyTorch's tokens before the command says that it is done.
"""

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import causal
import checkpoints
import common


class VisionEncoder(torch.nn.Module):
    """`pixel_values` [B, N, 3, H, W], `pixel_attention_mask` bool [B, N, H, W] -> `image_features` [B * N, T, width].

    Every tile gives features, also one that is padding: transformers leaves those out by looking at their pixels, which a
    graph cannot do.
    """

    def __init__(self, model):
        super().__init__()
        self.vision, self.connector = model.model.vision_model, model.model.connector

    def forward(self, pixel_values, pixel_attention_mask):
        embeddings = self.vision.embeddings
        side, patch = embeddings.num_patches_per_side, embeddings.patch_size
        patches = embeddings.patch_embedding(pixel_values.flatten(0, 1))
        high, wide = patches.shape[2:]
        mask = pixel_attention_mask.flatten(0, 1).unflatten(1, (high, patch)).unflatten(3, (wide, patch)).any(4).any(2)
        # The positions of `SmolVLMVisionEmbeddings`, fractions of the unpadded part of a tile. They are just below the
        # bounds of their buckets, so those of a full tile are 0, 0, 1, 2, ...
        bounds = torch.arange(1 / side, 1.0, 1 / side)
        rows, columns = (((torch.arange(length) / real[:, None] * (1 - 1e-6))[:, :, None] >= bounds).sum(-1)
                         for length, real in ((high, mask[:, :, 0].sum(1)), (wide, mask[:, 0].sum(1))))
        places = torch.where(mask, rows[:, :, None] * side + columns[:, None], 0).flatten(1)
        states = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding(places)
        hidden = torch.where(mask.flatten(1), 0.0, torch.finfo(torch.float32).min)[:, None, None]
        states = self.vision.encoder(inputs_embeds=states, attention_mask=hidden).last_hidden_state
        return self.connector(self.vision.post_layernorm(states))


def check_padding(model, path):
    """Features of tiles that are whole and of tiles with padding below or to the right, against transformers'."""
    side = model.config.vision_config.image_size
    mask = torch.ones(2, 3, side, side, dtype=torch.bool)
    mask[0, 1, side // 2:] = mask[1, 0, :, side // 2:] = False
    mask[1, 2] = False  # nothing but padding: the graph's features of this last tile are of no use
    pixels = torch.randn(2, 3, 3, side, side) * mask[:, :, None]
    expected = model.get_image_features(pixels, mask)
    found = common.run(common.session(path), {"pixel_values": pixels.numpy(), "pixel_attention_mask": mask.numpy()})
    difference = float(np.abs(found["image_features"][:-1] - expected.numpy()).max())
    if not difference <= common.TOLERANCE * max(1.0, float(expected.abs().max())):
        common.fail(f"expected image_features of padded tiles within {common.TOLERANCE} of PyTorch, found a difference of "
                    f"{difference}", "the graph does not reproduce the checkpoint: do not use it")


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["smolvlm", "idefics3"], AutoModelForImageTextToText, AutoProcessor)
    graphs = common.output(output, model, processor)
    side = model.config.vision_config.image_size
    tiles = {0: "batch_size", 1: "num_images"}
    common.export(VisionEncoder(model), graphs / "vision_encoder.onnx",
                  {"pixel_values": (torch.randn(2, 3, 3, side, side), tiles),
                   "pixel_attention_mask": (torch.ones(2, 3, side, side, dtype=torch.bool), tiles)},
                  {"image_features": {0: "num_tiles"}})
    causal.export_text(model, model.model.text_model, graphs)
    check_padding(model, graphs / "vision_encoder.onnx")
    causal.check(model, processor, graphs)
    print(f"done: {output}")


main()
