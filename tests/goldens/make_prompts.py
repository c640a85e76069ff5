"""Writes tests/goldens/prompts.json: what transformers makes of chat templates, Florence-2's tasks, and special tokens.

    python tests/goldens/make_prompts.py       # needs transformers 4.57.6, jinja2, tokenizers

The templates have the shapes of those of published models, or use one thing each that templates may use.
"""

import datetime
import json
import pathlib
import tempfile
import types

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, Florence2Processor
from transformers.utils import chat_template_utils

QUESTION = " What is \"it\", caf\u00e9 & <b>?\n"
NOW = datetime.datetime(2026, 11, 28, 4, 5, 6)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>",
          "additional_special_tokens": ["<a>", "<b>"]}

SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QWEN2_VL = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
LLAMA32 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
    {%- set user_supplied_system_message = true %}
{%- else %}
    {%- set system_message = "" %}
    {%- set user_supplied_system_message = false %}
{%- endif %}

{#- Find out if there are any images #}
{% set image_ns = namespace(has_images=false) %}
{%- for message in messages %}
    {%- for content in message['content'] %}
        {%- if content['type'] == 'image' %}
            {%- set image_ns.has_images = true %}
        {%- endif %}
    {%- endfor %}
{%- endfor %}

{#- System message if there are no images, or if the user supplied one #}
{%- if user_supplied_system_message or not image_ns.has_images %}
    {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
    {%- if tools is not none %}
        {{- "Environment: ipython\\n" }}
    {%- endif %}
    {{- "Cutting Knowledge Date: December 2023\\n" }}
    {{- "Today Date: " + date_string + "\\n\\n" }}
    {{- system_message }}
    {{- "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message['content'] is string %}
            {{- message['content'] }}
        {%- else %}
            {%- for content in message['content'] %}
                {%- if content['type'] == 'image' %}
                    {{- '<|image|>' }}
                {%- elif content['type'] == 'text' %}
                    {{- content['text'] }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- elif message.role == "tool" %}
        {{- message.content | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
PIXTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\\n\\n" }}
        {%- else %}
            {{- "[INST]" }}
        {%- endif %}
        {%- if message["content"] is not string %}
            {%- for chunk in message["content"] %}
                {%- if chunk["type"] == "text" %}
                    {{- chunk["text"] }}
                {%- elif chunk["type"] == "image" %}
                    {{- "[IMG]" }}
                {%- else %}
                    {{- raise_exception("Unrecognized content type!") }}
                {%- endif %}
            {%- endfor %}
        {%- else %}
            {{- message["content"] }}
        {%- endif %}
        {{- "[/INST]" }}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {
    "smolvlm": SMOLVLM, "llava": LLAVA, "llava_onevision": ONEVISION, "qwen2_vl": QWEN2_VL, "gemma3": GEMMA3, "llama32": LLAMA32,
    "pixtral": PIXTRAL,
    "absent token": "[{{ cls_token }}]{% if cls_token is defined %}defined{% endif %}",
    "tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ image_token }}{{ additional_special_tokens }}",
    "none": "{{ tools }} {{ documents }} {{ tools is defined }} {{ tools is none }} {{ add_generation_prompt }}",
    "tojson": "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|{{ {'b': 1, 'a': [1.5, none, true, 1e30, 1e-7]} | tojson }}",
    "tojson options": "{{ {'b': 'é', 'a': []} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}"
                      "{{ {'b': [], 'a': {}} | tojson(indent=4) }}{{ 'a\"\\\\\n\t<' | tojson }}{{ [[1, 2], []] | tojson(indent=1) }}",
    "strftime_now": "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j %%') }}",
    "raise_exception": "{% if messages %}{{ raise_exception('only texts') }}{% endif %}",
    "break": "{% for i in range(9) %}{% if i == 3 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "generation": "{%- generation -%} a {%- endgeneration -%} {%generation%}{% set x = 1 %}b{% endgeneration %}{{ x }}",
    "items": "{% for key, value in messages[0]['content'][1].items() %}{{ key }}={{ value }};{% endfor %}"
             "{% for key, value in {'z': 1, 'y': 2}.items() %}{{ key }}{{ value }}{% endfor %}",
    "methods": "{{ ' a b '.strip() }}|{{ 'a,b'.split(',') }}|{{ 'ab'.startswith('a') }}|{{ 'abc'[::-1] }}|{{ 'x'.join(['a', 'b']) }}"
               "|{{ 'ab'.replace('a', 'c') }}|{{ 'a\n'.rstrip('\n') }}|{{ messages[-1].role }}|{{ 'Ab'.lower() | title }}",
    "reversed": "{% for message in messages[::-1] %}{{ loop.index }}{{ loop.last }}{% endfor %}{{ [1, 2, 3][:-1] }}",
    "blocks": "  {% if true %}\n a\n  {% endif %}\n b\n",
    "macro": "{% macro show(item) %}{{ item.type }}{% endmacro %}{% for item in messages[0].content %}{{ show(item) }}{% endfor %}",
    "namespace": "{% set ns = namespace(found=false) %}{% for c in messages[0].content %}{% if c.type == 'text' %}"
                 "{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}",
    "numbers": "{{ 7 // 2 }} {{ 7 / 2 }} {{ 1 == 1.0 }} {{ 2 ** 3 }} {{ -1 }} {{ 0.1 }} {{ [1, 'a', none, true] }} {{ {'a': 'b'} }}",
    "filters": "{{ messages | map(attribute='role') | join(',') }} {{ messages | length }} {{ undefined | default('d') }}"
               " {{ [3, 1] | sort }} {{ 'a' in ['a'] }} {{ (messages | first).role }} {{ 'x' | upper }}",
}


def rendered(template):
    """What `render_jinja_template` makes of a user's message with an image, and whether it raises an error instead."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    try:
        [text], _ = chat_template_utils.render_jinja_template([messages], chat_template=template, add_generation_prompt=True,
                                                              **TOKENS)
        return {"text": text}
    except Exception as error:  # whatever a template does wrong
        return {"error": str(error)}


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


FLORENCE = ["<CAPTION>", "<OD>", "<CAPTION> more", "a <OCR>", "<CAPTION_TO_PHRASE_GROUNDING> A {green} car. ", "what is <REGION_TO_OCR>"
            "<loc_1><loc_2>", "<REGION_TO_CATEGORY><loc_52><loc_332><loc_932><loc_774>", "<OPEN_VOCABULARY_DETECTION>cat",
            "<REFERRING_EXPRESSION_SEGMENTATION>a cat", "<REGION_TO_SEGMENTATION><loc_1>", "<REGION_TO_DESCRIPTION><loc_1>",
            "<REGION_PROPOSAL>", "<MORE_DETAILED_CAPTION>", "Where is it?", "<UNKNOWN>x"]


def florence(prompt):
    asked = types.SimpleNamespace()
    asked.task_prompts_without_inputs, asked.task_prompts_with_input = TASKS
    try:
        return {"text": Florence2Processor._construct_prompts(asked, prompt)[0]}
    except ValueError as error:
        return {"error": str(error)}


def tasks():
    """The tables of tasks that the processor's constructor makes."""
    made = object.__new__(Florence2Processor)
    image_processor = types.SimpleNamespace(image_seq_length=1)
    try:
        Florence2Processor.__init__(made, image_processor, types.SimpleNamespace(image_token="<image>", image_token_id=1))
    except Exception:  # the rest of it needs real parts
        pass
    return made.task_prompts_without_inputs, made.task_prompts_with_input


WORDS = ["<unk>", "a", "b", "c", "<x>", "<y>", "<z>", "[PAD]", "<s>", "</s>"]
IDS = list(range(len(WORDS))) + [10, 11]


def plain():
    """A tokenizer of words, of which `<s>` is an added special token and `<x>` and `<y>` are added ones that are not special."""
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    words.add_tokens([AddedToken("<x>", normalized=False), AddedToken("<y>", normalized=False)])
    words.add_special_tokens(["<s>"])
    return words


def flags(content, **other):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | other


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
FILES = {
    "tokenizer.json alone": {"tokenizer_config.json": FAST},
    "added_tokens_decoder": {"tokenizer_config.json": FAST | {"added_tokens_decoder": {"4": flags("<x>", special=True)}}},
    "added_tokens_decoder, not special": {"tokenizer_config.json": FAST | {"added_tokens_decoder": {"6": flags("<z>", special=False)}}},
    "additional": {"tokenizer_config.json": FAST | {"additional_special_tokens": ["<z>", "<x>"]}},
    "additional and decoder": {"tokenizer_config.json": FAST | {
        "additional_special_tokens": ["<z>"], "added_tokens_decoder": {"6": flags("<z>", special=False)}}},
    "extra": {"tokenizer_config.json": FAST | {"extra_special_tokens": {"image_token": "<z>"}}},
    "named": {"tokenizer_config.json": FAST | {"pad_token": "[PAD]", "eos_token": {"__type": "AddedToken"} | flags("</s>")}},
    "map": {"tokenizer_config.json": FAST, "special_tokens_map.json": {
        "pad_token": flags("[PAD]"), "additional_special_tokens": ["<z>"]}},
    "map beside a decoder": {"tokenizer_config.json": FAST | {"added_tokens_decoder": {}}, "special_tokens_map.json": {
        "pad_token": "[PAD]"}},
    "added_tokens.json": {"tokenizer_config.json": FAST | {"additional_special_tokens": ["<z>"]},
                          "added_tokens.json": {"<z>": 6, "<new>": 10}},
    "new": {"tokenizer_config.json": FAST | {"additional_special_tokens": ["<new>", "<newer>"]}},
    "class": {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}},
    "null": {"tokenizer_config.json": FAST | {"pad_token": None, "additional_special_tokens": ["[PAD]"]}},
    "cleaned": {"tokenizer_config.json": FAST | {"clean_up_tokenization_spaces": True}},
}
TEXT = "a<x>b <z> [PAD]c <y> </s> <new>"


def special(files):
    with tempfile.TemporaryDirectory() as folder:
        plain().save(f"{folder}/tokenizer.json")
        for name, content in files.items():
            pathlib.Path(folder, name).write_text(json.dumps(content))
        fast = AutoTokenizer.from_pretrained(folder)
        ids = [each for each in IDS if fast.convert_ids_to_tokens(each) is not None]
        return {"files": files, "ids": ids, "decoded": fast.decode(ids, skip_special_tokens=True),
                "encoded": fast(TEXT, add_special_tokens=False).input_ids,
                "variables": {name: value for name, value in fast.special_tokens_map.items()}}


TASKS = tasks()


def main():
    chat_template_utils.datetime = Frozen
    path = pathlib.Path(__file__).with_name("prompts.json")
    content = {
        "question": QUESTION, "now": NOW.isoformat() + "Z", "tokens": TOKENS,
        "templates": [{"name": name, "template": template} | rendered(template) for name, template in TEMPLATES.items()],
        "florence2": [{"prompt": prompt} | florence(prompt) for prompt in FLORENCE],
        "tokenizer": json.loads(plain().to_str()), "text": TEXT,
        "special_tokens": [{"name": name} | special(files) for name, files in FILES.items()],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


main()
