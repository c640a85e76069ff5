"""Writes tests/fixtures/models/git/ and tests/goldens/families/git.json.

A tiny GIT captioner with fixed random weights and a tokenizer of BERT's kind, exported by jobs/export/git_caption.py, and
what transformers' `generate` says about photographs, one at a time. A caption starts with `[CLS]` and ends with `[SEP]`.

    python tests/goldens/families/git_caption.py       # needs torch, transformers 4.57.6, onnx, onnxruntime, pillow
"""

import torch
from transformers import BertTokenizerFast, CLIPImageProcessor, GenerationConfig, GitConfig, GitForCausalLM, GitProcessor

import common

SIDE, WIDTH = 32, 32


def tokenizer():
    pieces = common.word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return BertTokenizerFast(tokenizer_object=pieces, model_max_length=32)


def model(fast, seed=7, emphasis=1.4):
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    # The vision tower has a width of its own, which the projection brings to that of the text.
    config = GitConfig(vision_config=layers | {"hidden_size": 24, "image_size": SIDE, "patch_size": 8}, **layers,
                       hidden_size=WIDTH, vocab_size=len(fast), max_position_embeddings=32, pad_token_id=fast.pad_token_id,
                       bos_token_id=fast.cls_token_id, eos_token_id=fast.sep_token_id)
    git = common.reinitialise(GitForCausalLM(config), seed)
    with torch.no_grad():
        head = git.get_output_embeddings().weight
        head[[fast.pad_token_id, fast.unk_token_id, fast.cls_token_id, fast.mask_token_id]] *= 0.2
        head[fast.sep_token_id] *= emphasis
    git.generation_config = GenerationConfig(bos_token_id=fast.cls_token_id, eos_token_id=fast.sep_token_id,
                                             pad_token_id=fast.pad_token_id, max_length=13)
    return git


@torch.no_grad()
def main():
    fast = tokenizer()
    processor = GitProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}), fast)
    git = common.export_by_job("git_caption", model(fast), processor, common.MODELS / "git")
    pixels = [processor(images=picture, return_tensors="pt").pixel_values for picture in common.photos()]
    image_tokens = (SIDE // 8)**2 + 1

    def generate(image, prefix, settings):
        return git.generate(pixel_values=image, input_ids=prefix, do_sample=False, **settings)[0]

    def logits(image, sequence):
        return git(pixel_values=image, input_ids=sequence).logits[0, image_tokens:]

    states = [git.git.visual_projection(git.git.image_encoder(image).last_hidden_state)[0] for image in pixels]
    common.write("git", {
        "pixels": common.probes([image[0] for image in pixels]),
        "states": {"output": "last_hidden_state"} | common.probes(states),
        "cases": common.cases(common.CASES, pixels, fast, fast.cls_token_id, [fast.sep_token_id], generate, logits)})


if __name__ == "__main__":
    main()
