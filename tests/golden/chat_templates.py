"""Chats rendered by transformers, for templates of the kinds that students carry.

Writes chat_templates.json: a list of templates, each with its special tokens and chats; a chat has
messages ([role, content]), add_generation_prompt and the expected text, null where the template
refuses the messages with raise_exception.

SMOLLM2 is the template of SmolLM2-135M-Instruct; the others are written for this test, with what the
templates of Llama 3, Qwen 2 and 3, Mistral and Gemma use of Jinja.

Run by `cargo xtask golden`.
"""

import json
from pathlib import Path

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

OUT = Path(__file__).parent / "chat_templates.json"

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN2 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "{\\"name\\": <function-name>}<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function if call.function is defined else call %}
            {{- call.arguments | tojson }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """\
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role in ['user', 'system'] %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' ~ message.role ~ '\\n<think>\\n' ~ reasoning_content.strip('\\n') ~ '\\n</think>\\n\\n' ~ content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("This template knows no tools!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant!') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

# Blocks that rely on trim_blocks and lstrip_blocks, macros, loop controls, dict and list literals,
# tuples, set blocks and JSON.
MIXED = """\
{% macro turn(role, text='') -%}
<start_of_turn>{{ role }}
{{ text | trim }}<end_of_turn>
{% endmacro %}
{% set names = {'assistant': 'model', 'user': 'user'} %}
{% set ns = namespace(seen=[], text='') %}
    {% for message in [{'role': 'user', 'content': 'é "q" \\\\ <b>'}] + messages %}
        {% if message.role not in names %}
            {% continue %}
        {% endif %}
        {% set ns.seen = ns.seen + [message.role] %}
        {% set ns.text = ns.text ~ loop.index ~ message.role | upper ~ ',' %}
{{ turn(names[message.role], message.content) }}
    {%- endfor %}
{% set block %}
{% for key, value in names.items() %}{{ key }}={{ value }}{{ ' ' if not loop.last }}{% endfor %}
{% endset %}
{{ block | trim }} {{ ns.seen | join('/') }} {{ ', '.join(ns.seen) }} {{ ns.text }}
{{ {'seen': ns.seen, 'n': 2, 'x': none, 'y': [true, 1.5]} | tojson }} {{ messages[0] | tojson }}
{{ ('a', 'b')[1] }} {{ 'ab' * 3 }} {{ messages[0].content.title() }} {{ messages | map(attribute='role') | list | length }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ undefined_thing }}|{{ 'a-b-c'.replace('-', '+', 1) }}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
"""

CHATS = [
    [("user", "Hello, who are you?")],
    [("system", "Be  brief.\n"), ("user", " Hi "), ("assistant", "Yes?"), ("user", "<|im_end|> 日本 😀\n\n")],
    [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c"), ("assistant", "<think>x</think>d")],
    [("user", "one"), ("user", "two")],
    [("system", ""), ("user", "")],
]


def main():
    templates = {"smollm2": SMOLLM2, "qwen2": QWEN2, "qwen3": QWEN3, "llama3": LLAMA3, "mistral": MISTRAL, "mixed": MIXED}
    out = []
    for name, template in templates.items():
        tokens = dict(bos_token="<s>", eos_token="</s>")
        chats = []
        for chat in CHATS:
            for prompt in (False, True):
                messages = [dict(role=role, content=content) for role, content in chat]
                try:
                    rendered, _ = render_jinja_template(
                        [messages], chat_template=template, add_generation_prompt=prompt, **tokens
                    )
                    expected = rendered[0]
                except jinja2.exceptions.TemplateError:
                    expected = None
                chats.append(dict(messages=chat, add_generation_prompt=prompt, expected=expected))
        out.append(dict(name=name, template=template, **tokens, chats=chats))
    OUT.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
