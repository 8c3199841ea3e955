"""Specs survive the store exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.spec import codec
from osmo_ray.spec.model import (
    Checkpoint,
    DatasetInput,
    DatasetOutput,
    FileSpec,
    GroupSpec,
    Kpi,
    RaySpec,
    RayWorkers,
    ResourceSpec,
    Sandbox,
    TaskInput,
    TaskSpec,
    Timeouts,
    UpdateDatasetOutput,
    UrlInput,
    UrlOutput,
    WorkflowSpec,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NUMBER = st.floats(allow_nan=False)
TASKS = st.builds(
    TaskSpec,
    checkpoint=st.lists(st.builds(Checkpoint, frequency=NUMBER), max_size=2).map(tuple),
    credentials=st.dictionaries(st.text(), st.text() | st.dictionaries(st.text(), st.text(), max_size=2), max_size=3),
    ray=st.none()
    | st.builds(
        RaySpec,
        runtime_env=st.dictionaries(st.text(), JSON, max_size=3),
        workers=st.builds(RayWorkers, cpu=NUMBER, gpu=NUMBER),
    ),
    inputs=st.lists(st.from_type(TaskInput | DatasetInput | UrlInput), max_size=2).map(tuple),
    outputs=st.lists(st.from_type(UrlOutput | DatasetOutput | UpdateDatasetOutput), max_size=2).map(tuple),
    kpis=st.lists(st.from_type(Kpi), max_size=2).map(tuple),
    environment=st.dictionaries(st.text(), st.text(), max_size=3),
    files=st.lists(st.from_type(FileSpec), max_size=2).map(tuple),
    privileged=st.booleans(),
    volume_mounts=st.lists(st.text(), max_size=2).map(tuple),
    exit_actions=st.dictionaries(st.text(), st.text(), max_size=2),
    sandbox=st.sampled_from(Sandbox),
    hold=NUMBER,
)
SPECS = st.builds(
    WorkflowSpec,
    groups=st.lists(
        st.builds(GroupSpec, tasks=st.lists(TASKS, max_size=2).map(tuple), barrier=st.booleans()), max_size=2
    ).map(tuple),
    resources=st.dictionaries(st.text(), st.from_type(ResourceSpec), max_size=2),
    timeout=st.builds(Timeouts, exec_timeout=st.none() | NUMBER, queue_timeout=st.none() | NUMBER),
    labels=st.dictionaries(st.text(), st.text(), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(SPECS)
def test_every_spec_comes_back_as_it_was(spec: WorkflowSpec) -> None:
    text = json.dumps(codec.to_json(spec))
    assert codec.from_json(json.loads(text)) == spec


def test_what_equals_its_default_is_left_out() -> None:
    spec = WorkflowSpec("w", (GroupSpec("g", (TaskSpec("t", "image", ("true",)),)),))
    task = {"name": "t", "image": "image", "command": ["true"]}
    assert codec.to_json(spec) == {"name": "w", "groups": [{"name": "g", "tasks": [task]}]}


def test_nouns_of_a_union_say_what_they_are() -> None:
    task = TaskSpec(
        "t",
        "i",
        ("x",),
        inputs=(UrlInput("s3://a/b"),),
        outputs=(UrlOutput("s3://c/d"),),
        ray=RaySpec(workers=RayWorkers(count=2)),
        sandbox=Sandbox.PROCESS,
    )
    plain: Any = codec.to_json(WorkflowSpec("w", (GroupSpec("g", (task,)),)))["groups"]
    found = plain[0]["tasks"][0]
    assert found["inputs"] == [{"kind": "url", "url": "s3://a/b"}]
    assert found["outputs"] == [{"kind": "to_url", "url": "s3://c/d"}]
    assert found["ray"] == {"workers": {"count": 2}} and found["sandbox"] == "process"


def test_unknown_keys_are_passed_over() -> None:
    assert codec.from_json({"name": "w", "groups": [], "invented": 1}) == WorkflowSpec("w", ())


@pytest.mark.parametrize("bad", [{"groups": []}, {"name": "w", "groups": [3]}, {"name": "w", "groups": 3}])
def test_what_is_no_spec_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a workflow spec"):
        codec.from_json(bad)
