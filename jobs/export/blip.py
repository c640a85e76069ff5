"""Export a BLIP captioner: python jobs/export/blip.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with the architecture BlipForConditionalGeneration, such as
Salesforce/blip-image-captioning-base. OUTPUT gets onnx/{encoder_model,decoder_model,decoder_with_past_model}.onnx and the
files of the processor. The graphs have to give PyTorch's tokens before the command says that it is done.
"""

import numpy as np
import torch
from transformers import BlipForConditionalGeneration, BlipProcessor

import checkpoints
import common

STEPS = 16


class Encoder(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `last_hidden_state` [B, patches + 1, width]."""

    def __init__(self, model):
        super().__init__()
        self.tower = model.vision_model

    def forward(self, pixel_values):
        return self.tower(pixel_values=pixel_values).last_hidden_state


class Decoder(torch.nn.Module):
    """Tokens, a mask over them and the image -> `logits` [B, T, vocabulary] and all states."""

    def __init__(self, model):
        super().__init__()
        self.decoder = model.text_decoder

    def forward(self, input_ids, attention_mask, encoder_hidden_states):
        return self.step(input_ids, attention_mask, encoder_hidden_states, [])

    def step(self, input_ids, attention_mask, encoder_hidden_states, past):
        outputs = self.decoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=encoder_hidden_states,
            past_key_values=common.encoder_decoder_cache(past), use_cache=True)
        return outputs.logits, *common.flatten(outputs.past_key_values)


class DecoderWithPast(Decoder):
    """More tokens, a mask over all tokens, and all states -> `logits` and the states of the tokens."""

    def forward(self, input_ids, attention_mask, *past):
        # The image is in the states; only the shape of its tokens is used.
        image = past[2].new_zeros(()).expand(past[2].shape[0], past[2].shape[2], self.decoder.config.encoder_hidden_size)
        logits, *states = self.step(input_ids, attention_mask, image, past)
        return logits, *(state for place, state in enumerate(states) if place % 4 < 2)


def export(model, folder):
    text, side = model.config.text_config, model.config.vision_config.image_size
    batch, new, past, image = 2, 3, 4, 5
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    rows, words = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}
    patches = rows | {1: "encoder_sequence_length"}
    common.export(Encoder(model), folder / "encoder_model.onnx", {"pixel_values": (torch.randn(batch, 3, side, side), rows)},
                  {"last_hidden_state": patches})
    ids = torch.arange(batch * new).reshape(batch, new)
    presents = {name: common.state_axes(name) for name in common.state_names("present", layers, cross=True)}
    common.export(
        Decoder(model), folder / "decoder_model.onnx",
        {"input_ids": (ids, words), "attention_mask": (torch.ones_like(ids), words),
         "encoder_hidden_states": (torch.randn(batch, image, text.encoder_hidden_size), patches)},
        {"logits": words} | {name: axes if ".encoder." in name else rows | {2: "sequence_length"}
                             for name, axes in presents.items()})
    pasts = {name: (torch.randn(batch, heads, image if ".encoder." in name else past, text.hidden_size // heads),
                    common.state_axes(name)) for name in common.state_names("past_key_values", layers, cross=True)}
    common.export(
        DecoderWithPast(model), folder / "decoder_with_past_model.onnx",
        {"input_ids": (ids, words),
         "attention_mask": (torch.ones(batch, past + new, dtype=torch.int64), rows | {1: "total_sequence_length"})} | pasts,
        {"logits": words} | {name: axes for name, axes in presents.items() if ".decoder." in name})


def generate(folder, pixels, start, end):
    """Greedy tokens [B, STEPS] by the graphs, the end token never among them."""
    encoder, decoder, step = (common.session(folder / f"{name}.onnx")
                              for name in ("encoder_model", "decoder_model", "decoder_with_past_model"))
    image = common.run(encoder, {"pixel_values": pixels})["last_hidden_state"]
    tokens = np.full((len(pixels), 1), start)
    outputs = common.run(decoder, {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "encoder_hidden_states": image})
    states = {}
    for _ in range(STEPS):
        outputs["logits"][..., end] = -np.inf
        tokens = np.concatenate([tokens, outputs["logits"][:, -1:].argmax(-1)], 1)
        states |= {name.replace("present", "past_key_values"): value for name, value in outputs.items() if name != "logits"}
        outputs = common.run(step, states | {"input_ids": tokens[:, -1:], "attention_mask": np.ones_like(tokens)})
    return tokens[:, 1:]


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["blip"], BlipForConditionalGeneration, BlipProcessor)
    # BlipForConditionalGeneration.generate uses these start and end tokens, whatever generation_config.json says.
    text = model.config.text_config
    model.generation_config = model.text_decoder.generation_config
    model.generation_config.update(decoder_start_token_id=text.bos_token_id, eos_token_id=text.sep_token_id,
                                   pad_token_id=text.pad_token_id)
    graphs = common.output(output, model, processor)
    export(model, graphs)

    pixels = processor.image_processor(common.picture(), return_tensors="pt").pixel_values
    pixels = torch.cat([pixels, pixels.flip(-1)])
    expected = model.generate(pixels, min_new_tokens=STEPS, max_new_tokens=STEPS, do_sample=False, num_beams=1)[:, 1:]
    common.same_tokens(generate(graphs, pixels.numpy(), text.bos_token_id, text.sep_token_id), expected.numpy())
    print(f"done: {output}")


main()
