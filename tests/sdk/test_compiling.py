"""Python workflows become the same specs that YAML gives; what cannot be written down says what to do instead."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import osmo_ray as osmo
from osmo_ray.sdk import compiling, flow, inside
from osmo_ray.sdk.compiling import Compiled, compile_workflow
from osmo_ray.spec.dump import to_yaml
from osmo_ray.spec.model import CodeInput, ResourceSpec, TaskInput
from osmo_ray.spec.reader import read
from osmo_ray.spec.template import shield
from osmo_ray.spec.tokens import Tokens, expand, variables

DIGEST = "ab" * 32


@osmo.task(cpu=2, memory="1Gi")
def make(count: int = 3) -> list[int]:
    return list(range(count))


@osmo.task(cpu=2, memory="1Gi", retries=2, image="trainer:1", requirements=["numpy>=2"], environment={"A": 1})
def fit(data: Any, rate: Any = 1) -> Any:
    return data


@osmo.task
def pair() -> tuple[int, str]:
    return 1, "b"


@osmo.task
def talk(address: str) -> None: ...


@osmo.task
def serve() -> None: ...


def compiled(function: Any, **arguments: Any) -> Compiled:
    made = compile_workflow(osmo.workflow(function), arguments, "mod", DIGEST)
    text = to_yaml(made.spec)
    assert read(text) == made.spec
    assert not shield(text).active
    return made


def call(made: Compiled, name: str) -> dict[str, Any]:
    """A task's call as the task will see it, with tokens filled in."""
    task = made.spec.task(name)
    paths = tuple(f"/in/{n}" for n in range(len(task.inputs)))
    hosts = {t.name: f"{t.name}.osmo" for g in made.spec.groups for t in g.tasks}
    text = variables(expand(task.args[0], Tokens("wf-1", "/out", paths, {}, hosts)), {"HOME": "/root"})
    return dict(json.loads(text))


def test_a_workflow_of_two_tasks():
    def two(count: int):
        return fit(make(count), rate=0.5)

    made = compiled(two, count=4)
    first, second = (g.tasks[0] for g in made.spec.groups)
    assert [g.name for g in made.spec.groups] == ["make-group", "fit-group"]
    assert first.inputs == (CodeInput(DIGEST),) and second.inputs == (TaskInput("make"), CodeInput(DIGEST))
    assert made.spec.resources == {"default": ResourceSpec(), "make": ResourceSpec(cpu=2, memory="1Gi")}
    assert (first.resource, second.resource) == ("make", "make")
    assert (second.image, second.retries, second.requirements) == ("trainer:1", 2, ("numpy>=2",))
    assert second.environment == {"A": "1"} and second.command[-1] == "{{input:1}}/code.zip"
    assert call(made, "make")["args"] == [4]
    assert call(made, "fit")["args"] == [{"$osmo": "result", "at": "/in/0", "parts": []}, 0.5]
    assert made.returned == {"$osmo": "result", "task": "fit", "parts": []}


def test_map_gather_parts_and_names():
    def many():
        data = make()
        fits = fit.map([data, data], [1, 2])
        number, text = pair()
        return fit(osmo.gather(fits, number), {"t": text, "first": data[0]["x"]})

    made = compiled(many)
    assert [t.name for g in made.spec.groups for t in g.tasks] == ["make", "fit", "fit-2", "pair", "fit-3"]
    sweeps = [made.spec.task(name).sweep for name in ("fit", "fit-2", "fit-3")]
    assert [(s.name, list(s.values.values())) if s else None for s in sweeps] == [
        ("fit", ["make", "1"]), ("fit", ["make", "2"]), None,
    ]  # fmt: skip
    last = call(made, "fit-3")["args"]
    assert [one["at"] for one in last[0]] == ["/in/0", "/in/1", "/in/2"] and last[0][2]["parts"] == [0]
    assert last[1]["t"]["parts"] == [1] and last[1]["first"]["parts"] == [0, "x"]


def test_a_group_has_its_lead_and_addresses():
    def group():
        with osmo.group("both", ignore_nonlead_status=False, lead=serve):
            talk(osmo.host(serve))
            serve()

    made = compiled(group)
    (only,) = made.spec.groups
    assert only.name == "both" and only.barrier and not only.ignore_nonlead_status
    assert [(t.name, t.lead) for t in only.tasks] == [("talk", False), ("serve", True)]
    assert call(made, "talk")["args"] == ["serve.osmo"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["{{output}}", "{% if %}", "{#", "$(HOME)", "$$", "a\x00b", "{{ x }}", "}}", "{{{"]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(values)
def test_every_plain_value_arrives_as_it_was(value: Any):
    def one():
        fit(value)

    if inside.MARK in repr(value):
        return
    made = compiled(one)
    assert inside.decode(call(made, "fit")["args"][0]) == value


def _refused(function: Any, *parts: str) -> None:
    with pytest.raises(flow.FlowError) as caught:
        compiled(function)
    for part in parts:
        assert part in str(caught.value)


def test_looking_at_a_result_says_what_to_do_instead():
    def condition():
        if make() == [0]:
            fit(1)

    def truth():
        if make():
            fit(1)

    def loop():
        for one in make():
            fit(one)

    def over():
        fit.map(make())

    def length():
        fit(len(make()))

    def total():
        fit(make() + 1)

    def text():
        fit(f"{make()}")

    def attribute():
        fit(make().shape)

    for function in (condition, truth):
        _refused(function, "the result of make is not known before the workflow runs", "a condition on it", "task")
    _refused(loop, "going through it in a loop", "task.map([...])", "tuple[int, str]")
    _refused(over, "needs a list whose length is known", "let one task go through the whole result")
    _refused(length, "its length")
    _refused(total, "calculating with it")
    _refused(text, "making text of it")
    _refused(attribute, "'shape'")


def test_other_mistakes_are_named():
    def nothing():
        pass

    def path():
        fit(Path("/data"))

    def odd():
        fit({1: 2})

    def uncalled():
        fit(make)

    def empty():
        with osmo.group("g"):
            pass

    def within():
        with osmo.group("g"):
            fit(make())

    def outside():
        talk(osmo.host(serve))

    def stranger():
        with osmo.group("g"):
            talk(osmo.host(serve))

    def large():
        fit("x" * 200_000)

    def fraction():
        make.options(cpu=0.5)()

    def option():
        make.options(cpus=1)()

    _refused(nothing, "called no task")
    _refused(path, "the path /data", "keep the file in the project's folder")
    _refused(odd, "type dict", "dictionaries with text as keys")
    _refused(uncalled, "call it: make()")
    _refused(empty, "has no tasks")
    _refused(within, "both start together in 'g'", "before the group")
    _refused(outside, "call it within `with osmo.group(...)`")
    _refused(stranger, "no task of its group")
    _refused(large, "at most 100000 fit")
    _refused(fraction, "cpu=0.5 is no whole number")
    _refused(option, "no option 'cpus'")


def test_a_workflow_runs_here_too():
    @osmo.task
    def files() -> Path:
        (osmo.output() / "x.txt").write_text("hello")
        return osmo.output()

    @osmo.task
    def size(folder: Path) -> int:
        return len((folder / "x.txt").read_text())

    @osmo.workflow
    def here(times: int = 2):
        data = files()
        with osmo.group("g"):
            found = size(data)
            size(data)
        return {"size": found, "more": fit.map([found] * times)}

    assert here.local(times=2) == {"size": 5, "more": [5, 5]}
    assert size.local(files.local()) == 5 and make(2) == [0, 1] and here.name == "here"


def test_an_error_in_a_group_comes_out_of_a_local_run():
    @osmo.task
    def bad() -> None:
        raise KeyError("gone")

    @osmo.workflow
    def here():
        with osmo.group("g"):
            bad()

    with pytest.raises(KeyError, match="gone"):
        here.local()


def test_importing_the_package_is_light():
    code = (
        "import sys, osmo_ray as osmo; osmo.task; print([m for m in ('ray', 'pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [flow, inside])
def test_what_travels_is_python_of_long_ago(module: Any):
    ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
    outside = {"osmo_ray", "pydantic", "yaml"}
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {n.split(".")[0] for n in names} & outside


def test_the_image_is_that_of_this_python():
    assert compiling.default_image() == f"python:{sys.version_info[0]}.{sys.version_info[1]}"
