"""A toy of every option is trained for a few steps, exported, and run by `nightcap`: captions and vectors are PyTorch's.

Needs NIGHTCAP, the path of the binary, and ORT_DYLIB_PATH; `make train-test` sets both. What PyTorch says is computed with the weights
that the exported directory holds, which are int8.
"""

import contextlib
import io
import os
import subprocess
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import checkpoint
import evaluate
import export
import finished
import validation
from data import images, tokens
from data.images import Images
from data.pixels import pixels
from pipeline import Pipeline
from tests import support

NIGHTCAP = os.environ.get("NIGHTCAP")
VECTOR, LOGPROB = 2e-5, 5e-4
COLUMNS = ["caption", "caption_logprob", "caption_tokens", "image_embedding", "text_embedding", "fused_embedding"]


def run(here: Path, model: Path, name: str, text: bool, batch: int, generation: str = "") -> dict[str, dict]:
    """The rows that `nightcap run` writes, by image_id."""
    assert NIGHTCAP is not None
    job, manifest = here / f"{name}.toml", here / "manifest.parquet"
    side = 'text = "side"\n' if text else ""
    job.write_text(f'[input]\nmanifest = "{manifest}"\nkey = "image_id"\nimage = "image"\n{side}[model]\npath = "{model}"\n'
                   f'[generation]\n{generation}\n[output]\npath = "{here / name}"\ncolumns = []\n'
                   f'[runtime]\nthreads = 1\nbatch_size = {batch}\n', encoding="utf-8")
    done = subprocess.run([NIGHTCAP, "run", str(job)], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"nightcap run: {done.stderr}")
    columns = [column for column in COLUMNS if text or column != "text_embedding"]
    return evaluate.written(f"{here / name}/run=*/part-*.parquet", columns)


@torch.inference_mode()
def by_pytorch(model: Path, data: Images, sides: list[str | None]) -> list[dict[str, Any]]:
    """Caption, its log-probability, and vectors of each image with its side text, one at a time and without a cache."""
    captioner, vocabulary = finished.load(model)
    recipe, rows = captioner.recipe, []
    for i, side in enumerate(sides):
        seen = torch.from_numpy(pixels(data.image(i), recipe.image.size))[None]
        states, image = captioner.image(seen)
        ids = torch.from_numpy(tokens.encode(vocabulary.tokenizer, [side or "none"], recipe.tokens.text_length))
        mask = torch.ones_like(ids) if side else torch.zeros_like(ids)
        text_states, text = captioner.text(ids, torch.ones_like(ids))
        memory, fused = captioner.fusion(states, text_states, mask)
        said: list[int] = []
        logprob, limit = 0.0, recipe.decoder.max_new_tokens
        while len(said) < limit and tokens.SEP not in said:
            logits = captioner.decoder(torch.tensor([[tokens.CLS, *said]]), memory)[0][0, -1].double()
            said.append(int(logits.argmax()))
            logprob += float(logits.log_softmax(-1)[said[-1]])
        rows.append({"caption": vocabulary.tokenizer.decode(said), "caption_logprob": logprob, "caption_tokens": len(said),
                     "image_embedding": image[0].numpy(), "fused_embedding": fused[0].numpy(),
                     "text_embedding": text[0].numpy() if side else None})
    return rows


@unittest.skipUnless(NIGHTCAP, "NIGHTCAP, the path of the binary, is not set")
class Options(unittest.TestCase):
    def compare(self, found: dict[str, dict], expected: list[dict[str, Any]], data: Images) -> None:
        for key, row in zip(data.ids, expected):
            self.assertEqual((found[key]["caption"], found[key]["caption_tokens"]), (row["caption"], row["caption_tokens"]))
            self.assertLess(abs(found[key]["caption_logprob"] - row["caption_logprob"]), LOGPROB)
            for column in ("image_embedding", "fused_embedding", "text_embedding"):
                if row[column] is not None and column in found[key]:
                    difference = np.abs(np.array(found[key][column], np.float32) - row[column]).max()
                    self.assertLess(difference, VECTOR, column)
        vectors = np.stack([row["image_embedding"] for row in expected])
        alike = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
        self.assertLess(alike.min(), 0.9999, "images that all look alike show nothing")

    def test_every_option(self) -> None:
        for name, blocks in support.TOYS.items():
            with self.subTest(name), support.folder() as here:
                self.option(here, blocks)

    def option(self, here: Path, blocks: dict[str, Any]) -> None:
        output, model = support.train(here, support.recipe(blocks), "run"), here / "model"
        captioner, vocabulary = checkpoint.load(output / "best.pt")
        data = images.read(here / "validation.parquet")
        with contextlib.redirect_stdout(io.StringIO()):
            export.export(captioner, vocabulary, model, data=data)  # logits and captions of the fp32 graphs are checked here
        sides = [group[0] if i % 3 else None for i, group in enumerate(data.captions)]
        struct = pa.array([source for source in data.sources], pa.binary())
        pq.write_table(pa.table({"image_id": data.ids, "image": struct, "side": pa.array(sides, pa.string())}), here / "manifest.parquet")
        expected = by_pytorch(model, data, [None] * len(data))
        self.compare(run(here, model, "alone", False, 1), expected, data)
        self.compare(run(here, model, "batched", False, 5), expected, data)
        self.compare(run(here, model, "sides", True, 5), by_pytorch(model, data, sides), data)
        # beams as transformers defines them, in Python
        pipeline = Pipeline(model, threads=1)
        memory = pipeline.memory(np.stack([pixels(data.image(i), pipeline.size) for i in range(len(data))]), [""] * len(data))[0]
        beams = run(here, model, "beams", False, 4, "num_beams = 3")
        self.assertEqual([beams[key]["caption"] for key in data.ids], pipeline.generate(memory, beams=3))
        greedy = [vocabulary.tokenizer.decode(row) for row in validation.greedy(
            finished.load(model)[0], torch.from_numpy(memory), pipeline.settings["max_new_tokens"])]
        self.assertEqual(greedy, [row["caption"] for row in expected])


if __name__ == "__main__":
    unittest.main()
