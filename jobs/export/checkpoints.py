"""A checkpoint of a model and its processor, ready to be traced."""

import torch
from transformers import AutoConfig, AutoImageProcessor

import common


def load(name, kinds, architecture, processing):
    """Model and processor of the checkpoint `name`, a folder or a name on the hub, whose `model_type` is one of `kinds`.

    transformers itself takes any checkpoint and gives random values to the weights that it does not find.
    """
    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except OSError as error:
        common.fail(f"expected a folder with config.json or a name on the hub, found neither at {name}: {error}",
                    "name the folder that save_pretrained wrote, or let this machine reach the hub")
    if kind not in kinds:
        common.fail(f"expected a checkpoint of model type {' or '.join(kinds)}, found {kind} in {name}",
                    "name a checkpoint of this family, or take the exporter of the other family")
    # The other implementations of attention have branches that tracing decides once and for all.
    model, found = architecture.from_pretrained(name, dtype=torch.float32, attn_implementation="eager",
                                                output_loading_info=True)
    missing = sorted(found["missing_keys"])
    if missing:
        common.fail(f"expected every weight of {type(model).__name__} in {name}, found {len(missing)} missing: {missing[:3]}",
                    "name a checkpoint in transformers' own format, not in that of the model's authors")
    processor = processing.from_pretrained(name)
    # The processors on top of torchvision resize with other rounding.
    processor.image_processor = AutoImageProcessor.from_pretrained(name, use_fast=False)
    return model.eval(), processor
