"""`nightcap eval` gives the scores of `evaluate.py` for the same captions and vectors.

Needs NIGHTCAP, the path of the binary, and ORT_DYLIB_PATH; `make train-test` sets both.
"""

import json
import os
import subprocess
import unittest
from pathlib import Path
from typing import Any

import numpy as np

import evaluate
import metrics
from data import images
from pipeline import Pipeline
from tests import support, toy_images

NIGHTCAP = os.environ.get("NIGHTCAP")
MODEL = support.HERE.parents[1] / "sample_data/model"


def nightcap(*arguments: object) -> str:
    assert NIGHTCAP is not None
    done = subprocess.run([NIGHTCAP, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"nightcap {arguments[0]}: {done.stderr}")
    return done.stdout


@unittest.skipUnless(NIGHTCAP, "NIGHTCAP, the path of the binary, is not set")
class Eval(unittest.TestCase):
    def assert_same(self, found: dict[str, float], expected: dict[str, Any]) -> None:
        for name, value in expected.items():
            self.assertAlmostEqual(found[name], value, delta=1e-6 * max(1, abs(value)), msg=name)

    def test_scores_are_those_of_evaluate(self) -> None:
        with support.folder() as here:
            self.compare(here, toy_images.write(here, "toy", 24, 5))

    def compare(self, here: Path, references: Path) -> None:
        job, output = here / "job.toml", here / "out"
        job.write_text(f'[input]\nmanifest = "{references}"\nkey = "image_id"\nimage = "image"\n[model]\npath = "{MODEL}"\n'
                       f'[output]\npath = "{output}"\ncolumns = []\n[runtime]\nthreads = 1\n', encoding="utf-8")
        nightcap("run", job)
        answer = json.loads(nightcap("eval", output, "--references", references, "--format", "json"))
        found, data, pattern = answer["outputs"][0]["scores"], images.read(references), f"{output}/run=*/part-*.parquet"

        scores = evaluate.evaluate_captions(pattern, data, [caption for group in data.captions for caption in group])
        self.assert_same(found, scores["captions"] | scores["readability"])
        rows = evaluate.written(pattern, ["image_embedding", "caption_similarity", "caption", "caption_repeats"])
        texts, owners = evaluate.text_embeddings(Pipeline(MODEL, threads=1), data.captions)
        vectors = np.array([rows[key]["image_embedding"] for key in data.ids], np.float32)
        self.assert_same(found, metrics.recalls(vectors, texts, owners))
        self.assertLess(found["i2t R@1"], 100)
        self.assert_same(found, {"similarity": float(np.mean([row["caption_similarity"] for row in rows.values()]))})
        for row in rows.values():
            self.assertEqual(row["caption_repeats"], metrics.repeats(row["caption"]))


if __name__ == "__main__":
    unittest.main()
