"""Errors of the platform as people (or programs) read them."""

from __future__ import annotations

import sys

from osmo_ray.cli.command import print_json
from osmo_ray.sdk.errors import ClientError


def show(error: ClientError, args: object) -> int:
    """Print an error and return the exit code that belongs to it."""
    if getattr(args, "format_type", "text") == "json":
        print_json({"message": str(error), "code": error.status or 1, "error_code": error.code or None})
        return error.exit_code
    if error.problems:
        file = str(getattr(args, "file", "") or "workflow")
        print("\n".join(_place(p, file) for p in error.problems), file=sys.stderr)
        return error.exit_code
    told = f"Workflow {error.workflow_id}: " if error.workflow_id and error.workflow_id not in str(error) else ""
    print(f"osmo: {told}{error}", file=sys.stderr)
    return error.exit_code


def _place(value: object, file: str) -> str:
    from osmo_ray.spec.errors import Problem

    assert isinstance(value, dict)
    problem = Problem(
        message=str(value.get("message", "")),
        path=str(value.get("path", "")),
        line=int(value.get("line", 0)),
        column=int(value.get("column", 0)),
        source=str(value.get("source", "")),
        hint=str(value.get("hint", "")),
    )
    return problem.render(file) if problem.line else f"{file}: {problem.render(file)}"
