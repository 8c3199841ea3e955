"""Special tokens and Kubernetes' variables, as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.spec.tokens import Tokens, expand, host_label, host_name, variables

TOKENS = Tokens("wf-7", "/out", ("/in/0", "/in/1"), {"prep": "/in/1"}, {"lead": "lead.wf-7.osmo"})


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("{{workflow_id}}", "wf-7"),
        ("a{{output}}/b", "a/out/b"),
        ("{{input:0}}{{input:prep}}", "/in/0/in/1"),
        ("http://{{host:lead}}:80", "http://lead.wf-7.osmo:80"),
        ("{{input:2}} {{host:other}} {{uuid}} {{item}}", "{{input:2}} {{host:other}} {{uuid}} {{item}}"),
        ("{{ output }}", "{{ output }}"),
        ("{{{output}}}", "{/out}"),
        ("{{input:²}} {{input:-1}}", "{{input:²}} {{input:-1}}"),
    ],
)
def test_what_each_token_means(text: str, meaning: str) -> None:
    assert expand(text, TOKENS) == meaning


@given(st.text())
def test_text_without_tokens_stays(text: str) -> None:
    if "{{" not in text:
        assert expand(text, TOKENS) == text


@given(st.text(alphabet="{}a:output input0"), st.text(alphabet="{}a:output input0"))
def test_what_a_token_becomes_is_not_looked_at_again(left: str, right: str) -> None:
    tricky = Tokens("{{output}}", "{{workflow_id}}")
    assert expand("{{workflow_id}}{{output}}", tricky) == "{{output}}{{workflow_id}}"
    assert expand(left + "x{{output}}x" + right, TOKENS).count("/out") >= 1


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NONE)", "$(NONE)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(echo $(A))", "$(echo $(A))"),
        ("$(B)", "$(A)"),
    ],
)
def test_kubernetes_variables(text: str, meaning: str) -> None:
    assert variables(text, {"A": "1", "B": "$(A)"}) == meaning


@given(st.text())
def test_doubling_every_dollar_protects_the_text(text: str) -> None:
    assert variables(text.replace("$", "$$"), {"A": "1"}) == text


@given(st.text(alphabet="abcXYZ019_-", min_size=1, max_size=80))
def test_host_labels_are_labels(name: str) -> None:
    label = host_label(name)
    assert len(label) <= 63
    assert label == label.lower()
    assert "_" not in label
    assert not label.endswith("-")


def test_a_host_name() -> None:
    assert host_name("My_Task", "Train-7") == "my-task.train-7.osmo"
