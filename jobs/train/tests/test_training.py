"""The loop: it learns, it continues bit for bit after a kill, it stops early, and it starts from finished models."""

import contextlib
import csv
import io
import signal
import time
import unittest
from pathlib import Path

import torch
from PIL import Image

import checkpoint
import configuration
import export
import finished
from configuration import RecipeError
from tests import support

TOY = support.TOYS["vit, words, autoencoder, single-head, lstm"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def history(output: Path) -> list[dict[str, str]]:
    with open(output / "history.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Training(unittest.TestCase):
    def test_losses_fall_and_are_logged_and_drawn(self) -> None:
        with support.folder() as here:
            output = support.train(here, support.recipe(TOY, epochs=8), "run")
            rows = history(output)
            self.assertEqual([row["epoch"] for row in rows], list("12345678"))
            self.assertLess(float(rows[-1]["loss"]), 0.9 * float(rows[0]["loss"]))
            self.assertLess(float(rows[-1]["validation loss"]), float(rows[0]["validation loss"]))
            for column in ("BLEU-4", "CIDEr", "i2t R@1", "t2i R@10", "reconstruction", "BLEU-4 side text"):
                self.assertTrue(float(rows[0][column]) >= 0, column)
            with Image.open(output / "curves.png") as picture:
                self.assertGreater(len(picture.convert("RGB").getcolors(1 << 20) or []), 4)

    def test_a_killed_run_continues_bit_for_bit(self) -> None:
        with support.folder() as here:
            wanted = support.recipe(TOY, epochs=4)
            whole = support.train(here, wanted, "whole")
            process = support.start_process(support.arguments(here, wanted, "killed"))
            until = time.time() + 120
            while not (here / "killed/last.pt").exists():
                self.assertIsNone(process.poll(), "it ended before it could be killed")
                self.assertLess(time.time(), until)
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done = torch.load(here / "killed/last.pt", weights_only=True)["step"]
            self.assertLess(done, 4 * 4)
            killed = support.train(here, wanted, "killed")
            for name in ("last.pt", "best.pt"):
                one, other = weights(whole / name), weights(killed / name)
                self.assertEqual(list(one), list(other))
                for key in one:
                    self.assertTrue(torch.equal(one[key], other[key]), f"{name}: {key}")
            drop = ("seconds",)
            self.assertEqual([{k: v for k, v in row.items() if k not in drop} for row in history(whole)],
                             [{k: v for k, v in row.items() if k not in drop} for row in history(killed)])

    def test_it_stops_early_and_refuses_another_recipe(self) -> None:
        with support.folder() as here:
            # a rate of 0 makes no epoch better than the first
            output = support.train(here, support.recipe(TOY, epochs=9, patience=2, rate=0.0), "run")
            self.assertEqual(len(history(output)), 3)
            with self.assertRaisesRegex(checkpoint.CheckpointError, "another recipe"):
                support.train(here, support.recipe(TOY, epochs=10), "run")

    def test_it_does_not_stop_while_the_validation_loss_falls(self) -> None:
        with support.folder() as here:
            # At this rate no caption has a word of the references for many epochs: CIDEr stays 0.
            rows = history(support.train(here, support.recipe(TOY, epochs=6, patience=1, rate=1e-5), "run"))
            losses = [float(row["validation loss"]) for row in rows]
            self.assertEqual(len(rows), 6)
            self.assertEqual(losses, sorted(losses, reverse=True))

    def test_it_starts_from_a_checkpoint_and_from_a_directory(self) -> None:
        with support.folder() as here:
            first = support.train(here, support.recipe(TOY, epochs=3), "first")
            captioner, vocabulary = checkpoint.load(first / "best.pt")
            with contextlib.redirect_stdout(io.StringIO()):
                export.export(captioner, vocabulary, here / "fp32", fp32=True)
                export.export(captioner, vocabulary, here / "int8")
            read, words = finished.load(here / "fp32")
            self.assertEqual((words.written, words.size), (vocabulary.written, vocabulary.size))
            own, again = captioner.state_dict(), read.state_dict()
            for key in own:
                if key.split(".")[0] in finished.GRAPHS.values():
                    self.assertTrue(torch.equal(own[key], again[key]), key)
            # a rate of 0 leaves the weights as they are
            tune = configuration.from_table({"training": {"epochs": 1, "batch": 8, "validation_images": 12, "rate": 0.0, "views": 1}})
            for start in (first / "best.pt", here / "fp32", here / "int8"):
                output = support.train(here, tune, f"tuned-{start.name}", "--from", str(start))
                start_row, scores = history(output)
                self.assertEqual((start_row["epoch"], start_row["loss"], start_row["CIDEr"]), ("0", "", scores["CIDEr"]))
                best = max(float(row["CIDEr"]) for row in history(first))
                bound = 1e-6 if start.name != "int8" else 0.3 * best
                self.assertLessEqual(abs(float(scores["CIDEr"]) - best), bound, start)
            # a model that training made worse: best.pt keeps what it started from
            worse = configuration.from_table({"training": tune.as_table()["training"] | {"rate": 3.0, "warmup_steps": 1}})
            output = support.train(here, worse, "worse", "--from", str(first / "best.pt"))
            kept = checkpoint.load(output / "best.pt")[0].state_dict()
            self.assertTrue(all(torch.equal(own[key], kept[key]) for key in own))
            with self.assertRaisesRegex(RecipeError, r"only \[training\] and \[rates\]"):
                support.train(here, support.recipe(TOY), "refused", "--from", str(first / "best.pt"))


if __name__ == "__main__":
    unittest.main()
