"""Recipes are strict, and every recipe of the project is one."""

import tomllib
import unittest

import blocks
import configuration
from configuration import RecipeError
from tests.support import HERE, TOYS, folder, recipe


class Strictness(unittest.TestCase):
    def refused(self, table: dict, *said: str) -> None:
        with self.assertRaises(RecipeError) as caught:
            configuration.from_table(table, "here.toml")
        for part in ("here.toml", *said):
            self.assertIn(part, str(caught.exception))

    def test_unknown_keys_and_wrong_values_are_errors(self) -> None:
        self.refused({"decodr": {}}, "decodr", "did you mean 'decoder'?")
        self.refused({"decoder": {"layer": 2}}, "decoder: unknown key 'layer'", "'layers'")
        self.refused({"decoder": {"kind": "rnn"}}, "transformer, lstm, gru", "'rnn'")
        self.refused({"training": {"batch": "64"}}, "training: batch: expected int", "'64'")
        self.refused({"training": {"batch": True}}, "expected int")
        self.refused({"training": {"epochs": 0}}, "training.epochs")
        self.refused({"model": 3}, "model: expected a table")
        self.refused({"rates": {"image": "fast"}}, "rates: image: expected float")
        self.refused({"model": {"width": 100}}, "no multiple of model.heads")

    def test_keys_of_another_option_are_errors(self) -> None:
        self.refused({"image": {"encoder": "vit", "train_tail": False}}, "train_tail: only cnn")
        self.refused({"image": {"pretrained": False, "names": True}}, "image.names needs image.pretrained")
        self.refused({"decoder": {"kind": "lstm", "layers": 2}}, "layers: only transformer", "kind is 'lstm'")
        self.refused({"shared": {"objective": "autoencoder", "contrastive": 1.0}}, "only contrastive and both")
        self.refused({"text": {"encoder": "words", "frozen_layers": 1}}, "only minilm")

    def test_a_recipe_extends_another_table_by_table(self) -> None:
        with folder() as here:
            (here / "base.toml").write_text('[image]\nencoder = "cnn"\ntrain_tail = false\n[training]\nepochs = 3\n')
            (here / "vit.toml").write_text('extends = "base.toml"\n[image]\nencoder = "vit"\n')
            made = configuration.load(here / "vit.toml")
            self.assertEqual((made.image.encoder, made.training.epochs), ("vit", 3))
            (here / "loop.toml").write_text('extends = "loop.toml"\n')
            with self.assertRaisesRegex(RecipeError, "does not extend this one"):
                configuration.load(here / "loop.toml")

    def test_recipes_of_the_project_are_valid_and_survive_being_written(self) -> None:
        paths = sorted((HERE / "recipes").rglob("*.toml"))
        self.assertGreater(len(paths), 12)
        for path in paths:
            made = configuration.load(path)
            self.assertEqual(configuration.from_table(tomllib.loads(configuration.as_toml(made))), made, path)

    def test_the_toys_have_every_option(self) -> None:
        toys = [recipe(table) for table in TOYS.values()]
        for registry, used in ((blocks.IMAGE, {t.image.encoder for t in toys}), (blocks.TEXT, {t.text.encoder for t in toys}),
                               (blocks.FUSION, {t.fusion.method for t in toys}), (blocks.DECODER, {t.decoder.kind for t in toys}),
                               ({"contrastive", "autoencoder", "both"}, {t.shared.objective for t in toys})):
            self.assertEqual(set(registry), used)


if __name__ == "__main__":
    unittest.main()
