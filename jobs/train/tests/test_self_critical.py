"""Self-critical training: the reward is pycocoevalcap's CIDEr, samples are drawn from the decoder's own distribution, and what was
rewarded becomes likelier."""

import unittest
from typing import Any
from unittest import mock

import numpy as np
import torch
from pycocoevalcap.cider.cider import Cider as Reference

import captioner as network
import configuration
import self_critical
from configuration import RecipeError
from data import tokens
from data.tokens import words
from rewards import Cider
from tests import support
from tests.test_training import history

REFERENCES = [["a black dog runs on the grass", "the dog is running", "a dog plays outside", "a dog's ball"],
              ["a man rides a red bike", "a man on a bicycle", "the man rides a bike down a street", "man on bike"],
              ["two girls play in the snow", "girls in winter clothes play", "two girls in snow", "a snowball fight of two girls"]]
ROWS, SAMPLES, LENGTH = 3, 4, 9


class Reward(unittest.TestCase):
    def test_it_is_that_of_pycocoevalcap(self) -> None:
        captions = ["a black dog runs on the grass", "a man on a red red bike", "girls"]
        clean = {i: [" ".join(words(sentence)) for sentence in group] for i, group in enumerate(REFERENCES)}
        for order in (captions, captions[::-1], ["a dog's ball is in the grass", "", "a a a a a a a a a a a a a a a a"]):
            wanted = Reference().compute_score(clean, {i: [" ".join(words(caption))] for i, caption in enumerate(order)})[1]
            for i, caption in enumerate(order):
                self.assertAlmostEqual(Cider(REFERENCES).score(i, caption), float(wanted[i]), places=10)

    def test_a_reference_that_was_given_does_not_count(self) -> None:
        given = REFERENCES[0][1]
        self.assertLess(Cider(REFERENCES).score(0, given, without=1), Cider(REFERENCES).score(0, given))

    def test_with_an_ending_a_caption_that_breaks_off_scores_less(self) -> None:
        lost = [score.score(1, "a man on a") / score.score(1, "a man on a bicycle")
                for score in (Cider(REFERENCES), Cider(REFERENCES, ending=True))]
        self.assertLess(lost[1], lost[0])


class Policy(unittest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(5)
        self.memory = torch.randn(ROWS, 7, support.SMALL["model"]["width"])

    def decoders(self) -> list[Any]:
        return [network.blocks.DECODER[kind](support.recipe({"decoder": {"kind": kind}}), 40).eval()
                for kind in ("transformer", "lstm", "gru")]

    def test_samples_follow_the_decoder(self) -> None:
        """The probabilities that are drawn from are those of the decoder that reads the sample whole."""
        for decoder in self.decoders():
            with mock.patch("torch.multinomial", wraps=torch.multinomial) as draws:
                ids = self_critical.sample(decoder, self.memory, SAMPLES, LENGTH)
            self.assertTrue((ids[:, 0] == tokens.CLS).all())
            self.assertFalse(torch.isin(ids[:, 1:], torch.tensor([tokens.CLS, tokens.UNK])).any())
            with torch.no_grad():
                logits = decoder(ids[:, :-1], self.memory)[0]
            logits[:, :, list(self_critical.NEVER)] = self_critical.MINUS_INFINITY
            for step, found in enumerate(call.args[0] for call in draws.call_args_list):
                running = ids[:, step + 1] != tokens.PAD
                torch.testing.assert_close(logits.softmax(-1)[running, step], found[running], atol=1e-5, rtol=1e-4)

    def test_what_was_rewarded_becomes_likelier(self) -> None:
        decoder = self.decoders()[0]
        ids = self_critical.sample(decoder, self.memory, SAMPLES, LENGTH)
        rewards = torch.rand(ROWS, SAMPLES)
        numbers, advantage = self_critical.extremes(rewards)
        optimizer = torch.optim.SGD(decoder.parameters(), 0.05)

        def likelihood() -> torch.Tensor:
            logits = decoder(ids[:, :-1], self.memory)[0].log_softmax(-1)
            said = logits.gather(2, ids[:, 1:, None])[:, :, 0]
            return (said * (ids[:, 1:] != tokens.PAD)).sum(1).view(ROWS, SAMPLES)

        before = likelihood()
        for _ in range(5):
            optimizer.zero_grad()
            self_critical.policy_loss(decoder, self.memory, ids[numbers], advantage).backward()
            optimizer.step()
        change = (likelihood() - before).detach()
        best, worst = change.gather(1, rewards.argmax(1, True)), change.gather(1, rewards.argmin(1, True))
        self.assertGreater(float((best - worst).mean()), 0.1)

    def test_advantages_compare_with_the_other_samples(self) -> None:
        found = self_critical.advantages(torch.tensor([[1.0, 2.0, 6.0]]))
        torch.testing.assert_close(found, torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5]]))
        numbers, advantage = self_critical.extremes(torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]]))
        self.assertEqual(numbers.tolist(), [2, 0, 3, 3])
        torch.testing.assert_close(advantage, torch.tensor([4.5, -3.0, 0.0, 0.0]))


class Epochs(unittest.TestCase):
    def test_the_decoder_alone_learns_and_its_samples_get_better(self) -> None:
        blocks = support.TOYS["vit, words, autoencoder, single-head, lstm"]
        with support.folder() as here:
            wanted = support.recipe(blocks, epochs=4, self_critical_epochs=8, self_critical_rate=3e-3, samples=4)
            output = support.train(here, wanted, "run")
            rows = history(output)
            self.assertEqual(len(rows), 12)
            rewards = [float(row["reward"]) for row in rows[4:]]
            self.assertEqual([row["reward"] for row in rows[:4]], [""] * 4)
            self.assertGreater(np.mean(rewards[-3:]), np.mean(rewards[:3]))
            before = support.train(here, support.recipe(blocks, epochs=4), "before")
            one, other = (torch.load(path / "last.pt", weights_only=True)["model"] for path in (before, output))
            changed = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
            self.assertEqual(changed, {"decoder"})

    def test_early_stopping_is_refused_beside_it(self) -> None:
        with self.assertRaisesRegex(RecipeError, "patience"):
            configuration.from_table({"training": {"patience": 2, "self_critical_epochs": 1}})


if __name__ == "__main__":
    unittest.main()
