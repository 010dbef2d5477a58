"""Chat templates are programs of strangers: they write what transformers writes, or end in one line."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mm1_mlx.errors import PromptError
from mm1_mlx.inputs import sandbox
from mm1_mlx.inputs.sandbox import render_template

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What's <this>?\n"}]},
    {"role": "assistant", "content": "A cat & a dog."},
]
RIGHT = [
    "{% for m in messages %}<s>{{ m.role }} {{ m['content'] }}</s>{% endfor %}",
    "{{- bos_token }}{%- for m in messages %}{{ loop.index0 ~ '/' ~ loop.length }}{{ loop.last }}{% endfor -%}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content | trim | upper }}{% else %}"
    "{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %}{% endfor %}",
    "{{ messages | tojson(indent=2) }}{{ messages[0] | tojson }}{{ messages[1:] | length }}",
    "{% set ns = namespace(n=0, all=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.all = ns.all + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.all | join(', ') }}",
    "{% macro turn(m) %}[{{ m.role }}{{ caller() if caller }}]{% endmacro %}{{ turn(messages[0]) }}"
    "{% call turn(messages[1]) %}!{% endcall %}",
    "{% generation %}{{ 'a'.split('b') }}{% endgeneration %}{% set x %}{{ bos_token }}!{% endset %}{{ x }}",
    "{{ 'x%sy' % 3 }}{{ '{}-{}'.format(1, 'b') }}{{ 'abc' | replace('b', 'ddd') }}{{ 'abc'.replace('b', '') }}",
    "{{ ', '.join(['a', 'b']) }}{{ 'a,b'.split(',')[-1] }}{{ ' a'.strip() }}{{ 2 * 3 }}{{ 'a' * 3 }}{{ [1] * 2 }}",
    "{% for n in range(9) %}{% if n == 3 %}{% continue %}{% elif n == 5 %}{% break %}{% endif %}{{ n }}{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% endfor %}{{ messages | map(attribute='role') | list }}",
    "{% for m in messages | selectattr('role', 'equalto', 'user') recursive %}{{ m.role }}{% endfor %}",
    "{{ (messages | sort(attribute='role') | first).role }}{{ {'a': (1, 2)} }}{{ undefined_thing }}{{ none }}",
    "{% if tools is none and not documents %}{{ add_generation_prompt }}{{ 'a\nb' | indent(2) }}{% endif %}",
    "{{ [3, 1] | sum }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 'abc'[::-1] }}{{ '%02d' % 7 }}{{ 'a' in 'abc' }}",
]  # fmt: skip
WRONG = {
    "{{ 1/0 }}": "ZeroDivisionError: division by zero",
    '{{ 1 + "a" }}': "TypeError: unsupported operand",
    "{% include 'x' %}": "no loader",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "[" * 100_000 + "{{ 1 }}": None,
    "{{ " + "[" * 100_000: "recursion",
    "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}": "recursion",
    "{{ " + "1+" * 20_000 + "1 }}": "recursion",
    "{{ raise_exception('no system') }}": "no system",
    "{% for": "unexpected 'end",
    "{{ messages.__class__ }}": None,
    "{% set x = messages.append(1) %}": "unsafe",
}
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for x in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "{{ range(99999) | map('string') | list | length }}" * 30,
    "{{ 'x' * 1000000000 }}",
    "{{ 1000000000 * 'x' }}",
    "{{ [0] * 1000000000 }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x'.ljust(width=1000000000) }}{{ 'x'.rjust(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 1.5 | round(1000000000, 'ceil') }}",
    "{{ (1).to_bytes(1000000000, 'big') }}",
    "{{ 'ab' | replace('', 'x' * 90000) }}",
    "{{ ('a' * 90000).replace('a', 'b' * 90000) }}",
    "{{ ('a' * 90000).join(range(99999) | map('string')) }}",
    "{{ range(99999) | join('a' * 90000) }}",
    "{{ ('\n' * 90000) | indent(900) }}",
    "{{ [1] | batch(1000000000, 0) | list }}",
    "{{ lipsum(n=1000000) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = dict(a=ns.s, b=ns.s) %}{% endfor %}",
    "{% set a = 'x' * 99 %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
    "{% for i in range(99999) %}" + "x" * 9000 + "{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "x" * 9000 + "{% endfor %}{% endset %}",
    "{% set ns = namespace(l=[], m=[0] * 90000) %}{% for i in range(99999) %}{% set ns.l = ns.l + [ns.m[:]] %}"
    "{% endfor %}",
]  # fmt: skip


def render(template):
    return render_template(
        template, messages=MESSAGES, tools=None, documents=None, add_generation_prompt=True, bos_token="<s>"
    )


def test_what_a_template_writes_is_what_transformers_writes(subtests):
    for template in RIGHT:
        with subtests.test(template):
            (theirs,), _ = render_jinja_template(
                [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>"
            )
            assert render(template) == theirs


def test_a_template_that_fails_says_so_in_one_line(subtests):
    for template, told in WRONG.items():
        with subtests.test(template[:60]):
            if told is None:
                assert isinstance(render(template), str)
                continue
            with pytest.raises(PromptError) as caught:
                render(template)
            assert "chat template refuses these messages" in str(caught.value)
            assert (
                told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
            )


def test_a_template_that_would_not_end_or_fill_the_memory_is_stopped(subtests, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_STEPS", 10_000)
    monkeypatch.setattr(sandbox, "MAX_SIZE", 100_000)
    for template in ENDLESS:
        with (
            subtests.test(template[:80]),
            pytest.raises(PromptError, match="chat template refuses these mess"),
        ):
            render(template)


def test_a_long_conversation_is_within_the_limits():
    long = [{"role": "user", "content": "word " * 400_000}] * 3
    text = render_template(
        "{% for m in messages %}{{ '<s>' ~ m.content | trim + '</s>' }}{% endfor %}", messages=long
    )
    assert len(text) == 3 * (5 * 400_000 - 1 + len("<s></s>"))


def test_time_is_a_limit_too(monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.05)
    with pytest.raises(PromptError, match="does not end within"):
        render("{% for a in range(99999) %}{{ messages | tojson | length }}{% endfor %}")
