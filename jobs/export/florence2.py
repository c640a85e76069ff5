"""Export a Florence-2 checkpoint: python jobs/export/florence2.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with the architecture Florence2ForConditionalGeneration, such as
florence-community/Florence-2-base. OUTPUT gets onnx/{vision_encoder,embed_tokens,encoder_model,decoder_model_merged}.onnx and
the files of the processor. The graphs have to give PyTorch's tokens before the command says that it is done.
"""

import pathlib
import tempfile

import numpy as np
import torch
from optimum.onnx import merge_decoders
from transformers import Florence2ForConditionalGeneration, Florence2Processor, GenerationConfig

import causal
import checkpoints
import common

STEPS = 16
PROMPTS = ["<CAPTION>", "<MORE_DETAILED_CAPTION>"]


class VisionEncoder(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `image_features` [B, T, width]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model.get_image_features(pixel_values)


class Encoder(torch.nn.Module):
    """Embeddings of image and prompt, and their mask -> `last_hidden_state` [B, T, width]."""

    def __init__(self, model):
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, inputs_embeds, attention_mask):
        return self.encoder(inputs_embeds=inputs_embeds, attention_mask=attention_mask).last_hidden_state


class Decoder(torch.nn.Module):
    """Embeddings of tokens, and the encoder output -> `logits` [B, T, vocabulary] and all states."""

    def __init__(self, model):
        super().__init__()
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()

    def forward(self, inputs_embeds, encoder_attention_mask, encoder_hidden_states):
        return self.step(inputs_embeds, encoder_attention_mask, encoder_hidden_states, [])

    def step(self, inputs_embeds, encoder_attention_mask, encoder_hidden_states, past):
        outputs = self.decoder(
            inputs_embeds=inputs_embeds, encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask, past_key_values=common.encoder_decoder_cache(past), use_cache=True)
        return self.head(outputs.last_hidden_state), *common.flatten(outputs.past_key_values)


class DecoderWithPast(Decoder):
    """The embedding of one more token, the encoder's mask and all states -> `logits` and the states of the tokens."""

    def forward(self, inputs_embeds, encoder_attention_mask, *past):
        # The encoder output is in the states; only its shape is used.
        encoded = past[2].new_zeros(()).expand(past[2].shape[0], past[2].shape[2], inputs_embeds.shape[2])
        logits, *states = self.step(inputs_embeds, encoder_attention_mask, encoded, past)
        return logits, *(state for place, state in enumerate(states) if place % 4 < 2)


def export(model, folder):
    text = model.config.text_config
    batch, new, past, length = 2, 3, 4, 5
    layers, heads, width = text.decoder_layers, text.decoder_attention_heads, text.d_model
    rows, words = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}
    encoded = rows | {1: "encoder_sequence_length"}
    embeds, mask = torch.randn(batch, length, width), torch.ones(batch, length, dtype=torch.int64)
    common.export(causal.Embedding(model), folder / "embed_tokens.onnx",
                  {"input_ids": (torch.arange(batch * new).reshape(batch, new), words)}, {"inputs_embeds": words})
    common.export(Encoder(model), folder / "encoder_model.onnx",
                  {"inputs_embeds": (embeds, encoded), "attention_mask": (mask, encoded)}, {"last_hidden_state": encoded})
    presents = {name: common.state_axes(name) for name in common.state_names("present", layers, cross=True)}
    pasts = {name: (torch.randn(batch, heads, length if ".encoder." in name else past, width // heads), common.state_axes(name))
             for name in common.state_names("past_key_values", layers, cross=True)}
    with tempfile.TemporaryDirectory() as work:
        first, later = pathlib.Path(work, "decoder_model.onnx"), pathlib.Path(work, "decoder_with_past_model.onnx")
        common.export(
            Decoder(model), first,
            {"inputs_embeds": (torch.randn(batch, new, width), words), "encoder_attention_mask": (mask, encoded),
             "encoder_hidden_states": (embeds, encoded)},
            {"logits": words} | presents)
        common.export(
            DecoderWithPast(model), later,
            {"inputs_embeds": (torch.randn(batch, 1, width), rows), "encoder_attention_mask": (mask, encoded)} | pasts,
            {"logits": rows} | {name: axes for name, axes in presents.items() if ".decoder." in name})
        # Only the prefill returns the states of the encoder; later steps return empty ones.
        merge_decoders(first, later, save_path=folder / "decoder_model_merged.onnx", strict=False)


def generate(folder, inputs, image_token, start):
    """Greedy tokens [B, STEPS] by the graphs, for the inputs of the processor as arrays."""
    vision, embed, encoder, decoder = (common.session(folder / f"{name}.onnx") for name in (
        "vision_encoder", "embed_tokens", "encoder_model", "decoder_model_merged"))
    features = common.run(vision, inputs)["image_features"]
    embeds = common.run(embed, inputs)["inputs_embeds"]
    embeds[inputs["input_ids"] == image_token] = features.reshape(-1, features.shape[-1])
    mask = inputs["attention_mask"]
    encoded = common.run(encoder, {"inputs_embeds": embeds, "attention_mask": mask})["last_hidden_state"]
    states = {value.name: np.zeros((len(mask), value.shape[1], 0, value.shape[3]), np.float32)
              for value in decoder.get_inputs() if value.name.startswith("past_key_values.")}
    tokens = [np.full(len(mask), start)]
    for step in range(STEPS):
        embeds = common.run(embed, {"input_ids": tokens[-1][:, None]})["inputs_embeds"]
        outputs = common.run(decoder, states | {
            "inputs_embeds": embeds, "encoder_attention_mask": mask, "encoder_hidden_states": encoded,
            "use_cache_branch": np.array([step > 0])})
        tokens.append(outputs["logits"][:, -1].argmax(-1))
        states = {name: outputs[name.replace("past_key_values", "present")] if step == 0 or ".decoder." in name else state
                  for name, state in states.items()}
    return np.stack(tokens[1:], 1)


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["florence2"], Florence2ForConditionalGeneration, Florence2Processor)
    graphs = common.output(output, model, processor)

    # Two prompts about one image, in one batch padded on the right.
    inputs = processor(images=[common.picture()] * len(PROMPTS), text=PROMPTS, padding=True, return_tensors="pt")
    common.export(VisionEncoder(model), graphs / "vision_encoder.onnx",
                  {"pixel_values": (inputs.pixel_values, {0: "batch_size"})}, {"image_features": {0: "batch_size"}})
    export(model, graphs)
    start = model.generation_config.decoder_start_token_id
    model.generation_config = GenerationConfig(max_new_tokens=STEPS, do_sample=False, decoder_start_token_id=start,
                                               pad_token_id=model.generation_config.pad_token_id)
    expected = model.generate(**inputs)[:, 1:].numpy()
    found = generate(graphs, {name: value.numpy() for name, value in inputs.items()}, model.config.image_token_id, start)
    common.same_tokens(found, expected)
    print(f"done: {output}")


main()
