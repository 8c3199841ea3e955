"""The reader against a table of files, against strangers' files, and against nonsense."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import workflows

from osmo_ray.spec import schema
from osmo_ray.spec.dump import to_yaml
from osmo_ray.spec.errors import SpecError
from osmo_ray.spec.model import GroupSpec, TaskInput, TaskSpec, WorkflowSpec
from osmo_ray.spec.reader import read, spread_environment, validate

ROWS = Path(__file__).with_name("reader_rows.txt")
FRAMES = {
    "file": "{}",
    "workflow": "workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    command: [c]\n  {}\n",
    "task": "workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    command: [c]\n    {}\n",
    "two": "workflow:\n  name: x\n  tasks:\n  - {{name: a, image: i, command: [c]}}\n"
    "  - name: b\n    image: i\n    command: [c]\n    {}\n",
    "group": "workflow:\n  name: x\n  groups:\n  - name: g\n    tasks: {}\n",
    "resource": "workflow:\n  name: x\n  resources:\n    default:\n      {}\n"
    "  tasks:\n  - {{name: a, image: i, command: [c]}}\n",
}


def rows() -> list[Any]:
    found = []
    for number, line in enumerate(ROWS.read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            kind, _, rest = line.partition(" | ")
            text, arrow, expected = rest.rpartition(" => ")
            assert arrow, f"{ROWS.name}:{number}: no =>"
            found.append(pytest.param(kind, text.replace("\\n", "\n").replace("\\t", "\t"), expected, id=f"{number}"))
    return found


def follow(spec: WorkflowSpec, path: str) -> Any:
    value: Any = spec if path.startswith("spec.") else spec.groups[0].tasks[0]
    for step in path.removeprefix("spec.").split("."):
        value = value[step] if isinstance(value, dict) else value[int(step)] if step.isdigit() else getattr(value, step)
    return json.loads(json.dumps(value, default=str))


def test_there_are_enough_rows() -> None:
    assert len(rows()) >= 150


@pytest.mark.parametrize(("kind", "text", "expected"), rows())
def test_row(kind: str, text: str, expected: str) -> None:
    text = FRAMES[kind].replace("{{", "{").replace("}}", "}").replace("{}", text, 1) if kind != "file" else text
    if not expected.startswith("!"):
        spec = read(text)
        if expected != "ok":
            path, _, value = expected.partition(" = ")
            assert follow(spec, path) == json.loads(value)
        assert read(to_yaml(spec)) == spec
        return
    with pytest.raises(SpecError) as caught:
        read(text)
    parts = re.fullmatch(r"! (.*?)(?: \? (.*?))?(?: @(\d+):(\d+))?(?: #(\w+))?", expected)
    assert parts is not None
    message, hint, line, column, code = parts.groups()
    match = [p for p in caught.value.problems if message in p.message]
    assert match, str(caught.value)
    assert (hint or "") in match[0].hint
    assert caught.value.code == (code or "USAGE")
    if line:
        assert (match[0].line, match[0].column) == (int(line), int(column)), str(caught.value)


def test_every_mistake_is_told_at_once_in_order() -> None:
    with pytest.raises(SpecError) as caught:
        read("workflow:\n  nam: x\n  tasks:\n  - {name: a, image: i, comand: [c]}\n  - {name: b, lead: 7}\n")
    told = [(p.line, p.message) for p in caught.value.problems]
    assert len(told) == 5
    assert [line for line, _ in told] == sorted(line for line, _ in told)


def test_an_error_shows_the_line_and_points_at_the_place() -> None:
    with pytest.raises(SpecError) as caught:
        read("workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    comand: [c]\n    command: [c]\n")
    assert caught.value.problems[0].render("f.yaml").splitlines() == [
        "f.yaml:6:5: workflow.tasks[0].comand: unknown field 'comand'",
        "     6 |     comand: [c]",
        "       |     ^",
        "  did you mean 'command'?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "workflow: " + "[" * 100_000,
        "workflow: " + "{a: " * 50_000,
        "workflow:\n" + "- " * 50_000,
        "workflow: " + "? " * 50_000,
        "workflow:\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"  {c}: &{c} [{', '.join(f'*{p}' for _ in range(10))}]\n"
            for p, c in zip("abcdefgh", "bcdefghi", strict=False)
        ),
        "workflow:\n  name: " + "9" * 5000,
        "workflow: \x00",
        "workflow:\n  name: x\n  labels: {a: 0x}\n  tasks: []",
        "workflow:\n  name: 1_\n  tasks: [{name: a, image: i, command: [c], hold: 1e999}]",
    ],
    ids=["flow", "maps", "sequences", "keys", "aliases", "digits", "zero", "hex", "infinite"],
)
def test_hostile_files_are_refused_quickly_and_in_words(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert caught.value.problems[0].message


CHAIN = "".join(f"  - {{name: t{n}, image: i, command: [c], inputs: [{{task: x{n}}}]}}\n" for n in range(3000))
FILES = ", ".join(f"{{path: /{'d/' * 20}{n}, contents: x}}" for n in range(5000))


@pytest.mark.parametrize(
    "text",
    [
        "workflow:\n  name: x\n  tasks: [" + "1, " * 90_000 + "1]\n",
        "workflow:\n  name: x\n  tasks:\n" + CHAIN,
        f"workflow:\n  name: x\n  tasks: [{{name: a, image: '', command: [c], files: [{FILES}]}}]\n",
        "workflow:\n  name: x\n  tasks: [{name: a, image: i, command: [c], files: ["
        + ", ".join(f"{{path: {'/a' * 2000}{n}, contents: x}}" for n in range(1000))
        + "]}]\n",
        "workflow:\n  name: x\n  " + "k" * 1_000_000 + ": 1\n",
    ],
    ids=["mistakes", "unknown", "files", "deep", "key"],
)
def test_work_on_large_wrong_files_is_bounded(text: str) -> None:
    """Without bounds each of these takes minutes or gigabytes."""
    with pytest.raises(SpecError) as caught:
        read(text)
    assert len(caught.value.problems) <= 50


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(SpecError, match="MiB"):
        read("workflow:\n" + "# x\n" * (3 << 20))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_what_is_dumped_reads_back_the_same(spec: WorkflowSpec) -> None:
    assert validate(spec) == ()
    assert read(to_yaml(spec)) == spec


BITS = "workflow:|name|tasks|command|default-values:|-|:|[|]|{|}|&a|*a|<<|!!int|'|>|#|?|{{output}}|é|1|no|~|0x|,|%"
YAML_BITS = st.sampled_from(BITS.split("|")) | st.sampled_from(["|", '"', "\n", "  ", "\t", "\x85", ": ", "- "])


@settings(max_examples=300, deadline=None)
@given(st.lists(YAML_BITS, max_size=40).map("".join))
def test_nonsense_is_only_ever_a_spec_error(text: str) -> None:
    for candidate in (text, "workflow:\n  name: x\n  tasks:\n  - " + text):
        try:
            read(candidate)
        except SpecError as error:
            assert error.problems


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(schema.known_fields(("workflow", "tasks", 0))), JSON)
def test_any_value_in_any_field_is_only_ever_a_spec_error(field: str, value: Any) -> None:
    task = {"name": "a", "image": "i", "command": ["c"], field: value}
    try:
        read("workflow: " + json.dumps({"name": "x", "tasks": [task]}))
    except SpecError as error:
        assert error.problems


def test_rules_hold_for_specifications_made_by_hand() -> None:
    task = TaskSpec("a", "i", ("c",), lead=True, inputs=(TaskInput("nobody"),))
    problems = validate(WorkflowSpec("x", (GroupSpec("g", (task,)),)))
    assert [p.path for p in problems] == ["workflow.groups[0].tasks[0].inputs[0].task"]


def test_set_env_goes_over_every_task() -> None:
    spec = read(
        "workflow:\n  name: x\n  tasks:\n  - {name: a, image: i, command: [c], environment: {A: old, B: kept}}\n"
        "  - {name: b, image: i, command: [c]}\n"
    )
    changed = spread_environment(spec, {"A": "new"})
    assert changed.task("a").environment == {"A": "new", "B": "kept"}
    assert changed.task("b").environment == {"A": "new"}


def test_the_json_schema_names_every_field_and_forbids_others() -> None:
    described = schema.json_schema()
    task = described["$defs"]["TaskModel"]
    assert task["additionalProperties"] is False
    assert {"exitActions", "hostNetwork", "ray", "sandbox", "hold"} <= set(task["properties"])
    named = {f.name for f in dataclasses.fields(TaskSpec)}
    assert {re.sub(r"(?<!^)([A-Z])", r"_\1", n).lower() for n in task["properties"]} >= named


SHARED = Path(os.environ.get("OSMO_SHARED", Path(__file__).parents[3] / "shared")) / "corpora" / "tutorials"


@pytest.mark.shared
def test_the_tutorials_read_as_they_are(renderer: Any) -> None:
    from osmo_ray.providers.template import prepare

    files = sorted(SHARED.glob("*.yaml"))
    if not files:
        pytest.skip(f"NOT RUN: no workflow files in {SHARED}; set OSMO_SHARED to the folder of shared data")
    for file in files:
        spec = prepare(file.read_text(), [], [], renderer).read()
        assert read(to_yaml(spec)) == spec, file.name
