"""What the golden files of models with a chat template (LLaVA, SmolVLM) have in common."""

import torch

import common

PROMPT = "Describe the picture."
# The prompt is always given: it is the user's message. Penalties see the whole prefix, image tokens included, as
# `generate` has it.
CASES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "beam_long": {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    "fixed": {"min_new_tokens": 7, "max_new_tokens": 7},
    "beam_fixed": {"num_beams": 3, "min_new_tokens": 7, "max_new_tokens": 7},
    "short": {"max_new_tokens": 4},
    "repetition": {"repetition_penalty": 1.3},
    "question": {"prompt": "Where is it? Say it in 3 words!"},
    "beam_question": {"prompt": "Where is it? Say it in 3 words!", "num_beams": 3},
}


def inputs(processor, picture, prompt):
    """What the processor makes of one picture and the user's message about it."""
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}], add_generation_prompt=True)
    return processor(images=[picture], text=text, return_tensors="pt")


@torch.no_grad()
def row(model, processor, given, settings):
    """The row of a case for one picture, and the smallest distance between the best two tokens of a place."""
    start = given.input_ids.shape[1]
    sequence = model.generate(**given, do_sample=False, **settings)
    tokens = sequence[0, start:]
    full = dict(given) | {"input_ids": sequence, "attention_mask": torch.ones_like(sequence)}
    logits = model(**full).logits[0, start - 1:-1]
    logprobs = logits.double().log_softmax(-1).gather(1, tokens[:, None])
    best = logits.topk(2).values
    text = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    ended = tokens[-1] == model.generation_config.eos_token_id
    return ({"tokens": tokens.tolist(), "logprob": logprobs.sum().item(), "text": text.strip(),
             "finish": "eos" if ended else "length"}, (best[:, 0] - best[:, 1]).min().item())


def cases(model, processor, pictures):
    made = []
    for name, settings in CASES.items():
        settings = {"prompt": PROMPT} | settings
        plain = {key: value for key, value in settings.items() if key != "prompt"}
        rows, margins = zip(*(row(model, processor, inputs(processor, picture, settings["prompt"]), plain)
                              for picture in pictures))
        common.report(name, rows, margins)
        made.append({"name": name, "settings": settings, "rows": list(rows)})
    return made
