"""Writes tests/fixtures/models/{dinov2,dinov3,ijepa,swin,resnet,minilm,nomic_vision,unicom,jina_clip,immich,fixed_clip,vit}/ and
tests/goldens/families/{dinov2,dinov3,ijepa,swin,resnet,minilm,nomic_vision,unicom,jina_clip,immich,fixed_clip,vit}.json.

Directories with one tower, or with two that are apart, in the layouts in which they are published: by optimum (dinov2, resnet, vit),
by TorchScript's exporter where optimum has none (dinov3, ijepa, swin),
by sentence-transformers (minilm), by their authors (nomic_vision, jina_clip), by fastembed (unicom: one output, no
config.json), and by Immich (immich: a batch of one, int32 tokens).
fixed_clip is a CLIP whose graph has a batch of two and texts of one length. The weights are random.

    python tests/goldens/families/towers.py       # needs torch, transformers 4.57.6, optimum-onnx 0.1.0, onnxruntime, pillow
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
from optimum.exporters.onnx import main_export
from transformers import (BertConfig, BertModel, BitImageProcessor, CLIPImageProcessor, Dinov2Config, Dinov2Model,
                          DINOv3ViTConfig, DINOv3ViTModel, IJepaConfig, IJepaModel, PreTrainedTokenizerFast, ResNetConfig,
                          ResNetModel, SwinConfig, SwinModel, ViTConfig, ViTImageProcessor, ViTModel)

import clip as clip_family
import common
import embedders

SIDE = clip_family.SIDE
LAYERS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
UNIT = torch.nn.functional.normalize


def graph(module, path, inputs, outputs, dynamic=True):
    """Writes a graph as TorchScript's exporter does; every axis is a number unless `dynamic`."""
    axes = {name: {0: "batch_size"} | ({1: "sequence_length"} if value.dim() == 2 else {}) for name, value in inputs.items()}
    axes |= {name: {0: "batch_size"} for name in outputs}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(module.eval(), tuple(inputs.values()), path, dynamo=False, opset_version=17, input_names=list(inputs),
                      output_names=list(outputs), dynamic_axes=axes if dynamic else None)


def by_optimum(model, processor, folder, **options):
    """What `optimum-cli export onnx --task feature-extraction` writes."""
    common.emptied(folder)
    with tempfile.TemporaryDirectory() as work:
        model.save_pretrained(work)
        processor.save_pretrained(work)
        main_export(work, str(folder), task="feature-extraction", do_validation=False, **options)


def golden(name, processor, vectors):
    """The golden file of an image encoder; `vectors` are those of all photographs."""
    pixels = [processor(picture, return_tensors="pt").pixel_values for picture in common.photos()]
    vectors = UNIT(torch.cat([vectors(each).flatten(1) for each in pixels]), dim=-1)
    common.apart(name, vectors)
    common.write(name, {"pixels": common.probes([each[0] for each in pixels]), "texts": embedders.TEXTS,
                        "image_embeddings": vectors.tolist()})


def save_tokenizer(fast, folder):
    """The files of a tokenizer that are read."""
    with tempfile.TemporaryDirectory() as work:
        fast.save_pretrained(work)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(pathlib.Path(work, name), folder)


def folder_of(name):
    return common.MODELS / name


def dinov2():
    """The class token behind the last normalization, which transformers calls pooler_output; optimum writes states only."""
    model = common.reinitialise(Dinov2Model(Dinov2Config(image_size=SIDE, patch_size=8, mlp_ratio=2, **LAYERS)), 5)
    processor = BitImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    by_optimum(model, processor, folder_of("dinov2"))
    golden("dinov2", processor, lambda pixels: model(pixels).pooler_output)


def resnet():
    """The mean over all places, `[batch, width, 1, 1]`."""
    model = common.reinitialise(ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1],
                                                         layer_type="basic")), 15)
    processor = BitImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    by_optimum(model, processor, folder_of("resnet"))
    golden("resnet", processor, lambda pixels: model(pixels).pooler_output)


def vit():
    """The class token (chosen in nightcap.toml by the test: a pooler and states could both be meant)."""
    model = common.reinitialise(ViTModel(ViTConfig(image_size=SIDE, patch_size=8, **LAYERS)), 7)
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    by_optimum(model, processor, folder_of("vit"))
    golden("vit", processor, lambda pixels: model(pixels).last_hidden_state[:, 0])


class States(torch.nn.Module):
    """`pixel_values` -> `last_hidden_state`"""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values).last_hidden_state


class Pooled(torch.nn.Module):
    """`pixel_values` -> `last_hidden_state`, `pooler_output`"""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        made = self.model(pixel_values)
        return made.last_hidden_state, made.pooler_output


def by_exporter(name, model, pooled, vectors):
    """`pixel_values` -> states, and the pooler's output if it is `pooled`."""
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    folder = folder_of(name)
    common.emptied(folder)
    outputs = ["last_hidden_state", "pooler_output"][:1 + pooled]
    graph((Pooled if pooled else States)(model), folder / "model.onnx", {"pixel_values": torch.randn(2, 3, SIDE, SIDE)}, outputs)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    golden(name, processor, vectors)


def dinov3():
    """The normalized class token; four registers follow it, and positions are rotary."""
    config = DINOv3ViTConfig(image_size=SIDE, patch_size=8, num_register_tokens=4, **LAYERS)
    model = common.reinitialise(DINOv3ViTModel(config), 21)
    by_exporter("dinov3", model, True, lambda pixels: model(pixels).pooler_output)


def ijepa():
    """The mean of all patches: there is no class token."""
    model = common.reinitialise(IJepaModel(IJepaConfig(image_size=SIDE, patch_size=8, **LAYERS), add_pooling_layer=False), 22)
    by_exporter("ijepa", model, False, lambda pixels: model(pixels).last_hidden_state.mean(1))


def swin():
    """The mean of all patches of the last stage."""
    config = SwinConfig(image_size=SIDE, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4)
    model = common.reinitialise(SwinModel(config), 23)
    by_exporter("swin", model, True, lambda pixels: model(pixels).pooler_output)


class Unicom(torch.nn.Module):
    """The network of deepglint/unicom: a ViT without a class token, whose patches all go into one vector."""

    def __init__(self, dim=24, width=20, patch=8):
        super().__init__()
        places = (SIDE // patch)**2
        self.patch_embed = torch.nn.Conv2d(3, dim, patch, patch)
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, places, dim))
        block = torch.nn.TransformerEncoderLayer(dim, 2, 40, 0.0, "relu", batch_first=True, norm_first=True)
        self.blocks, self.norm = torch.nn.TransformerEncoder(block, 2, enable_nested_tensor=False), torch.nn.LayerNorm(dim)
        self.feature = torch.nn.Sequential(
            torch.nn.Linear(dim * places, dim, False), torch.nn.BatchNorm1d(dim, eps=2e-5),
            torch.nn.Linear(dim, width, False), torch.nn.BatchNorm1d(width, eps=2e-5))

    def forward(self, pixels):
        states = self.patch_embed(pixels).flatten(2).transpose(1, 2) + self.pos_embed
        return self.feature(self.norm(self.blocks(states)).flatten(1))


def unicom():
    """The only output; the settings of the image processor name no family."""
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that is not exported
    model = common.reinitialise(Unicom(), 9)
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    folder = folder_of("unicom")
    common.emptied(folder)
    graph(model, folder / "model.onnx", {"input": torch.randn(2, 3, SIDE, SIDE)}, ["output"])
    processor.save_pretrained(folder)
    golden("unicom", processor, model)


def nomic_vision():
    """nomic-embed-vision: states only, in `onnx/`; its card takes the class token."""
    model = common.reinitialise(Dinov2Model(Dinov2Config(image_size=SIDE, patch_size=8, mlp_ratio=2, **LAYERS)), 8)
    processor = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    folder = folder_of("nomic_vision")
    common.emptied(folder)
    graph(States(model), folder / "onnx/model.onnx", {"pixel_values": torch.randn(2, 3, SIDE, SIDE)}, ["last_hidden_state"])
    processor.save_pretrained(folder)
    config = {"architectures": ["NomicVisionModel"], "model_type": "nomic_bert", "n_embd": 24, "img_size": SIDE, "patch_size": 8,
              "use_pos_emb": True}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    golden("nomic_vision", processor, lambda pixels: model(pixels).last_hidden_state[:, 0])


def minilm():
    """A sentence-transformers directory: states, with the pooling in 1_Pooling/config.json."""
    fast = PreTrainedTokenizerFast(tokenizer_object=common.word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
                                   pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                                   mask_token="[MASK]", model_max_length=64, model_input_names=["input_ids", "token_type_ids",
                                                                                              "attention_mask"])
    model = common.reinitialise(BertModel(BertConfig(vocab_size=len(fast), max_position_embeddings=64, **LAYERS)), 9)
    folder = folder_of("minilm")
    by_optimum(model, fast, folder, library_name="transformers")
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx/model.onnx")
    (folder / "1_Pooling").mkdir()
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(
        [{"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
         for name, path, kind in modules], indent=2))
    (folder / "1_Pooling/config.json").write_text(json.dumps(
        {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
         "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}, indent=2))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}, indent=2))
    rows = fast(embedders.TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    states, mask = model(**rows).last_hidden_state, rows.attention_mask[:, :, None]
    vectors = UNIT((states * mask).sum(1) / mask.sum(1), dim=-1)
    common.apart("minilm", vectors)
    common.write("minilm", {"texts": embedders.TEXTS, "text_embeddings": vectors.tolist()})


class Towers(torch.nn.Module):
    """Both towers of CLIP, with the outputs of jina-clip-v2."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, input_ids, pixel_values):
        texts = self.clip.get_text_features(input_ids=input_ids)
        images = self.clip.get_image_features(pixel_values=pixel_values)
        return texts, images, UNIT(texts, dim=-1), UNIT(images, dim=-1)


class Tower(torch.nn.Module):
    """One tower with a name of its own for the input; its tokens are int32."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, given):
        if given.is_floating_point():
            return UNIT(self.clip.get_image_features(pixel_values=given), dim=-1)
        return UNIT(self.clip.get_text_features(input_ids=given.long()), dim=-1)


def both(name, clip, fast, processor):
    """The golden file of a CLIP."""
    pixels = [processor(picture, return_tensors="pt").pixel_values for picture in common.photos()]
    ids = [fast(text, truncation=True, return_tensors="pt").input_ids for text in embedders.TEXTS]
    images = UNIT(torch.cat([clip.get_image_features(pixel_values=each) for each in pixels]), dim=-1)
    texts = UNIT(torch.cat([clip.get_text_features(input_ids=each) for each in ids]), dim=-1)
    common.write(name, {"pixels": common.probes([each[0] for each in pixels]), "texts": embedders.TEXTS,
                        "image_embeddings": images.tolist(), "text_embeddings": texts.tolist()})


def clips():
    fast = clip_family.tokenizer()
    clip = clip_family.model(fast)
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    pixels = torch.randn(2, 3, SIDE, SIDE)
    ids = torch.randint(clip.config.text_config.vocab_size, (2, clip_family.CONTEXT))
    outputs = ["text_embeddings", "image_embeddings", "l2norm_text_embeddings", "l2norm_image_embeddings"]
    for name, dynamic in [("jina_clip", True), ("fixed_clip", False)]:
        folder = folder_of(name)
        common.emptied(folder)
        graph(Towers(clip), folder / "onnx/model.onnx", {"input_ids": ids, "pixel_values": pixels}, outputs, dynamic)
        save_tokenizer(fast, folder)
        processor.save_pretrained(folder)
        config = {"architectures": ["JinaCLIPModel"], "model_type": "jina_clip", "projection_dim": 24}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        both(name, clip, fast, processor)
    immich(clip, fast, processor)


def immich(clip, fast, processor):
    """The folders that Immich publishes."""
    folder = folder_of("immich")
    common.emptied(folder)
    graph(Tower(clip), folder / "visual/model.onnx",
          {"image": torch.randn(1, 3, SIDE, SIDE)}, ["embedding"], dynamic=False)
    ids = torch.randint(clip.config.text_config.vocab_size, (1, clip_family.CONTEXT), dtype=torch.int32)
    graph(Tower(clip), folder / "textual/model.onnx", {"text": ids}, ["embedding"],
          dynamic=False)
    save_tokenizer(fast, folder / "textual")
    (folder / "visual/preprocess_cfg.json").write_text(json.dumps(
        {"size": [SIDE, SIDE], "mode": "RGB", "mean": processor.image_mean, "std": processor.image_std,
         "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}, indent=2))
    config = {"embed_dim": 24, "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "patch_size": 8},
              "text_cfg": {"context_length": clip_family.CONTEXT, "vocab_size": len(fast), "width": 32, "heads": 2, "layers": 1}}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    both("immich", clip, fast, processor)


@torch.no_grad()
def main():
    for make in (dinov2, dinov3, ijepa, swin, resnet, vit, nomic_vision, unicom, minilm, clips):
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            make()


if __name__ == "__main__":
    main()
