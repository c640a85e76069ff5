"""Writes tests/fixtures/models/siglip/ and tests/goldens/families/siglip.json.

A tiny SigLIP with fixed random weights as the joint graph of optimum. It has no attention mask: every text is padded to the
context length, and the padding is part of what the model reads.

    python tests/goldens/families/siglip.py       # needs torch, transformers 4.57.6, optimum-onnx 0.1.0, onnxruntime, pillow
"""

import json
import re
import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

import common
import embedders

SIDE, WIDTH, CONTEXT = 32, 32, 24


def tokenizer():
    """SigLIP's SentencePiece unigrams as its `tokenizer.json` has them: lower-cased, no punctuation, `</s>` at the end."""
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
         normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.NFKC()])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    unigram.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    unigram.train_from_iterator(embedders.TEXTS, trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    # Training adds up in another order every time.
    pieces = json.loads(unigram.to_str())["model"]["vocab"]
    pieces[3:] = sorted((word, round(score, 3)) for word, score in pieces[3:])
    unigram.model = models.Unigram([tuple(piece) for piece in pieces], unk_id=2)
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # SigLIP pads with its end token.
    return PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", pad_token="</s>", unk_token="<unk>",
                                   model_max_length=CONTEXT, model_input_names=["input_ids"])


def model(fast):
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = SiglipConfig(text_config=layers | {"vocab_size": len(fast), "max_position_embeddings": CONTEXT,
                                                "projection_size": WIDTH},
                          vision_config=layers | {"image_size": SIDE, "patch_size": 8})
    return common.reinitialise(SiglipModel(config), 4)


def main():
    fast = tokenizer()
    siglip = model(fast)
    processor = SiglipProcessor(SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), fast)
    folder = common.MODELS / "siglip"
    embedders.export(siglip, processor, folder)
    embedders.write("siglip", siglip, processor, {"padding": "max_length", "truncation": True}, [folder])


if __name__ == "__main__":
    main()
