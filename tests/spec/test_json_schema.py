"""The published JSON Schema agrees with the reader: what it knows, what it takes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from strategies import workflows

from osmo_ray.program import main
from osmo_ray.spec.dump import to_yaml
from osmo_ray.spec.model import WorkflowSpec
from osmo_ray.spec.schema import json_schema

VALIDATOR = Draft202012Validator(json_schema())
FILE = Path(__file__).parents[2] / "docs" / "workflow.schema.json"


def test_it_is_a_schema_and_the_published_file_is_it(capsys: pytest.CaptureFixture[str]) -> None:
    Draft202012Validator.check_schema(json_schema())
    assert main(["spec", "--schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json_schema()
    assert FILE.read_text() == printed, "osmo spec --schema > docs/workflow.schema.json"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_every_valid_workflow_fits_it(spec: WorkflowSpec) -> None:
    VALIDATOR.validate(yaml.safe_load(to_yaml(spec)))


def errors(**fields: Any) -> list[str]:
    task = {"name": "a", "image": "i", "command": ["c"], **fields}
    return [e.message for e in VALIDATOR.iter_errors({"workflow": {"name": "x", "tasks": [task]}})]


@pytest.mark.parametrize(
    "fields",
    [
        {"args": [1, 2.5, True]}, {"environment": {"A": 1}}, {"hold": "90s"}, {"hold": 5}, {"exitActions": {"FAIL": 3}},
        {"inputs": [{"url": "s3://b"}]}, {"files": [{"path": "/a", "localpath": "b"}]}, {"retries": 3},
        {"checkpoint": [{"path": "a", "url": "s3://b", "frequency": "5m"}]}, {"requirements": ["numpy"]},
    ],
)  # fmt: skip
def test_what_the_reader_takes_it_takes(fields: dict[str, Any]) -> None:
    assert errors(**fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"comand": ["c"]}, {"command": "sleep"}, {"command": []}, {"args": [None]}, {"sandbox": "vm"}, {"retries": -1},
        {"inputs": [{"task": "b", "url": "s3://b"}]}, {"inputs": ["b"]}, {"files": [{"contents": "x"}]},
        {"lead": "maybe"},
    ],
)  # fmt: skip
def test_what_the_reader_refuses_by_its_form_it_refuses(fields: dict[str, Any]) -> None:
    assert errors(**fields)
