"""Strict reading: a file without extensions, or a mistake at the place of each."""

from __future__ import annotations

import pytest

from osmo_ray.spec.errors import SpecError
from osmo_ray.spec.reader import read

TASK = "workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i@sha256:ab\n    command: [c]\n    {}\n"
FIELDS = {
    "ray": "ray: {}", "sandbox": "sandbox: process", "hold": "hold: 5", "retries": "retries: 0",
    "requirements": "requirements: [numpy]", "cache": "cache: true", "matrix": "matrix: {k: [1]}",
    "mount": "inputs: [{dataset: {name: d, mount: true}}]",
    "code": "inputs: [{code: " + "ab" * 32 + "}]",
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_an_extension_is_named_where_it_stands(name: str) -> None:
    text = TASK.replace("{}", FIELDS[name])
    read(text)
    with pytest.raises(SpecError) as caught:
        read(text, strict=True)
    (problem,) = caught.value.problems
    assert problem.message == f"`{name}` is an extension of this platform" and problem.line == 7


def test_a_file_without_extensions_is_strict() -> None:
    assert read(TASK.replace("{}", "lead: true"), strict=True).name == "x"
