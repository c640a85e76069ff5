"""Export a LLaVA checkpoint: python jobs/export/llava.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with LLaVA's architecture, such as llava-hf/llava-1.5-7b-hf.
OUTPUT gets onnx/{vision_encoder,embed_tokens,decoder_model_merged}.onnx and the files of the processor. The graphs have to
give PyTorch's tokens before the command says that it is done.
"""

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import causal
import checkpoints
import common


class VisionEncoder(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `image_features` [B, T, width], the projected patches of one layer or of several."""

    def __init__(self, model):
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        layers = model.config.vision_feature_layer
        self.layers = [layers] if isinstance(layers, int) else layers
        # The strategy "default" leaves the class token out.
        self.first = 1 if model.config.vision_feature_select_strategy == "default" else 0

    def forward(self, pixel_values):
        states = self.tower(pixel_values, output_hidden_states=True).hidden_states
        return self.projector(torch.cat([states[layer][:, self.first:] for layer in self.layers], -1))


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["llava"], LlavaForConditionalGeneration, LlavaProcessor)
    graphs = common.output(output, model, processor)
    side = model.config.vision_config.image_size
    common.export(VisionEncoder(model), graphs / "vision_encoder.onnx",
                  {"pixel_values": (torch.randn(2, 3, side, side), {0: "batch_size"})}, {"image_features": {0: "batch_size"}})
    causal.export_text(model, model.model.language_model, graphs)
    causal.check(model, processor, graphs)
    print(f"done: {output}")


main()
