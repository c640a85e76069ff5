"""Writes tests/fixtures/models/siglip2/ and tests/goldens/families/siglip2.json.

A tiny SigLIP 2 of one image size with fixed random weights, as transformers.js repositories publish it: two graphs in `onnx/`, each with
`last_hidden_state` and `pooler_output`, a tokenizer of Gemma's kind, and a config.json of model_type siglip without the values that are
defaults of its classes, the 64 positions of a text among them.

    python tests/goldens/families/siglip2.py       # needs torch, transformers 4.57.6, onnxruntime, pillow
"""

import json
import pathlib
import shutil
import tempfile

import torch
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

import common
import embedders
import paligemma

SIDE, WIDTH = 32, 32


class Tower(torch.nn.Module):
    """`last_hidden_state` and `pooler_output` of one tower."""

    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def forward(self, given):
        made = self.tower(given)
        return made.last_hidden_state, made.pooler_output


def tokenizer():
    """SigLIP 2's: Gemma's, with the end token behind a text and none before it."""
    fast = paligemma.tokenizer()
    fast.add_bos_token, fast.add_eos_token = False, True
    fast.model_max_length = 64
    fast.padding_side = "right"
    fast.model_input_names = ["input_ids"]
    return fast


def export(siglip, processor, folder):
    common.emptied(folder)
    (folder / "onnx").mkdir()
    given = {"vision_model": torch.randn(2, 3, SIDE, SIDE), "text_model": torch.randint(len(processor.tokenizer), (2, 64))}
    for name, input_name in (("vision_model", "pixel_values"), ("text_model", "input_ids")):
        axes = {each: {0: "batch_size"} for each in (input_name, "last_hidden_state", "pooler_output")}
        if name == "text_model":
            axes[input_name][1] = axes["last_hidden_state"][1] = "sequence_length"
        torch.onnx.export(Tower(getattr(siglip, name)).eval(), (given[name],), folder / f"onnx/{name}.onnx", dynamo=False,
                          opset_version=17, input_names=[input_name], output_names=["last_hidden_state", "pooler_output"],
                          dynamic_axes=axes)
    with tempfile.TemporaryDirectory() as work:
        siglip.config.save_pretrained(work)
        processor.save_pretrained(work)
        for name in embedders.METADATA:
            shutil.copy(pathlib.Path(work, name), folder)
    # published files are without it
    path = folder / "config.json"
    content = json.loads(path.read_text())
    assert content["text_config"].pop("max_position_embeddings") == 64
    path.write_text(json.dumps(content, indent=2) + "\n")
    # it is saved only if it was given; Gemma's tokenizer pads on the left without it
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"padding_side": "right"}, indent=2, ensure_ascii=False) + "\n")


@torch.no_grad()
def main():
    fast = tokenizer()
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = SiglipConfig(text_config=layers | {"vocab_size": len(fast), "projection_size": WIDTH},
                          vision_config=layers | {"image_size": SIDE, "patch_size": 8})
    siglip = common.reinitialise(SiglipModel(config), 4)
    processor = SiglipProcessor(SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), fast)
    folder = common.MODELS / "siglip2"
    export(siglip, processor, folder)
    pictures = common.photos()
    given = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    rows = [processor(images=picture, text=text, **given) for picture, text in zip(pictures, embedders.TEXTS)]
    assert all(row.input_ids.shape == (1, 64) for row in rows)
    images = embedders.unit(torch.cat([siglip.get_image_features(pixel_values=row.pixel_values) for row in rows]).numpy())
    texts = embedders.unit(torch.cat([siglip.get_text_features(input_ids=row.input_ids) for row in rows]).numpy())
    for kind, vectors in (("images", images), ("texts", texts)):
        common.apart(kind, torch.tensor(vectors))
    common.write("siglip2", {"pixels": common.probes([row.pixel_values[0] for row in rows]), "texts": embedders.TEXTS,
                             "image_embeddings": images.tolist(), "text_embeddings": texts.tolist()})


if __name__ == "__main__":
    main()
