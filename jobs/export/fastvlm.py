"""Export a FastVLM checkpoint: python jobs/export/fastvlm.py CHECKPOINT OUTPUT

CHECKPOINT is a folder that transformers 5 has saved, with model_type fast_vlm. OUTPUT gets
onnx/{vision_encoder,embed_tokens,decoder_model_merged}.onnx and the other files of CHECKPOINT. transformers 4.57, which the
graphs are traced with, has no class for FastVLM: it is put together from its parts, the image encoder of timm and Qwen2. The
graphs have to give their tokens before the command says that it is done.
"""

import json
import pathlib
import shutil

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

import causal
import common

LANGUAGE, TOWER, PROJECTOR = "model.language_model.", "model.vision_tower.timm_model.", "model.multi_modal_projector."


class VisionEncoder(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `image_features` [B, T, width], the projected places of the last map."""

    def __init__(self, config, width):
        super().__init__()
        vision = config["vision_config"]
        self.tower = timm.create_model(vision["architecture"], pretrained=False, num_classes=0, **(vision.get("model_args") or {}))
        self.linear_1 = torch.nn.Linear(vision["hidden_size"], width)
        self.linear_2 = torch.nn.Linear(width, width)

    def forward(self, pixel_values):
        places = self.tower.forward_features(pixel_values).flatten(2).permute(0, 2, 1)
        return self.linear_2(torch.nn.functional.gelu(self.linear_1(places)))


def part(weights, prefix):
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def language_model(config, weights):
    settings = {name: value for name, value in config["text_config"].items() if name not in ("dtype", "rope_parameters", "layer_types")}
    rope = config["text_config"].get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        common.fail(f"expected rotary embeddings of the default kind, found {rope['rope_type']}", "this exporter does not know others")
    model = Qwen2ForCausalLM._from_config(Qwen2Config(**settings, rope_theta=rope.get("rope_theta", 1e6)), attn_implementation="eager")
    found = {f"model.{name}": weight for name, weight in part(weights, LANGUAGE).items()} | part(weights, "lm_head.")
    head = weights.get("lm_head.weight", weights[f"{LANGUAGE}embed_tokens.weight"])
    found = {name: weight for name, weight in found.items() if name.startswith("model.")} | {"lm_head.weight": head}
    model.load_state_dict(found)
    return model.float().eval()


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    folder = pathlib.Path(checkpoint)
    if not (folder / "config.json").is_file():
        common.fail(f"expected a folder with config.json, found none at {checkpoint}", "name the folder that save_pretrained wrote")
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "fast_vlm":
        common.fail(f"expected a checkpoint of model type fast_vlm, found {config.get('model_type')} in {checkpoint}",
                    "save it with FastVlmForConditionalGeneration of transformers 5")
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    language = language_model(config, weights)
    vision = VisionEncoder(config, config["text_config"]["hidden_size"])
    vision.tower.load_state_dict(part(weights, TOWER))
    vision.load_state_dict(part(weights, PROJECTOR), strict=False)
    vision = vision.float().eval()
    graphs = output / "onnx"
    graphs.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, output / file.name)
    image = config.get("image_token_id", config.get("image_token_index"))
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    side = (processor.get("crop_size") or processor["size"])["height"]
    pixels = torch.rand(2, 3, side, side)
    common.export(vision, graphs / "vision_encoder.onnx", {"pixel_values": (pixels, {0: "batch_size"})},
                  {"image_features": {0: "batch_size"}})
    causal.export_text(language, language.model, graphs)
    features = vision(pixels)
    words = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Describe this image.").ids
    ids = torch.tensor([[image] * features.shape[1] + words] * 2)
    embeds = language.get_input_embeddings()(ids)
    embeds[ids == image] = features.flatten(0, 1)
    mask = torch.ones_like(ids)
    expected = language.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=causal.STEPS, min_new_tokens=causal.STEPS,
                                 do_sample=False, pad_token_id=0, eos_token_id=None)
    arrays = {"pixel_values": pixels.numpy(), "input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    common.same_tokens(causal.generate(graphs, arrays, image), np.asarray(expected))
    print(f"done: {output}")


main()
