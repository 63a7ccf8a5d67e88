"""Templates render as lm-eval's do, and cannot do anything else."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError, UndefinedError
from jinja2.exceptions import SecurityError

from sweep.evaluation.tasks import templates
from sweep.evaluation.tasks.templates import render, sandboxed, syntax_error

DOC = {
    "text": "the old house",
    "choices": ["a", "b"],
    "answer": 1,
    "nested": {"label": "x", "list": [1, 2]},
    "empty": None,
}


@pytest.mark.parametrize(
    "template",
    [
        "Q: {{text}}\nA:\n",
        "{{text.split(' ')[:-1]|join(' ')}}",
        "{{' ' + text.split(' ')[-1]}}",
        "{{choices[answer]}}",
        "{{[choices[0], choices[1]]}}",
        "{{nested.label}} {{nested['list'][1]}} {{nested.list[0]}}",
        "{% if missing is defined %}{{missing}}{% else %}none{% endif %}",
        "{{missing|default('none')}}",
        "{% for choice in choices %}{{loop.index}}. {{choice}}\n{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for c in choices %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ns.n}}",
        "{{text|regex_replace('o.d', 'new')}}",
        "{{'%s and %d' % (text, answer)}} {{'{} {}'.format(text, answer)}} {{'%s'|format(text)}}",
        "{{choices.index('b') * 3 + 2 ** 4 - 7 % 4}} {{'=' * 20}} {{text.upper().center(30)}}",
        "{{empty}}",
    ],
)
def test_plain_templates_render_as_in_lm_eval(template: str) -> None:
    from lm_eval.utils import apply_template

    assert render(template, DOC) == apply_template(template, DOC)
    assert syntax_error(template) is None


@pytest.mark.parametrize("template", ["{{txt}}", "{{nested.lable}}", "{{choices[5]}}", "{% if txt %}a{% endif %}"])
def test_a_name_that_is_not_there_is_an_error(template: str) -> None:
    with pytest.raises(UndefinedError):
        render(template, DOC)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ text['__class__'] }}",
        "{{ text|attr('__class__') }}",
        "{{ '{0.__class__.__mro__}'.format(text) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ lipsum() }}",
    ],
)
def test_nothing_leads_to_the_interpreter(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, DOC)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * ['a'] }}",
        "{{ 9 ** 999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.zfill(width) }}",
    ],
)
def test_nothing_makes_a_lot_of_memory(template: str) -> None:
    with pytest.raises((SecurityError, OverflowError), match="too large"):
        render(template, {**DOC, "width": 10**9})


def test_a_long_loop_is_an_error() -> None:
    with pytest.raises(OverflowError, match="[Rr]ange too big"):
        render("{% for i in range(10**9) %}a{% endfor %}", DOC)


def test_a_template_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.05)  # of this process's own computing, so other work does not count
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with sandboxed():
        from lm_eval import utils

        with pytest.raises(SecurityError, match="takes more than"):
            utils.apply_template(endless, DOC)
        assert utils.apply_template("{{text}}", DOC) == "the old house"


def test_lm_eval_gets_its_own_templates_back() -> None:
    from lm_eval import utils

    plain: Any = utils.apply_template
    with sandboxed():
        assert utils.apply_template is not plain
    assert utils.apply_template is plain


@pytest.mark.parametrize(
    ("template", "message"),
    [("{{a", "line 1: "), ("a\n{% if b %}", "line 2: "), ("{{a|uper}}", "line 1: No filter named 'uper'")],
)
def test_syntax_errors_name_the_line(template: str, message: str) -> None:
    assert str(syntax_error(template)).startswith(message)
