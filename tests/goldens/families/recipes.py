"""Writes tests/fixtures/models/recipe_*/ and tests/goldens/families/recipe_*.json.

Tiny captioners of jobs/train with fixed random weights, which together have the blocks that no other family has: recurrent decoders
(LSTM, GRU), word embeddings, a vision transformer, an autoencoder's shared space, every kind of fusion. They are exported by
jobs/train/export.py in fp32. What they say about photographs, alone and with a side text, is computed by PyTorch, one at a time and
without a cache; beams are those of transformers' `generate`.

    python tests/goldens/families/recipes.py       # needs jobs/train/requirements.txt and transformers 4.57.6
"""

import sys

import common
import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

sys.path.insert(0, str(common.ROOT / "jobs/train"))
import captioner as network
import configuration
import export
from data import pixels, tokens

SIZES = {"tokens": {"source": "captions", "text_length": 24}, "model": {"width": 24, "heads": 2, "inner": 32, "projection": 16}}
VIT = {"encoder": "vit", "size": 32, "patch": 16, "width": 16, "layers": 1, "heads": 2}
WORDS, ENCODER = {"encoder": "words", "width": 16}, {"encoder": "transformer", "width": 16, "layers": 1, "heads": 2, "inner": 24}
TRANSFORMER = {"kind": "transformer", "layers": 1, "positions": 24, "max_new_tokens": 12}
# Blocks, seed, and by how much the end of a caption is favoured.
FAMILIES = {
    "recipe_lstm": ({"image": VIT, "text": WORDS, "fusion": {"method": "gated"},
                     "decoder": {"kind": "lstm", "max_new_tokens": 12}}, 5, 2.0),
    "recipe_gru": ({"image": VIT, "text": ENCODER, "fusion": {"method": "concatenate"},
                    "decoder": {"kind": "gru", "max_new_tokens": 12}}, 5, 2.0),
    "recipe_autoencoder": ({"image": VIT, "text": WORDS, "fusion": {"method": "single_head"}, "decoder": TRANSFORMER,
                            "shared": {"objective": "autoencoder"}}, 5, 6.0),
}
# One for each photograph, of different lengths; one is longer than the text encoder's limit.
TEXTS = ["a", "Ba di, ku", "the face of a cat", "ka le mi", "two horses", "in ba di", "pancakes with syrup, butter and berries", "di"]


class Generator(PreTrainedModel, GenerationMixin):
    """A captioner as transformers' `generate` wants it, without a cache."""

    config_class = PretrainedConfig

    def __init__(self, captioner, settings, vocabulary):
        super().__init__(PretrainedConfig(vocab_size=vocabulary.written))
        self.captioner, self.generation_config = captioner, settings

    def prepare_inputs_for_generation(self, input_ids, memory=None, **_):
        return {"input_ids": input_ids, "memory": memory}

    def forward(self, input_ids, memory, **_):
        return CausalLMOutput(logits=self.captioner.decoder(input_ids, memory)[0])


def memory(captioner, image, vocabulary, text=None):
    """What the decoder attends to, and the fused embedding, of one image."""
    states, _ = captioner.image(image)
    if text is None:
        ids, mask = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    else:
        ids = torch.from_numpy(tokens.encode(vocabulary.tokenizer, [text], SIZES["tokens"]["text_length"]))
        mask = torch.ones_like(ids)
    return captioner.fusion(states, captioner.text(ids, mask)[0], mask)


@torch.no_grad()
def write(name, blocks, seed, emphasis):
    tokenizer = common.word_pieces(list(tokens.SPECIALS))
    vocabulary = tokens.Vocabulary(tokenizer, tokenizer.get_vocab_size(), [])
    recipe = configuration.from_table(SIZES | blocks)
    captioner = common.reinitialise(network.build(recipe, vocabulary), seed)
    captioner.decoder.bias[[tokens.PAD, tokens.CLS, tokens.UNK, 4]] = -30.0
    captioner.decoder.bias[tokens.SEP] += emphasis
    folder = common.MODELS / name
    common.emptied(folder)
    export.export(captioner, vocabulary, folder, fp32=True)
    print(f"{name}: {sum(file.stat().st_size for file in folder.iterdir())} bytes")

    files = GenerationConfig.from_pretrained(folder)
    generator = Generator(captioner, files, vocabulary)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    images = [torch.from_numpy(pixels.pixels(picture, recipe.image.size))[None] for picture in common.photos()]

    def generate(states, prefix, settings):
        return generator.generate(prefix, memory=states, do_sample=False, use_cache=False, **settings)[0]

    def logits(states, sequence):
        return captioner.decoder(sequence, states)[0][0]

    alone, both = ([memory(captioner, image, vocabulary, text) for image, text in zip(images, given)]
                   for given in ([None] * len(images), TEXTS))
    arguments = (fast, tokens.CLS, [tokens.SEP], generate, logits)
    cases = common.cases(common.CASES, [states for states, _ in alone], *arguments)
    assisted = common.cases({"greedy": {}, "beam": {"num_beams": 3}}, [states for states, _ in both], *arguments)
    encoded = [captioner.image(image) for image in images]
    texts = [captioner.text(ids, torch.ones_like(ids))[1][0] for ids in
             (torch.from_numpy(tokens.encode(tokenizer, [text], SIZES["tokens"]["text_length"])) for text in TEXTS)]
    vectors = {"image": [embeds[0] for _, embeds in encoded], "text": texts, "fused": [embeds[0] for _, embeds in both]}
    for kind, embeddings in vectors.items():
        common.apart(kind, torch.stack(embeddings))
    common.write(name, {
        "pixels": common.probes([image[0] for image in images]),
        "states": {"output": "last_hidden_state"} | common.probes([states[0] for states, _ in encoded]), "texts": TEXTS,
        **{f"{kind}_embeddings": [row.tolist() for row in embeddings] for kind, embeddings in vectors.items()},
        "cases": cases, "cases_with_texts": assisted})


def main():
    for name, settings in FAMILIES.items():
        write(name, *settings)


if __name__ == "__main__":
    main()
