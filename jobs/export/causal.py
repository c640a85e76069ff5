"""What LLaVA, PaliGemma and SmolVLM have in common: a decoder-only language model that reads image features between its tokens.

    vision_encoder         pixel_values (and pixel_attention_mask) -> image_features
    embed_tokens           input_ids -> inputs_embeds
    decoder_model_merged   inputs_embeds, attention_mask, position_ids, past_key_values.{i}.{key,value}
                           -> logits, present.{i}.{key,value}

The features take the places of the image token, in order. The first step has a past of length 0.
"""

import numpy as np
import torch
from transformers import GenerationConfig

import common

STEPS = 16
PROMPTS = ["Describe this image.", "What is in the picture, and where? Answer with a short sentence."]


class Embedding(torch.nn.Module):
    """`input_ids` int64 [B, T] -> `inputs_embeds` [B, T, width]."""

    def __init__(self, model):
        super().__init__()
        self.table = model.get_input_embeddings()

    def forward(self, input_ids):
        return self.table(input_ids)


class Decoder(torch.nn.Module):
    """The language model with its past as flat arguments: key 0, value 0, key 1, ... and results likewise.

    With `prefix`, tokens of one step see each other: the prompt is read in both directions, then each step has one token.
    """

    def __init__(self, language_model, head, prefix=False):
        super().__init__()
        self.language_model, self.head, self.prefix = language_model, head, prefix

    def forward(self, inputs_embeds, attention_mask, position_ids, *past):
        # transformers builds this mask with functions that tracing cannot follow.
        places = torch.arange(attention_mask.shape[1])
        new = places[attention_mask.shape[1] - inputs_embeds.shape[1]:]
        before = places[None, None, :] <= (places[-1:] if self.prefix else new)[None, :, None] + 0 * new[None, :, None]
        seen = before & (attention_mask[:, None, :] > 0)
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
        outputs = self.language_model(inputs_embeds=inputs_embeds, attention_mask=mask, position_ids=position_ids,
                                      past_key_values=common.decoder_cache(past), use_cache=True)
        return self.head(outputs.last_hidden_state), *common.flatten(outputs.past_key_values)


def export_text(model, language_model, folder, prefix=False):
    """`embed_tokens` and `decoder_model_merged`."""
    text = language_model.config
    batch, new, past = 2, 3, 4
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rows, words = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}
    ids = torch.arange(batch * new).reshape(batch, new)
    common.export(Embedding(model), folder / "embed_tokens.onnx", {"input_ids": (ids, words)}, {"inputs_embeds": words})
    pasts = {name: (torch.randn(batch, text.num_key_value_heads, past, width), common.state_axes(name))
             for name in common.state_names("past_key_values", text.num_hidden_layers)}
    presents = {name: common.state_axes(name) for name in common.state_names("present", text.num_hidden_layers)}
    common.export(
        Decoder(language_model, model.get_output_embeddings(), prefix), folder / "decoder_model_merged.onnx",
        {"inputs_embeds": (torch.randn(batch, new, text.hidden_size), words),
         "attention_mask": (torch.ones(batch, past + new, dtype=torch.int64), rows | {1: "total_sequence_length"}),
         "position_ids": (torch.arange(past, past + new).repeat(batch, 1), words)} | pasts,
        {"logits": words} | presents)


def generate(folder, inputs, image_token):
    """Greedy tokens [B, STEPS] by the graphs, for the inputs of the processor as arrays."""
    vision, embed, decoder = (common.session(folder / f"{name}.onnx")
                              for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"))
    features = common.run(vision, inputs)["image_features"]
    embeds = common.run(embed, inputs)["inputs_embeds"]
    embeds[inputs["input_ids"] == image_token] = features.reshape(-1, features.shape[-1])
    mask, tokens = inputs["attention_mask"], []
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    cache = {value.name: np.zeros((len(mask), value.shape[1], 0, value.shape[3]), np.float32)
             for value in decoder.get_inputs() if value.name.startswith("past_key_values.")}
    for _ in range(STEPS):
        outputs = common.run(decoder, cache | {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions})
        tokens.append(outputs["logits"][:, -1].argmax(-1))
        cache = {name: outputs[name.replace("past_key_values", "present")] for name in cache}
        mask = np.concatenate([mask, np.ones_like(mask[:, :1])], 1)
        positions = positions[:, -1:] + 1
        embeds = common.run(embed, {"input_ids": tokens[-1][:, None]})["inputs_embeds"]
    return np.stack(tokens, 1)


def check(model, processor, folder):
    """Two prompts about one image, in the chat template."""
    check_texts(model, processor, folder, [processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}], add_generation_prompt=True)
        for prompt in PROMPTS])


def check_texts(model, processor, folder, texts):
    """Texts about one image, in one batch padded on the left: greedy tokens of PyTorch and of the graphs."""
    picture = common.picture()
    inputs = processor(images=[[picture]] * len(texts), text=texts, padding=True, padding_side="left", return_tensors="pt")
    model.generation_config = GenerationConfig(max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
    expected = model.generate(**inputs)[:, inputs.input_ids.shape[1]:].numpy()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    if "pixel_attention_mask" in arrays:
        arrays["pixel_attention_mask"] = arrays["pixel_attention_mask"].astype(bool)
    found = generate(folder, arrays, model.config.image_token_id)
    common.same_tokens(found, expected)
