"""Export a PaliGemma checkpoint: python jobs/export/paligemma.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with PaliGemma's architecture, such as google/paligemma-3b-mix-224.
OUTPUT gets onnx/{vision_encoder,embed_tokens,decoder_model_merged}.onnx and the files of the processor. The graphs have to
give PyTorch's tokens before the command says that it is done.
"""

import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

import causal
import checkpoints
import common

PROMPTS = ["<image>caption en", "<image>answer en what is in the picture?"]


class VisionEncoder(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `image_features` [B, T, width]."""

    def __init__(self, model):
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values):
        return self.model.get_image_features(pixel_values)


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["paligemma"], PaliGemmaForConditionalGeneration, PaliGemmaProcessor)
    graphs = common.output(output, model, processor)
    side = model.config.vision_config.image_size
    common.export(VisionEncoder(model), graphs / "vision_encoder.onnx",
                  {"pixel_values": (torch.randn(2, 3, side, side), {0: "batch_size"})}, {"image_features": {0: "batch_size"}})
    causal.export_text(model, model.model.language_model, graphs, prefix=True)
    causal.check_texts(model, processor, graphs, PROMPTS)
    print(f"done: {output}")


main()
