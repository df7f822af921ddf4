"""Chat templates in a process of their own."""

import subprocess

import pytest

from pav_jax.errors import BadInput
from pav_jax.language.chat import chat_text, user_chat
from pav_jax.language.template_renderer import TemplateRenderer

TEMPLATES = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}\n{% endfor %}",
    "{{ bos_token }}{% if tools is not none %}x{% endif %}{{ messages | tojson(indent=2) }}",
    "{% generation %}\n  {{ messages[0].content }}\n{% endgeneration %}\n",
    "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 5 %}{% break %}{% endif %}"
    "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{{ dict(a=1) }}{% if add_generation_prompt %}{{ eos_token }}{% endif %}",
]
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ ([0] * 10**10) | length }}",
    "{{ '%1000000000d' | format(1) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x | length }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
]
FAILING = [
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{{ 1 / 0 }}",
    "{{ missing.field.field }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ raise_exception('no system message') }}",
    "{% for m in messages %}",
    "{{ messages | nofilter }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_chat_text_matches_transformers(lm, template, monkeypatch):
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    messages = user_chat(" a <b>dog</b> \U0001f388 'runs' ")
    expected = lm.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert chat_text(lm.tokenizer, messages) == expected


@pytest.fixture(scope="module")
def renderer():
    renderer = TemplateRenderer()
    yield renderer
    renderer.close()


@pytest.mark.parametrize("template", ENDLESS + FAILING)
def test_render_failing_template(renderer, template):
    with pytest.raises(BadInput, match="chat template fails") as error:
        renderer.render(template, {"messages": user_chat("a dog")})
    assert error.value.field == "template" and len(str(error.value)) < 700
    # the next template is rendered as if nothing had happened
    assert renderer.render("{{ x }}", {"x": "é\ud800"}) == "é\ud800"


def test_render_one_process_for_many_texts(renderer, monkeypatch):
    renderer.render("x", {})
    process = renderer._running().pid
    monkeypatch.setattr(subprocess, "Popen", None)  # no other is started
    for i in range(1000):
        assert renderer.render("{{ x }}", {"x": i}) == str(i)
    assert renderer._running().pid == process


@pytest.mark.parametrize(
    ("template", "message"),
    [({"tool_use": "x"}, "none of them 'default'"), (None, "no chat template"), (3, "type int")],
)
def test_chat_text_no_usable_template(lm, monkeypatch, template, message):
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    with pytest.raises(BadInput, match=message):
        chat_text(lm.tokenizer, user_chat("a dog"))


def test_chat_text_named_templates(lm, monkeypatch):
    monkeypatch.setattr(lm.tokenizer, "chat_template", {"other": "x", "default": "y"})
    assert chat_text(lm.tokenizer, user_chat("a dog")) == "y"
