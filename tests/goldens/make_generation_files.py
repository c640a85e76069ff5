"""Writes src/model/defaults.json and tests/goldens/generation_files.json.

What transformers reads out of the files of a model directory: config.json, its sections, the defaults of its configuration classes
and generation_config.json. The models are those of make_generation.py; only their JSON files vary.

    python tests/goldens/make_generation_files.py [SOURCE OF TRANSFORMERS 5]     # needs what make_generation.py needs
"""

import copy
import json
import pathlib
import re
import sys
import tempfile

import make_generation as base  # silences transformers
import torch
from PIL import Image
from transformers import (EpsilonLogitsWarper, EtaLogitsWarper, GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast,
                          TopKLogitsWarper, TypicalLogitsWarper, VisionEncoderDecoderModel, ViTImageProcessor)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

FIELDS = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"]
SECTIONS = ("decoder", "generator", "text_config")
DEFAULTS = base.ROOT / "src/model/defaults.json"
HERE = pathlib.Path(__file__)
# One key for each word; a key with a dot is of a section; null removes a key, NULL writes a null.
NULL = "null!"
TROCR = {"decoder_start_token_id": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": [2, 40], "max_length": 13}
GPT2 = {"decoder_start_token_id": 0, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "max_length": 13}
BARE = {"config": {"decoder_start_token_id": None, "eos_token_id": None, "pad_token_id": None}}
LEAKS = {"num_beams": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.7, "eos_token_id": [40, 41], "max_length": 7,
         "min_length": 5, "forced_bos_token_id": 60, "suppress_tokens": [8, 9]}


def of(section, settings):
    return {f"{section}.{name}": value for name, value in settings.items()}


def case(name, model, config=None, generation=None, refused=None, **job):
    made = {"name": name, "model": model, "config": config or {}, "generation": generation, "job": job}
    return made | ({"refused": refused} if refused else {})


def where_settings_are():
    for model, own in [("vit_gpt2", GPT2), ("trocr", TROCR)]:
        yield case("config.json beside generation_config.json", model, LEAKS, own)
        yield case("a section beside generation_config.json", model, of("decoder", LEAKS), own)
        without = {name: value for name, value in own.items() if name != "eos_token_id"}
        yield case("no end token in generation_config.json", model, {}, without)
        without = {name: value for name, value in own.items() if name != "decoder_start_token_id"}
        yield case("no decoder_start_token_id in generation_config.json", model, {}, without | {"bos_token_id": 3})
        without = {name: value for name, value in without.items() if name != "bos_token_id"}
        yield case("no start token in generation_config.json", model, {}, without, refused="decoder_start_token_id")
        yield case("a null end token", model, LEAKS, own | {"eos_token_id": NULL})
        derived = own | {"_from_model_config": True}
        yield case("a file that was derived, and config.json was changed", model, LEAKS, derived)
        yield case("a file that was derived, and a section was changed", model, of("decoder", LEAKS), derived)
        yield case("a file that was derived, and nothing was changed", model, {"num_beams": 1, "min_length": NULL}, derived)
        yield case("no generation_config.json", model)
        yield case("no generation_config.json, settings at the top", model, LEAKS)
        yield case("no generation_config.json, settings in a section", model, of("decoder", LEAKS))
        yield case("no generation_config.json, a default at the top", model,
                   {"num_beams": 1, "max_length": 20, "no_repeat_ngram_size": 0} | of("decoder", LEAKS))
        yield case("no generation_config.json, a null at the top", model, {"num_beams": NULL} | of("decoder", LEAKS))
        yield case("no generation_config.json, new names", model, {"max_new_tokens": 6, "min_new_tokens": 6})
        yield case("no generation_config.json, a null end token in the section", model,
                   {"eos_token_id": None, "decoder.eos_token_id": NULL})
    yield case("no generation_config.json, tokens of the decoder's class", "trocr", BARE["config"])
    yield case("no generation_config.json, an end token of the section", "trocr",
               BARE["config"] | {"decoder.eos_token_id": 40, "decoder.decoder_start_token_id": 5})
    yield case("no generation_config.json, an end token of the decoder's class", "vit_gpt2",
               {"eos_token_id": None, "decoder.eos_token_id": None})


def what_settings_do():
    beams, penalty = {"num_beams": 3}, {"repetition_penalty": 1.6}
    for name, settings, refused in [
        ("renormalize_logits", {"renormalize_logits": True}, None),
        ("renormalize_logits, beams", beams | penalty | {"renormalize_logits": True}, None),
        ("renormalize_logits, beams, bans", beams | {"renormalize_logits": True, "suppress_tokens": list(range(60, 130)),
                                                     "no_repeat_ngram_size": 1}, None),
        ("the same without renormalize_logits", beams | penalty, None),
        ("renormalize_logits, beams, forced", beams | {"renormalize_logits": True, "forced_eos_token_id": 5}, None),
        ("exponential_decay_length_penalty", {"exponential_decay_length_penalty": [2, 1.7]}, None),
        ("exponential_decay_length_penalty, beams", beams | {"exponential_decay_length_penalty": [1, 1.4]}, None),
        ("exponential_decay_length_penalty, no end", {"exponential_decay_length_penalty": [1, 1.4], "eos_token_id": NULL},
         "exponential_decay_length_penalty"),
        ("sequence_bias", {"sequence_bias": [[[61], 2.5], [[33], -3.0], [[61, 40], 9.0]]}, None),
        ("sequence_bias, beams", beams | {"sequence_bias": [[[61], 1.5], [[33], -3.0], [[61, 70], 4.0]]}, None),
        ("sequence_bias, empty", {"sequence_bias": []}, "sequence_bias"),
        ("sequence_bias by text", {"sequence_bias": {"(61,)": 2.5}}, "sequence_bias"),
        ("sequence_bias beyond the vocabulary", {"sequence_bias": [[[4000], 2.5]]}, "sequence_bias"),
        ("bad_words_ids, empty", {"bad_words_ids": []}, "bad_words_ids"),
        ("encoder penalties", {"encoder_repetition_penalty": 2.5, "encoder_no_repeat_ngram_size": 2}, None),
        ("sampling's settings without sampling", {"typical_p": 0.3, "top_p": 0.2, "top_k": 2, "min_p": 0.5, "epsilon_cutoff": 0.2,
                                                   "eta_cutoff": 0.3, "temperature": 0.3}, None),
        ("sampling's settings out of range without sampling", {"top_p": 7.0, "top_k": -3, "min_p": 5.0, "temperature": 0.0,
                                                                "typical_p": -1.0}, None),
        ("beams' settings without beams", {"length_penalty": -3.0, "early_stopping": True, "diversity_penalty": 1.0,
                                           "num_beam_groups": 2}, None),
        ("diversity_penalty alone", beams | {"diversity_penalty": 1.5}, None),
        ("num_beam_groups", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5}, "num_beam_groups"),
        ("penalty_alpha", {"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ("penalty_alpha, one token", {"penalty_alpha": 0.6, "top_k": 1}, None),
        ("penalty_alpha, beams", beams | {"penalty_alpha": 0.6}, None),
        ("dola_layers", {"dola_layers": "low"}, "dola_layers"),
        ("dola_layers, beams", beams | {"dola_layers": "low"}, None),
        ("force_words_ids", beams | {"force_words_ids": [[60]]}, "force_words_ids"),
        ("constraints", beams | {"constraints": [1]}, "constraints"),
        ("low_memory", {"low_memory": True}, None),
        ("low_memory, beams", beams | {"low_memory": True}, "low_memory"),
        ("num_return_sequences", {"num_return_sequences": 2}, "num_return_sequences"),
        ("num_return_sequences, beams", beams | {"num_return_sequences": 2}, "!num_return_sequences"),
        ("watermarking_config", {"watermarking_config": {"bias": 3.0}}, "!watermarking_config"),
        ("guidance_scale", {"guidance_scale": 1.5}, "!guidance_scale"),
        ("guidance_scale of 1", {"guidance_scale": 1}, None),
        ("max_time", {"max_time": 100.0}, "!max_time"),
        ("token_healing", {"token_healing": True}, "!token_healing"),
        ("cache_implementation", {"cache_implementation": "dynamic"}, None),
        ("cache_implementation, unknown", {"cache_implementation": "quick"}, "cache_implementation"),
        ("cache_implementation, rounded", {"cache_implementation": "quantized"}, "!cache_implementation"),
        ("use_cache", {"use_cache": False}, None),
        ("remove_invalid_values", {"remove_invalid_values": True, "forced_bos_token_id": 60, "no_repeat_ngram_size": 1}, None),
        ("remove_invalid_values, beams", beams | {"remove_invalid_values": True, "forced_bos_token_id": 60,
                                                  "no_repeat_ngram_size": 1, "forced_eos_token_id": 5}, None),
        ("outputs", {"output_scores": True, "return_dict_in_generate": False, "output_attentions": False}, None),
        ("assistants", {"num_assistant_tokens": 3, "assistant_lookbehind": 2, "num_assistant_tokens_schedule": "heuristic"}, None),
        ("names that no version knows", {"forced_decoder_ids": [[1, 60]], "begin_index": 3, "made_up": {"a": 1}}, None),
        ("an argument of generate", {"logits_processor": []}, "logits_processor"),
        ("max_length and max_new_tokens", {"max_length": 5, "max_new_tokens": 8}, None),
        ("min_length and min_new_tokens", {"min_length": 3, "min_new_tokens": 8}, None),
        ("min_length beyond max_length", {"min_length": 30, "max_length": 6}, None),
        ("min_new_tokens beyond max_length", {"min_new_tokens": 30, "max_length": 6}, None),
        ("max_length of 20", {"max_length": 20, "eos_token_id": NULL}, None),
        ("max_length of 1", {"max_length": 1}, "max_length"),
        ("max_new_tokens of 0", {"max_new_tokens": 0}, "max_new_tokens"),
        ("negative n-grams", {"no_repeat_ngram_size": -1}, None),
        ("a penalty of 0", {"repetition_penalty": 0.0}, "repetition_penalty"),
        ("early_stopping by another name", {"early_stopping": "soon"}, "early_stopping"),
        ("forced end, min_new_tokens", {"forced_eos_token_id": [5, 6], "min_new_tokens": 9, "max_length": 8}, None),
    ]:
        for model in ["vit_gpt2", "trocr"]:
            generation = (GPT2 if model == "vit_gpt2" else TROCR) | settings
            yield case(name, model, {}, generation, refused)
    for name in FIELDS:
        if name in ["use_cache", "bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"]:
            continue
        yield case(f"{name} is null", "trocr", {}, TROCR | {name: NULL}, "?" + name)
        yield case(f"{name} is null, beams", "trocr", {}, TROCR | beams | {name: NULL}, "?" + name)
    lengths = {"max_length": 9, "min_length": 7}
    yield case("lengths count the prompt", "trocr", {}, TROCR | lengths, prompt="baba di")
    yield case("the default does not count it", "vit_gpt2", {}, GPT2 | {"max_length": 20}, prompt="baba di")
    yield case("lengths count the prompt, beams", "vit_gpt2", {}, GPT2 | lengths, prompt="baba di", num_beams=3)
    yield case("a prompt as long as max_length", "trocr", {}, TROCR | {"max_length": 4}, "max_length", prompt="baba di")
    yield case("job over file", "trocr", {}, TROCR | {"num_beams": 4, "max_length": 5, "repetition_penalty": 1.4},
               max_new_tokens=8, num_beams=2)
    yield case("lengths by max_new_tokens alone", "trocr", {}, TROCR | {"max_length": NULL}, max_new_tokens=8)


def patched(config, patch):
    config = copy.deepcopy(config)
    for name, value in patch.items():
        *path, last = name.split(".")
        target = config
        for part in path:
            target = target[part]
        if value is None:
            target.pop(last, None)
        else:
            target[last] = None if value == NULL else value
    return config


@torch.no_grad()
def answered(folder, made, fast, pixels):
    """The case with the rows of `generate`, or without if it raises."""
    source = json.loads((folder / "config.json.orig").read_text())
    (folder / "config.json").write_text(json.dumps(patched(source, made["config"])))
    generation = folder / "generation_config.json"
    generation.unlink(missing_ok=True)
    if made["generation"] is not None:
        generation.write_text(json.dumps(patched({}, made["generation"])))
    made = dict(made)
    refused = made.pop("refused", "")
    for part, value in [("config", made["config"]), ("generation", made["generation"] or {})]:
        made[part] = None if part == "generation" and made["generation"] is None else value
    job = dict(made["job"])
    prompt = job.pop("prompt", None)
    stated = refused.startswith("!")  # transformers goes on, and nightcap cannot
    if stated:
        return made | {"refused": refused[1:]}
    rows = []
    try:
        model = VisionEncoderDecoderModel.from_pretrained(folder).eval()
        for image in pixels:
            given, start = dict(job), None
            if prompt:
                start = torch.tensor([fast(prompt, add_special_tokens=False).input_ids])
                given["decoder_input_ids"] = start
            sequence = model.generate(image, tokenizer=fast, **given)[0]
            count = 1 + (start.shape[1] if prompt else 0)
            tokens = sequence[count:]
            logits = model(pixel_values=image, decoder_input_ids=sequence[None, :-1]).logits[0, count - 1:]
            logprob = logits.double().log_softmax(-1).gather(1, tokens[:, None]).sum().item()
            rows.append([tokens.tolist(), round(logprob, 6)])
    except Exception as error:
        if not refused:
            raise SystemExit(f"{made['name']}, {made['model']}: {type(error).__name__}: {error}") from error
        print("  refused:", made["name"], made["model"], type(error).__name__, str(error)[:100])
        return made | {"refused": refused.lstrip("?")}
    if refused and not refused.startswith("?"):
        raise SystemExit(f"{made['name']}, {made['model']}: expected transformers to refuse it")
    return made | {"rows": rows}


def goldens():
    processor = ViTImageProcessor(size={"height": base.SIDE, "width": base.SIDE})
    pixels = [processor(Image.open(base.PHOTOS / name).convert("RGB"), return_tensors="pt").pixel_values for name in base.NAMES]
    cases = [*where_settings_are(), *what_settings_do()]
    answers, images = [], [0, 2, 5]
    for make in [base.vit_gpt2, base.trocr]:
        model, bpe = make()
        fast = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)
        known = json.loads((HERE.parent / "generation.json").read_text())["models"][make.__name__]["cases"][0]
        made, _ = base.golden(model, fast, pixels[0], {})
        assert made["tokens"] == known["rows"][0]["tokens"], "the models are not those of the fixtures"
        with tempfile.TemporaryDirectory() as work:
            folder = pathlib.Path(work)
            model.save_pretrained(folder)
            (folder / "config.json").rename(folder / "config.json.orig")
            for wanted in [wanted for wanted in cases if wanted["model"] == make.__name__]:
                answers.append(answered(folder, wanted, fast, [pixels[image] for image in images]))
    return {"images": images, "cases": answers}


def warped():
    """The probabilities that sampling draws from, with the filters that are not in generation.json."""
    logits = json.loads((HERE.parent / "generation.json").read_text())["warpers"]["logits"]
    cases = []
    for settings in [{"typical_p": 0.3}, {"typical_p": 0.7}, {"typical_p": 0.95, "top_k": 6}, {"epsilon_cutoff": 0.05},
                     {"epsilon_cutoff": 0.9}, {"eta_cutoff": 0.3}, {"eta_cutoff": 0.05}, {"top_k": 5, "eta_cutoff": 0.9},
                     {"top_k": 6, "typical_p": 0.8, "epsilon_cutoff": 0.1, "eta_cutoff": 0.2}]:
        scores = torch.tensor([logits])
        for name, warper in [("top_k", TopKLogitsWarper), ("typical_p", TypicalLogitsWarper), ("epsilon_cutoff", EpsilonLogitsWarper),
                             ("eta_cutoff", EtaLogitsWarper)]:
            if name in settings:
                scores = warper(settings[name])(None, scores)
        cases.append({"settings": settings, "probabilities": scores.double().softmax(-1)[0].tolist()})
    return {"logits": logits, "cases": cases}


def class_defaults():
    """What the class of each model type says where config.json says nothing: generation settings, positions, types of sections, the class
    of its tokenizer."""
    plain, types = PretrainedConfig().to_dict(), {}
    names = [name for name in FIELDS if name != "use_cache"] + ["sep_token_id"]
    waiting = [(kind, CONFIG_MAPPING[kind]) for kind in CONFIG_MAPPING_NAMES]
    while waiting:
        kind, make = waiting.pop(0)
        try:
            config = make()
            values = config.to_dict()
        except Exception:  # it has no defaults
            continue
        entry = {name: values[name] for name in names if name in values and values[name] != plain.get(name)}
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int):
            entry["max_position_embeddings"] = positions
        sections = {section: values[section].get("model_type") for section in SECTIONS if isinstance(values.get(section), dict)}
        entry |= {section: {"model_type": named} for section, named in sections.items() if named}
        # classes of sections that are no models of their own
        waiting += [(named, type(getattr(config, section))) for section, named in sections.items()
                    if named and named not in CONFIG_MAPPING_NAMES and named not in types]
        if entry:
            types.setdefault(kind, entry)
    for kind, (_, fast) in TOKENIZER_MAPPING_NAMES.items():
        if fast:
            types.setdefault(kind, {})["tokenizer_class"] = fast
    return types


def resolved_configs():
    """config.json of several classes as they are saved, and the settings that transformers makes of them."""
    made = []
    for kind in ["gpt2", "bert", "roberta", "xlm-roberta", "camembert", "trocr", "bart", "mbart", "electra", "git", "blip", "llava",
                 "idefics3", "smolvlm", "florence2", "pix2struct", "paligemma", "blip-2", "kosmos-2", "qwen2_vl", "t5", "opt"]:
        config = CONFIG_MAPPING[kind]()
        with tempfile.TemporaryDirectory() as work:
            config.save_pretrained(work)
            saved = json.loads(pathlib.Path(work, "config.json").read_text())
        kept = {name: value for name, value in saved.items() if name in FIELDS or name == "model_type"}
        for section in SECTIONS:
            if isinstance(saved.get(section), dict):
                kept[section] = {name: value for name, value in saved[section].items() if name in FIELDS or name == "model_type"}
        settings, plain = GenerationConfig.from_model_config(config).to_dict(), GenerationConfig().to_dict()
        made.append({"config": kept, "settings": {name: settings.get(name) for name in FIELDS
                                                  if settings.get(name) != plain.get(name) and name != "use_cache"}})
    return made


def newer_fields(source):
    text = pathlib.Path(source, "generation/configuration_utils.py").read_text()
    names = re.findall(r'self\.(\w+) = kwargs\.pop\("(\w+)"', text)
    return sorted({name for _, name in names if not name.startswith("_")} - set(FIELDS) - {"transformers_version"})


def main():
    types = class_defaults()
    lines = [f"  {json.dumps(kind)}: {json.dumps(types[kind], sort_keys=True)}" for kind in sorted(types)]
    DEFAULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    target = HERE.with_name("generation_files.json")
    newer = newer_fields(sys.argv[1]) if len(sys.argv) > 1 else json.loads(target.read_text())["fields_of_5"]
    parts = {"fields": sorted(FIELDS), "fields_of_5": newer, "warpers": warped(), "configs": resolved_configs()} | goldens()
    lines = []
    for name, value in parts.items():
        listed = isinstance(value, list) and value and isinstance(value[0], dict)
        dumped = json.dumps(value) if not listed else "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
        lines.append(f"{json.dumps(name)}: {dumped}")
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
