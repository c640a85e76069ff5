"""Export a BLIP for image-text matching: python jobs/export/blip_itm.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with the architecture BlipForImageTextRetrieval, such as
Salesforce/blip-itm-base-coco. OUTPUT gets onnx/{vision_model,text_model,multimodal_encoder}.onnx and the files of the
processor. The graphs have to give PyTorch's scores before the command says that it is done.
"""

import torch
from transformers import BlipForImageTextRetrieval, BlipProcessor

import checkpoints
import common

TEXTS = ["a cat", "two men on red chairs, and a dog"]


class Vision(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `last_hidden_state` [B, patches + 1, width], `image_embeds` [B, E] of length one."""

    def __init__(self, model):
        super().__init__()
        self.tower, self.projection = model.vision_model, model.vision_proj

    def forward(self, pixel_values):
        states = self.tower(pixel_values=pixel_values).last_hidden_state
        return states, torch.nn.functional.normalize(self.projection(states[:, 0]), dim=-1)


class Text(torch.nn.Module):
    """`input_ids`, `attention_mask` [B, T] -> `text_embeds` [B, E] of length one."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.projection = model.text_encoder, model.text_proj

    def forward(self, input_ids, attention_mask):
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return torch.nn.functional.normalize(self.projection(states[:, 0]), dim=-1)


class Multimodal(torch.nn.Module):
    """Text i and the states of image i -> `itm_logits` [B, 2] (no match, match), `multimodal_embeds` [B, width]."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.head = model.text_encoder, model.itm_head

    def forward(self, input_ids, attention_mask, encoder_hidden_states):
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask,
                              encoder_hidden_states=encoder_hidden_states).last_hidden_state[:, 0]
        return self.head(states), states


def export(model, folder):
    side, width = model.config.vision_config.image_size, model.config.text_config.encoder_hidden_size
    rows, words, patches = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}, {0: "batch_size", 1: "image_length"}
    batch, image = 2, 5
    ids = torch.arange(1, 9).reshape(batch, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    common.export(Vision(model), folder / "vision_model.onnx", {"pixel_values": (torch.randn(batch, 3, side, side), rows)},
                  {"last_hidden_state": rows, "image_embeds": rows})
    common.export(Text(model), folder / "text_model.onnx", {"input_ids": (ids, words), "attention_mask": (mask, words)},
                  {"text_embeds": rows})
    common.export(
        Multimodal(model), folder / "multimodal_encoder.onnx",
        {"input_ids": (ids, words), "attention_mask": (mask, words),
         "encoder_hidden_states": (torch.randn(batch, image, width), patches)},
        {"itm_logits": rows, "multimodal_embeds": rows})


def scores(folder, inputs):
    """Cosine of every image with every text, and the logits of image i with text i, by the graphs."""
    vision, text, multimodal = (common.session(folder / f"{name}.onnx")
                                for name in ("vision_model", "text_model", "multimodal_encoder"))
    seen, read = common.run(vision, inputs), common.run(text, inputs)
    both = common.run(multimodal, inputs | {"encoder_hidden_states": seen["last_hidden_state"]})
    return seen["image_embeds"] @ read["text_embeds"].T, both["itm_logits"]


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["blip"], BlipForImageTextRetrieval, BlipProcessor)
    graphs = common.output(output, model, processor)
    export(model, graphs)

    picture = common.picture()
    inputs = processor(images=[picture, picture.rotate(180)], text=TEXTS, padding=True, return_tensors="pt")
    expected = [model(**inputs, use_itm_head=head).itm_score.numpy() for head in (False, True)]
    found = scores(graphs, {name: value.numpy() for name, value in inputs.items()})
    for kind, one, other in zip(("cosines", "matching logits"), found, expected, strict=True):
        common.same_values(kind, one, other)
    print(f"done: {output}")


main()
