"""Captions and images are read in every shape; captions are drawn without giving the answer away."""

import csv
import io
import unittest

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import metrics
from data import images, tokens
from data.images import Columns, DataError
from data.split import Split
from tests import toy_images
from tests.support import folder, recipe


class Reading(unittest.TestCase):
    def test_images_as_paths_bytes_and_structs(self) -> None:
        rng = np.random.default_rng(3)
        picture, captions = toy_images.toy(rng)
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        with folder() as here:
            (here / "pictures").mkdir()
            (here / "pictures/a.png").write_bytes(picture)
            shapes = {"paths": pa.array(["pictures/a.png"]), "bytes": pa.array([picture]),
                      "struct": pa.array([{"bytes": picture, "path": None}], struct),
                      "struct of a path": pa.array([{"bytes": None, "path": "pictures/a.png"}], struct)}
            for name, column in shapes.items():
                pq.write_table(pa.table({"image": column, "captions": [captions]}), here / "data.parquet")
                read = images.read(here / "data.parquet")
                self.assertEqual((read.ids, read.captions), (["0"], [captions]), name)
                self.assertEqual(read.image(0).size, (toy_images.SIDE, toy_images.SIDE), name)

    def test_a_folder_with_a_csv(self) -> None:
        with folder() as here:
            read = images.read(toy_images.write_folder(here, 5, 1))
            self.assertEqual((len(read), [len(group) for group in read.captions]), (5, [4] * 5))
            self.assertEqual(read.image(4).mode, "RGB")

    def test_other_names_of_columns_and_single_captions(self) -> None:
        with folder() as here:
            table = pa.table({"id": ["x", "y", "z"], "file": ["a", "b", "c"], "said": ["one", None, " "]})
            pq.write_table(table, here / "data.parquet")
            read = images.read(here / "data.parquet", Columns("id", "file", "said"))
            self.assertEqual((read.ids, read.captions, read.sources), (["x"], [["one"]], [here / "a"]))
            with self.assertRaisesRegex(DataError, "expected a column 'image', found id, file, said\nhint: name yours by --image"):
                images.read(here / "data.parquet")

    def test_what_cannot_be_read_is_said(self) -> None:
        with folder() as here:
            (here / "bad.png").write_bytes(b"no image")
            (here / "c.csv").write_text("image,captions\nbad.png,a thing\n")
            with self.assertRaisesRegex(DataError, "image bad.png: cannot identify"):
                images.read(here / "c.csv").image(0)
            (here / "c.csv").write_text("image,captions\n")
            with self.assertRaisesRegex(DataError, "expected images with captions, found none"):
                images.read(here / "c.csv")
            with self.assertRaisesRegex(DataError, "nowhere.parquet"):
                images.read(here / "nowhere.parquet")


class Tokens(unittest.TestCase):
    def test_written_words_come_first_and_rare_ones_are_not_written(self) -> None:
        made = tokens.build("captions", [["A dog, a dog!", "a cat's dog"], ["a rare word"]], 2)
        self.assertEqual([made.tokenizer.id_to_token(i) for i in range(made.written)], [*tokens.SPECIALS, "a", "dog"])
        ids = tokens.encode(made.tokenizer, ["a dog", "a cat"], 16, made.written).tolist()
        self.assertEqual(ids[0][:4], [tokens.CLS, 5, 6, tokens.SEP])
        self.assertEqual(ids[1][:3], [tokens.CLS, 5, tokens.UNK])
        self.assertNotIn(tokens.UNK, tokens.encode(made.tokenizer, ["zebra 7"], 16)[0])  # letters spell what is no word

    def test_captions_are_cleaned_in_any_alphabet(self) -> None:
        for caption, cleaned in [("A dog's, 2 cats'!", "a dog's 2 cats"), ("Ein M\u00e4dchen - im Zoo_", "ein madchen im zoo"),
                                 ("\u041a\u043e\u0442.", "\u043a\u043e\u0442"), ("'quoted' words", "quoted words")]:
            self.assertEqual(tokens.clean(caption), cleaned)

    def test_long_texts_end_with_the_end(self) -> None:
        made = tokens.build("captions", [["a " * 30]], 1)
        ids = tokens.encode(made.tokenizer, ["a " * 30], 8)
        self.assertEqual((ids.shape, ids[0, -1]), ((1, 8), tokens.SEP))


class Drawing(unittest.TestCase):
    def test_a_side_text_is_never_written_too(self) -> None:
        groups = [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]
        made = images.Images([str(i) for i in range(4)], [b""] * 4, groups)
        split = Split(made, tokens.build("captions", groups, 1), recipe({}))
        for seed in range(20):
            rows, has_side = split.draw(np.arange(4), 2, np.random.default_rng(seed))
            self.assertEqual(has_side.tolist(), [False, True, True, True])
            for image, row in enumerate(rows):
                self.assertTrue(((split.first[image] <= row) & (row < split.first[image + 1])).all())
                if has_side[image]:
                    self.assertNotIn(row[-1], row[:-1])


class Metrics(unittest.TestCase):
    def test_repeats(self) -> None:
        for caption, expected in [("a dog and a cat", False), ("a dog and a dog", True), ("a man man runs", True), ("a a", True),
                                  ("a large building with a large building", True), ("", False), ("dog cat dog", False)]:
            self.assertEqual(metrics.repeats(caption), expected, caption)

    def test_readability(self) -> None:
        found = metrics.readability(["A dog runs.", "a dog sits"], ["a dog runs"])
        self.assertEqual((found["novel"], found["repeat"], found["words"]), (50.0, 0.0, 3.0))
        self.assertAlmostEqual(found["distinct-1"], 100 * 4 / 6)
        self.assertAlmostEqual(found["distinct-2"], 100 * 3 / 4)

    def test_a_caption_of_the_references_has_full_scores(self) -> None:
        found = metrics.caption_scores(["a red dog runs fast", "two cats sit still"], [["A red dog runs fast."], ["two cats sit still"]])
        for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
            self.assertAlmostEqual(found[name], 100, places=3)

    def test_recall(self) -> None:
        images_ = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]], np.float32)
        texts = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [1, 0, 0]], np.float32)
        found = metrics.recalls(images_, texts, np.array([0, 0, 1, 2]), ranks=(1, 2))
        # image 2 finds text 0 as near as its own text 3, which is no better, so its own counts; text 3 finds image 0 first
        self.assertAlmostEqual(found["i2t R@1"], 100)
        self.assertAlmostEqual(found["t2i R@1"], 75)
        self.assertAlmostEqual(found["t2i R@2"], 100)
        wrong = metrics.recalls(images_, texts, np.array([2, 2, 1, 0]), ranks=(1, 2, 3))
        self.assertEqual([round(wrong[f"t2i R@{k}"]) for k in (1, 2, 3)], [50, 75, 100])


class Csv(unittest.TestCase):
    def test_quoted_captions(self) -> None:
        with folder() as here:
            text = io.StringIO()
            csv.writer(text).writerows([["image", "captions"], ["a.png", 'said "so", twice']])
            (here / "c.csv").write_text(text.getvalue())
            self.assertEqual(images.read(here / "c.csv").captions, [['said "so", twice']])


if __name__ == "__main__":
    unittest.main()
