"""What the golden files of models have in common whose prompt is always given (LLaVA, SmolVLM, Florence-2).

The processor makes one input of an image and its prompt. What `generate` adds to it is the caption.
"""

import math

import torch

import common

PROMPT, QUESTION = "Describe the picture.", "Where is it? Say it in 3 words!"
# For models with a chat template; the prompt is the user's message. Penalties see the whole prefix, image tokens included.
CASES = {
    "greedy": {"prompt": PROMPT},
    "beam": {"prompt": PROMPT, "num_beams": 3},
    "beam_long": {"prompt": PROMPT, "num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    "fixed": {"prompt": PROMPT, "min_new_tokens": 7, "max_new_tokens": 7},
    "beam_fixed": {"prompt": PROMPT, "num_beams": 3, "min_new_tokens": 7, "max_new_tokens": 7},
    "short": {"prompt": PROMPT, "max_new_tokens": 4},
    "repetition": {"prompt": PROMPT, "repetition_penalty": 1.3},
    "question": {"prompt": QUESTION},
    "beam_question": {"prompt": QUESTION, "num_beams": 3},
}


def chat(processor, picture, prompt):
    """The processor's input for one image and the user's message about it."""
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}], add_generation_prompt=True)
    return processor(images=[picture], text=text, return_tensors="pt")


def chat_logits(model, given, sequence):
    """The logits [T, vocabulary] of a whole sequence, without a cache."""
    return model(**dict(given) | {"input_ids": sequence, "attention_mask": torch.ones_like(sequence)}).logits[0]


def margin(made):
    """The smallest distance between the best two tokens of a greedy caption, as its settings leave them; beams have none."""
    if "sequences_scores" in made:
        return math.inf
    best = torch.cat(made.scores).topk(2).values
    return (best[:, 0] - best[:, 1]).min().item()


def row(model, fast, given, prefix, settings, logits):
    """The row of a case for one image, and its margin. The first `prefix` tokens of the sequence are no caption's."""
    made = model.generate(**given, do_sample=False, output_scores=True, return_dict_in_generate=True, **settings)
    tokens = made.sequences[0, prefix:]
    logprobs = logits(model, given, made.sequences)[prefix - 1:-1].double().log_softmax(-1)
    text = fast.decode(tokens, skip_special_tokens=True)
    return ({"tokens": tokens.tolist(), "logprob": logprobs.gather(1, tokens[:, None]).sum().item(), "text": text.strip(),
             "finish": "eos" if tokens[-1] == model.generation_config.eos_token_id else "length"}, margin(made))


@torch.no_grad()
def cases(model, fast, settings, inputs, prefix, logits, report=common.report):
    """The cases of a golden file. `inputs(prompt)` are those of all images, `prefix(given)` the length of one's prefix."""
    made = []
    for name, named in settings.items():
        plain = {key: value for key, value in named.items() if key != "prompt"}
        rows, margins = zip(*(row(model, fast, given, prefix(given), plain, logits) for given in inputs(named["prompt"])))
        report(name, rows, margins)
        made.append({"name": name, "settings": named, "rows": list(rows)})
    return made


def chat_golden(model, processor):
    """The prefixes and cases of a model with a chat template, and the inputs of PROMPT."""
    pictures = common.photos()

    def inputs(prompt):
        return [chat(processor, picture, prompt) for picture in pictures]

    given = inputs(PROMPT)
    return given, {
        "prefix_tokens": [each.input_ids[0].tolist() for each in given],
        "cases": cases(model, processor.tokenizer, CASES, inputs, lambda each: each.input_ids.shape[1], chat_logits)}
