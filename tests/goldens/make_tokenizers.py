"""Writes tests/goldens/tokenizers.json: what transformers' classes of tokenizers make of the files that they save, and of other settings
in them.

    python tests/goldens/make_tokenizers.py 4        # needs transformers 4.57.6
    python tests/goldens/make_tokenizers.py 5        # needs transformers 5.24; adds its cases to the file

Each tokenizer is trained on a few sentences, given to its class, and saved by `save_pretrained`. Of a case, the file has the settings that
differ in `tokenizer_config.json`, and for every text its tokens with and without special ones, and the text that they are decoded to.
"""

import json
import pathlib
import sys
import tempfile

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

EDITION = int(sys.argv[1])
assert transformers.__version__.split(".")[0] == str(EDITION), transformers.__version__
transformers.utils.logging.set_verbosity_error()
TARGET = pathlib.Path(__file__).with_name("tokenizers.json")
SENTENCES = ["A dog runs on the grass.", "Two children play with a red ball", "the woman's Café isn't open , is it ?",
             "Ein Hund läuft über die Wiese", "狗 在"] * 4
TEXTS = ["A dog runs on the grass.", "  two  Children's Café ", "naïve ÜBER", "狗 在 草地", "dog </s> man <s> [SEP] [CLS] x",
         "it 's , is n't ?", "<|endoftext|> dog <eos>\tx"]


def trained(model, trainer, specials, size=150, **other):
    made = Tokenizer(model)
    for name, value in other.items():
        setattr(made, name, value)
    made.train_from_iterator(SENTENCES, trainer(vocab_size=size, show_progress=False, special_tokens=specials, **EXTRA.get(trainer, {})))
    return made


EXTRA = {trainers.UnigramTrainer: {"unk_token": "<unk>"}}


def around(made, single):
    """`made` with a template such as `[CLS] $A [SEP]`."""
    names = [name for name in single.split() if not name.startswith("$")]
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(name, made.token_to_id(name)) for name in names])
    return made


def bert():
    return around(trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                          normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
                          decoder=decoders.WordPiece()), "[CLS] $A [SEP]")


def bytewise(specials, prefix=False):
    return trained(models.BPE(), trainers.BpeTrainer, specials, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=prefix),
                   decoder=decoders.ByteLevel())


def roberta(prefix=False):
    made = bytewise(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], prefix)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def llama(specials=("<unk>", "<s>", "</s>")):
    return trained(models.BPE(fuse_unk=True, unk_token="<unk>"), trainers.BpeTrainer, list(specials),
                   normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
                   decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]))


def clip():
    ends = ["<|startoftext|>", "<|endoftext|>"]
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=ends[1]))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=150, show_progress=False, end_of_word_suffix="</w>",
                                                            special_tokens=ends))
    made.post_processor = processors.RobertaProcessing((ends[1], 1), (ends[0], 0))
    return made


def unigram():
    made = trained(models.Unigram(), trainers.UnigramTrainer, ["<pad>", "</s>", "<unk>"], 60,
                   pre_tokenizer=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace())
    return around(made, "$A </s>")


END = ["<|endoftext|>"]
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>"]
COHERE = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"]
ALL = [{}, {"split_special_tokens": True}, {"clean_up_tokenization_spaces": True}]
PREFIX = [{"add_prefix_space": True}, {"add_prefix_space": False}]
LOWER = [{"do_lower_case": False}, {"strip_accents": False}, {"do_lower_case": False, "strip_accents": True},
         {"tokenize_chinese_chars": False}]
ENDS = [{"add_bos_token": False}, {"add_eos_token": True}, {"add_bos_token": False, "add_eos_token": True}, {"bos_token": "</s>"}]
# The class, its tokenizer, and the settings to change. "Bare" ones are not saved by the class: `tokenizer.json` has other steps than
# it makes.
BASES = [
    ("Bert", "saved", bert, LOWER), ("DistilBert", "saved", bert, LOWER), ("MPNet", "saved", bert, LOWER),
    ("Roberta", "saved", roberta, PREFIX),
    ("GPT2", "saved", lambda: bytewise(END), PREFIX), ("CLIP", "saved", clip, []), ("T5", "saved", unigram, []),
    ("Llama", "saved", lambda: around(llama(), "<s> $A"), ENDS), ("PreTrained", "saved", bert, LOWER[:1]),
]
FOUR = [
    ("Electra", "saved", bert, LOWER), ("ConvBert", "saved", bert, LOWER), ("Bert", "bare", bert, LOWER[:1]),
    ("GPT2", "bare", lambda: bytewise(END, True), PREFIX), ("Roberta", "bare", lambda: roberta(True), PREFIX),
    ("GPTNeoX", "saved", lambda: bytewise(END), ENDS[:3]), ("Llama", "bare", llama, ENDS),
    ("Gemma", "bare", lambda: around(llama(GEMMA), "$A <eos>"), ENDS), ("Cohere", "bare", lambda: bytewise(COHERE), ENDS[:3]),
    ("PreTrained", "bare", lambda: bytewise(END, True), PREFIX),
]


def read(folder, names=("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")):
    return {name: json.loads((folder / name).read_text()) for name in names if (folder / name).exists()}


def saved(kind, how, make):
    """The files of the tokenizer."""
    with tempfile.TemporaryDirectory() as work:
        folder, out = pathlib.Path(work), pathlib.Path(work, "out")
        make().save(f"{folder}/tokenizer.json")
        named = "PreTrainedTokenizerFast" if kind == "PreTrained" else f"{kind}Tokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
        if how == "bare":
            return read(folder)
        AutoTokenizer.from_pretrained(folder).save_pretrained(out)
        return read(out)


def answered(files, patch):
    with tempfile.TemporaryDirectory() as work:
        for name, content in files.items():
            content = content | patch if name == "tokenizer_config.json" else content
            pathlib.Path(work, name).write_text(json.dumps(content))
        fast = AutoTokenizer.from_pretrained(work)
    ids = [fast(text).input_ids for text in TEXTS]
    return {"settings": patch, "ids": ids, "plain": [fast(text, add_special_tokens=False).input_ids for text in TEXTS],
            "decoded": [fast.decode(each, skip_special_tokens=True) for each in ids]}


def main():
    known = json.loads(TARGET.read_text())["tokenizers"] if TARGET.exists() else []
    made = [each for each in known if each["edition"] != EDITION]
    for kind, how, make, patches in BASES + (FOUR if EDITION == 4 else []):
        files = saved(kind, how, make)
        made.append({"name": f"{kind}, {how}", "edition": EDITION, "files": files,
                     "cases": [answered(files, patch) for patch in ALL + patches]})
    made.sort(key=lambda each: each["edition"])
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in made)
    TARGET.write_text(f'{{"texts": {json.dumps(TEXTS, ensure_ascii=False)},\n"tokenizers": [\n{lines}\n]}}\n')


main()
