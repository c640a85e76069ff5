"""Export a GIT captioner: python jobs/export/git_caption.py CHECKPOINT OUTPUT

CHECKPOINT is a folder or a name on the Hugging Face hub with the architecture GitForCausalLM, such as
microsoft/git-base-coco. OUTPUT gets onnx/{encoder_model,decoder_model,decoder_with_past_model}.onnx and the files of the
processor. The graphs have to give PyTorch's tokens before the command says that it is done.
"""

import numpy as np
import torch
from transformers import GitForCausalLM, GitProcessor

import checkpoints
import common

STEPS = 16


class Encoder(torch.nn.Module):
    """`pixel_values` [B, 3, H, W] -> `last_hidden_state` [B, I, width], image tokens as the decoder reads them."""

    def __init__(self, model):
        super().__init__()
        self.tower, self.projection = model.git.image_encoder, model.git.visual_projection

    def forward(self, pixel_values):
        return self.projection(self.tower(pixel_values).last_hidden_state)


class Decoder(torch.nn.Module):
    """The first tokens and the image -> `logits` [B, T, vocabulary] of the tokens, and states of the image and the tokens.

    transformers' own forward computes the image tokens' states again at every step and caches those of the text only.
    """

    def __init__(self, model):
        super().__init__()
        self.git, self.head = model.git, model.output

    def forward(self, input_ids, encoder_hidden_states):
        tokens = self.git.embeddings(input_ids=input_ids)
        image, text = encoder_hidden_states.shape[1], input_ids.shape[1]
        places = torch.arange(image + text)
        seen = (places[None, :] < image) | (places[None, :] <= places[:, None])
        logits, *states = self.step(torch.cat([encoder_hidden_states, tokens], 1), seen, [])
        return logits[:, image:], *states

    def step(self, embeddings, seen, past):
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
        outputs = self.git.encoder(embeddings, attention_mask=mask, past_key_values=common.decoder_cache(past), use_cache=True)
        return self.head(outputs.last_hidden_state), *common.flatten(outputs.past_key_values)


class DecoderWithPast(Decoder):
    """More tokens and all states -> `logits` and all states. The number of image tokens is a constant of the graph."""

    def __init__(self, model):
        super().__init__(model)
        self.image = model.git.encoder.layer[0].attention.self.image_patch_tokens

    def forward(self, input_ids, *past):
        places = torch.arange(past[0].shape[2] + input_ids.shape[1])
        new = places[past[0].shape[2]:]
        tokens = self.git.embeddings(input_ids=input_ids, position_ids=(new - self.image)[None])
        return self.step(tokens, places[None, :] <= new[:, None], past)


def export(model, folder):
    config, side = model.config, model.config.vision_config.image_size
    batch, new = 2, 3
    image = model.git.encoder.layer[0].attention.self.image_patch_tokens
    rows, words = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}
    common.export(Encoder(model), folder / "encoder_model.onnx", {"pixel_values": (torch.randn(batch, 3, side, side), rows)},
                  {"last_hidden_state": rows})
    ids = torch.arange(batch * new).reshape(batch, new)
    presents = {name: common.state_axes(name) for name in common.state_names("present", config.num_hidden_layers)}
    common.export(Decoder(model), folder / "decoder_model.onnx",
                  {"input_ids": (ids, words), "encoder_hidden_states": (torch.randn(batch, image, config.hidden_size), rows)},
                  {"logits": words} | presents)
    past = torch.randn(batch, config.num_attention_heads, image + 4, config.hidden_size // config.num_attention_heads)
    pasts = {name: (past, common.state_axes(name))
             for name in common.state_names("past_key_values", config.num_hidden_layers)}
    common.export(DecoderWithPast(model), folder / "decoder_with_past_model.onnx", {"input_ids": (ids, words)} | pasts,
                  {"logits": words} | presents)


def generate(folder, pixels, start, end):
    """Greedy tokens [B, STEPS] by the graphs, the end token never among them."""
    encoder, decoder, step = (common.session(folder / f"{name}.onnx")
                              for name in ("encoder_model", "decoder_model", "decoder_with_past_model"))
    image = common.run(encoder, {"pixel_values": pixels})["last_hidden_state"]
    tokens = np.full((len(pixels), 1), start)
    outputs = common.run(decoder, {"input_ids": tokens, "encoder_hidden_states": image})
    for _ in range(STEPS):
        outputs["logits"][..., end] = -np.inf
        tokens = np.concatenate([tokens, outputs["logits"][:, -1:].argmax(-1)], 1)
        states = {name.replace("present", "past_key_values"): value for name, value in outputs.items() if name != "logits"}
        outputs = common.run(step, states | {"input_ids": tokens[:, -1:]})
    return tokens[:, 1:]


@torch.no_grad()
def main():
    checkpoint, output = common.arguments(__doc__)
    model, processor = checkpoints.load(checkpoint, ["git"], GitForCausalLM, GitProcessor)
    if model.config.num_image_with_embedding is not None:
        common.fail(f"expected a GIT of single images, found one of {model.config.num_image_with_embedding} frames",
                    "take a checkpoint that was not trained on videos")
    settings = model.generation_config
    settings.decoder_start_token_id = settings.bos_token_id
    graphs = common.output(output, model, processor)
    export(model, graphs)

    pixels = processor.image_processor(common.picture(), return_tensors="pt").pixel_values
    pixels = torch.cat([pixels, pixels.flip(-1)])
    expected = model.generate(pixel_values=pixels, min_new_tokens=STEPS, max_new_tokens=STEPS, do_sample=False, num_beams=1)
    common.same_tokens(generate(graphs, pixels.numpy(), settings.bos_token_id, settings.eos_token_id), expected[:, 1:].numpy())
    print(f"done: {output}")


main()
