"""Export a checkpoint: python export.py --checkpoint DIR/best.pt --output MODEL [--dev DEV.parquet]

Writes the four graphs (int8 weights, fp32 arithmetic), the tokenizer and the configuration files. With --dev it first
checks that the graphs before compression agree with PyTorch on logits (1e-4) and on the greedy captions.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from tokenizers import Tokenizer

import backbone
import compress
import data
import features
import model as network
import train

OPSET = 17
FILES = ("vision_model", "text_model", "fusion", "decoder_with_past_model")


class DecoderGraph(torch.nn.Module):
    """The decoder with its past as flat arguments key 0, value 0, key 1, ... and results likewise."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, ids, memory, *flat):
        logits, presents = self.decoder(ids, memory, list(zip(flat[::2], flat[1::2])))
        return (logits, *(part for present in presents for part in present))


def load(checkpoint):
    """The checkpoint's model in eval mode, its tokenizer and the size of the decoder's vocabulary."""
    saved = torch.load(checkpoint, weights_only=True)
    captioner = network.pretrained(saved["order"], saved["decoder_vocab"])
    unknown = captioner.load_state_dict(saved["model"], strict=False).unexpected_keys
    if unknown:
        raise SystemExit(f"error: {checkpoint} has weights that this recipe does not know: {unknown[:3]}")
    return captioner.eval(), Tokenizer.from_str(saved["tokenizer"]), saved["decoder_vocab"]


def export_graphs(captioner, directory):
    """Write the four fp32 graphs."""
    batch, text, past = 2, 5, 3
    states = torch.randn(batch, network.TOKENS, network.WIDTH)
    mask = torch.ones(batch, text, dtype=torch.int64)
    ids = torch.ones(batch, text, dtype=torch.int64)
    cache = torch.randn(batch, network.HEADS, past, network.WIDTH // network.HEADS)
    pasts = [f"past_key_values.{i}.{part}" for i in range(network.DECODER_LAYERS) for part in ("key", "value")]
    presents = [name.replace("past_key_values", "present") for name in pasts]
    rows, words = {0: "batch"}, {0: "batch", 1: "text_length"}
    graphs = {
        "vision_model": (captioner.image, (torch.randn(batch, 3, 224, 224),), {"pixel_values": rows},
                         {"last_hidden_state": rows, "image_embeds": rows}),
        "text_model": (captioner.text, (ids, mask), {"input_ids": words, "attention_mask": words},
                       {"last_hidden_state": words, "text_embeds": rows}),
        "fusion": (captioner.fusion, (states, torch.randn(batch, text, network.WIDTH), mask),
                   {"image_hidden_states": rows, "text_hidden_states": words, "text_attention_mask": words},
                   {"encoder_hidden_states": rows, "fused_embeds": rows}),
        "decoder_with_past_model": (
            DecoderGraph(captioner.decoder).eval(), (ids, states, *[cache] * len(pasts)),
            {"input_ids": {0: "batch", 1: "sequence"}, "encoder_hidden_states": {0: "batch", 1: "encoder_length"}}
            | {name: {0: "batch", 2: "past"} for name in pasts},
            {"logits": {0: "batch", 1: "sequence"}} | {name: {0: "batch", 2: "past + sequence"} for name in presents}),
    }
    for name, (module, inputs, names_in, names_out) in graphs.items():
        path = directory / f"{name}.onnx"
        torch.onnx.export(module, inputs, path, dynamo=False, opset_version=OPSET, input_names=list(names_in),
                          output_names=list(names_out), dynamic_axes=names_in | names_out)
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)


def check(captioner, tokenizer, decoder_vocab, directory, dev, count):
    """Compare fp32 graphs with PyTorch on `count` photographs: logits to 1e-4, greedy captions word for word."""
    from pipeline import Pipeline

    pipeline = Pipeline(directory)
    photographs = data.read(dev, count)
    worst, different = 0.0, 0
    for start in range(0, len(photographs), 25):
        part = range(start, min(start + 25, len(photographs)))
        pixels = np.stack([features.pixels(photographs.image(i)) for i in part])
        # Every second photograph has side text.
        side = [photographs.captions[i][0] if i % 2 else "" for i in part]
        ids, mask = pipeline.tokens(side)
        with torch.inference_mode():
            tokens, _ = captioner.image(torch.from_numpy(pixels))
            states, _ = captioner.text(torch.from_numpy(ids), torch.from_numpy(mask))
            memory, _ = captioner.fusion(tokens, states, torch.from_numpy(mask))
            given = [data.clean(photographs.captions[i][1]) for i in part]
            prefix = torch.from_numpy(data.encode(tokenizer, given, 20, decoder_vocab))
            expected, _ = captioner.decoder(prefix, memory)
            written = tokenizer.decode_batch(train.greedy(captioner, memory))
        found = pipeline.memory(pixels, side)[0]
        logits, past = pipeline.step(prefix[:, :3].numpy(), found, None)
        more, _ = pipeline.step(prefix[:, 3:].numpy(), found, past)
        worst = max(worst, float(np.abs(np.concatenate([logits, more], 1) - expected.numpy()).max()))
        different += sum(a != b for a, b in zip(pipeline.generate(found, beams=1), written))
    print(f"fp32 graphs against PyTorch on {len(photographs)} photographs: largest difference of logits {worst:.2e}, "
          f"{different} greedy captions differ")
    if worst > 1e-4 or different:
        raise SystemExit("error: the exported graphs do not reproduce the checkpoint")


def write_configuration(tokenizer, decoder_vocab, directory):
    """config.json, generation_config.json, preprocessor_config.json and tokenizer.json, with transformers' keys."""
    special = {"bos_token_id": data.CLS, "eos_token_id": data.SEP, "pad_token_id": data.PAD,
               "decoder_start_token_id": data.CLS}
    files = {
        "config": {"model_type": "nightcap", "architectures": ["NightcapCaptioner"], "is_encoder_decoder": True,
                   "hidden_size": network.WIDTH, "projection_dim": network.PROJECTION, "image_tokens": network.TOKENS,
                   "image_encoder": "efficientnet-lite0", "text_encoder": "all-MiniLM-L6-v2",
                   "num_text_layers": network.FROZEN_LAYERS + 1, "num_decoder_layers": network.DECODER_LAYERS,
                   "num_attention_heads": network.HEADS, "intermediate_size": network.INNER,
                   "vocab_size": tokenizer.get_vocab_size(), "decoder_vocab_size": decoder_vocab,
                   "max_position_embeddings": network.POSITIONS, "text_max_length": data.TEXT_LENGTH, **special},
        "generation_config": {**special, "max_new_tokens": 24, "num_beams": 1, "do_sample": False},
        "preprocessor_config": {
            "image_processor_type": "ViTImageProcessor", "do_convert_rgb": True, "do_resize": True,
            "size": {"height": backbone.IMAGE_SIZE, "width": backbone.IMAGE_SIZE}, "resample": 3, "do_rescale": True,
            "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": backbone.MEAN, "image_std": backbone.STD},
    }
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--dev", help="Parquet to check the graphs on")
    parser.add_argument("--check-images", type=int, default=200)
    parser.add_argument("--fp32", action="store_true", help="leave the weights as they are")
    args = parser.parse_args()
    captioner, tokenizer, decoder_vocab = load(args.checkpoint)
    args.output.mkdir(parents=True, exist_ok=True)
    write_configuration(tokenizer, decoder_vocab, args.output)
    with tempfile.TemporaryDirectory() as scratch:
        plain = args.output if args.fp32 else Path(scratch)
        export_graphs(captioner, plain)
        if args.dev:
            write_configuration(tokenizer, decoder_vocab, plain)
            check(captioner, tokenizer, decoder_vocab, plain, args.dev, args.check_images)
        if not args.fp32:
            for name in FILES:
                compress.compress(plain / f"{name}.onnx", args.output / f"{name}.onnx")
    for path in sorted(args.output.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
