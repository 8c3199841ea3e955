"""Templates: values, tokens, places, and what hostile ones can do (nothing)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.providers.template import ProcessRenderer, prepare
from osmo_ray.spec.errors import SpecError
from osmo_ray.spec.template import Rendered, is_templated, overlay, overlay_environment, shield

TASK = "  tasks:\n  - {name: a, image: i, command: [c], args: [%s]}\n"


class Untouched:
    """A renderer that must not be called."""

    def render(self, text: str, values: Any) -> Rendered:
        raise AssertionError("rendered")


def args(text: str, renderer: Any, set_: tuple[str, ...] = (), set_string: tuple[str, ...] = ()) -> tuple[str, ...]:
    return prepare("workflow:\n  name: x\n" + TASK % text, set_, set_string, renderer).read().task("a").args


def test_values_come_from_defaults_then_set_then_set_string(renderer: ProcessRenderer) -> None:
    file = (
        "workflow:\n  name: x\n"
        + TASK % '"{{a}} {{b}} {{c}} {{d}}"'
        + "default-values: {a: 1.50, b: 1, c: 1, d: yes}\n"
    )
    read = prepare(file, ["b=2", "c=2"], ["c=03"], renderer).read()
    assert read.task("a").args == ("1.5 2 03 True",)


def test_set_tries_numbers_and_set_string_never_does() -> None:
    assert overlay({}, ["a=1", "b=1.5", "c=x=y", "d="], ["e=1"]) == {"a": 1, "b": 1.5, "c": "x=y", "d": "", "e": "1"}


@pytest.mark.parametrize("setting", ["a", "=b", ""])
def test_a_setting_without_a_name_is_refused(setting: str) -> None:
    with pytest.raises(SpecError, match="form"):
        overlay({}, [setting], [])
    with pytest.raises(SpecError, match="form"):
        overlay_environment([setting])


def test_set_env_keeps_the_second_piece() -> None:
    assert overlay_environment(["A=b=c", "B="]) == {"A": "b", "B": ""}


def test_tokens_survive_rendering(renderer: ProcessRenderer) -> None:
    tokens = "{{output}} {{input:0}} {{input:a}} {{host:b}} {{workflow_id}} {{uuid}}"
    assert args(f'"{tokens} {{{{x}}}}"', renderer, ("x=1",)) == (tokens + " 1",)


def test_a_file_with_tokens_alone_needs_no_renderer() -> None:
    assert args('"{{output}}/{{input:0}}"', Untouched()) == ("{{output}}/{{input:0}}",)
    assert not is_templated("workflow: {{output}}")
    assert is_templated("workflow: {{ output }}")


@given(st.text(st.sampled_from("{}ab :%#\n\x01\x020"), max_size=60))
def test_shielding_undoes_itself(text: str) -> None:
    if "\x01" in text or "\x02" in text:
        return
    assert shield(text).reveal(shield(text).text) == text


def test_raw_protects_and_tokens_inside_it_stay_tokens(renderer: ProcessRenderer) -> None:
    assert args('"{% raw %}{{ x }} {{output}}{% endraw %}"', renderer) == ("{{ x }} {{output}}",)


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{ mesage }}", "UndefinedError"),
        ("{{ output }}", "UndefinedError"),
        ("{{ input:0 }}", "TemplateSyntaxError"),
        ("{{ ''.__class__ }}", "SecurityError"),
        ("{{ ''|attr('__class__') }}", "UndefinedError|SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ 'x' * (10 ** 9) }}", "MemoryError"),
        ("{% for i in range(9 ** 9) %}{% endfor %}", "OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% include '/etc/passwd' %}", "TypeError|TemplateNotFound"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 9 ** (9 ** 9) }}", "longer than"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "longer than"),
        (
            "{% set x = [] %}{% for i in range(99999) %}{{ x.append('a' * (9999 + i)) }}{% endfor %}",
            "MemoryError|longer than",
        ),
    ],
)
def test_a_hostile_or_wrong_template_is_an_error_and_the_next_one_works(
    template: str, kind: str, renderer: ProcessRenderer
) -> None:
    with pytest.raises(SpecError, match=kind):
        args(f'"{template}"', renderer, ("message=1",))
    assert args('"{{ x }}"', renderer, ("x=fine",)) == ("fine",)


def test_the_place_of_a_template_mistake_is_told(renderer: ProcessRenderer) -> None:
    with pytest.raises(SpecError) as caught:
        prepare("# note\nworkflow:\n  name: x\n  a: {{ mesage }}\n", ["message=1"], [], renderer)
    problem = caught.value.problems[0]
    assert (problem.line, problem.source) == (4, "  a: {{ mesage }}")
    assert "did you mean 'message'" in problem.hint


@pytest.mark.parametrize("dash", ["", "-"])
def test_places_after_blocks_are_those_of_the_written_file(dash: str, renderer: ProcessRenderer) -> None:
    file = (
        "# note\n\nworkflow:\n  name: x\n  labels:\n{% for i in [1, 2, 3] %}\n    l{{ i }}: v\n"
        f"{{%{dash} endfor %}}\n" + TASK % "x" + "  wrong: 1\n"
    )
    with pytest.raises(SpecError) as caught:
        prepare(file, [], [], renderer).read()
    assert [(p.line, p.source) for p in caught.value.problems] == [(11, "  wrong: 1")]


def test_defaults_must_be_a_mapping(renderer: ProcessRenderer) -> None:
    with pytest.raises(SpecError, match="mapping of variable names"):
        prepare("workflow:\n  name: {{x}}\ndefault-values: [1]\n", [], [], renderer)


def test_many_threads_share_two_workers() -> None:
    made = ProcessRenderer(workers=2)
    results: list[tuple[str, ...]] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(args('"{{ x }}"', made, (f"x=v{n}",)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.close()
    assert sorted(results) == [(f"v{n}",) for n in range(8)]


def test_a_worker_inherits_nothing_and_dies_with_the_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSMO_SECRET_FOR_TEST", "hush")
    made = ProcessRenderer(workers=1)
    args('"{{ x }}"', made, ("x=1",))
    worker = made._idle.queue[0]
    assert worker is not None
    folder = Path(f"/proc/{worker._process.pid}")
    assert b"hush" not in (folder / "environ").read_bytes()
    made.close()
    assert not folder.exists() or (folder / "cwd").readlink() != Path("/")
    with pytest.raises(RuntimeError):
        made.render("{{ 1 }}", {})
