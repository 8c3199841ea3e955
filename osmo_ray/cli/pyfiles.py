"""Python files on the command line: compiled here, their code sent, their result shown."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import Command
from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client
    from osmo_ray.sdk.pyfile import Made

_SHOWN = 2000


def is_python(name: str) -> bool:
    """Whether this names a Python file, or a workflow in one (`file.py:train`)."""
    path, colon, _ = name.rpartition(":")
    return name.endswith(".py") or bool(colon and path.endswith(".py"))


def compiled(args: argparse.Namespace) -> Made:
    """The workflow that the arguments name. `--set x=3` says the same as `--x 3`."""
    from osmo_ray.sdk.pyfile import make

    words = list(args.rest)
    for text in (*getattr(args, "set", ()), *getattr(args, "set_string", ())):
        name, equals, value = text.partition("=")
        if not equals:
            raise ClientError(f"--set {text!r}: needs the form name=value", status=400, code="USAGE")
        words.append(f"--{name}={value}")
    return make(args.file, words)


def send_code(client: Client, made: Made) -> None:
    """Say what is sent, and send what the platform does not have."""
    path = f"/api/x/code/{made.archive.digest}"
    lines = made.archive.told()
    known = client.http.exists(path)
    lines[0] += ", known already" if known else ""
    print("\n".join(lines), file=sys.stderr)
    if not known:
        client.http.put(path, made.archive.data)


def result(client: Client, name: str, made: Made) -> str:
    """What the workflow's function returned, as JSON on one line; empty for nothing, and for what has no JSON form."""
    if made.returned is None:
        return ""
    try:
        text = json.dumps(_filled(client, name, made.returned), ensure_ascii=False)
    except (LookupError, TypeError, ValueError, ClientError):
        return ""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


def _filled(client: Client, name: str, value: Any) -> Any:
    from osmo_ray.sdk.inside import FOLDER, MARK, VALUE

    if isinstance(value, list):
        return [_filled(client, name, one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get(MARK) != "result":
        return {key: _filled(client, name, one) for key, one in value.items()}
    task = value["task"]
    told = client.http.json("GET", f"/api/x/workflow/{name}/outputs/{task}/{FOLDER}/{VALUE}")
    if told["format"] != "json":
        return f"<{told['format']} of {task}>"
    found = told["value"]
    for part in value["parts"]:
        found = (found["items"] if isinstance(found, dict) and found.get(MARK) == "tuple" else found)[part]
    return _plain(found, task)


def _plain(value: Any, task: str) -> Any:
    from osmo_ray.sdk.inside import MARK

    if isinstance(value, list):
        return [_plain(one, task) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind is None:
        return {key: _plain(one, task) for key, one in value.items()}
    if kind == "tuple":
        return [_plain(one, task) for one in value["items"]]
    return f"{task}/{value['at']}" if kind == "path" else value["value"]


def _spec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="", metavar="FILE.py[:workflow]", help="and its arguments: --x 3")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of workflow files instead")


def _spec(args: argparse.Namespace) -> int:
    if args.schema:
        from osmo_ray.spec.schema import json_schema

        print(json.dumps(json_schema(), indent=2))
        return 0
    if not is_python(args.file):
        what = f"{args.file} is no Python file" if args.file else "name a Python file"
        raise ClientError(f"{what}; osmo workflow validate FILE checks YAML", status=400, code="USAGE")
    made = compiled(args)
    print("\n".join(made.archive.told()), file=sys.stderr)
    print(made.text, end="")
    return 0


def refuse_rest(args: argparse.Namespace) -> None:
    """Words that no option takes are arguments of a Python workflow, and a mistake for any other file."""
    if args.rest:
        told = f"unknown arguments: {' '.join(args.rest)}; a YAML file takes --set NAME=VALUE"
        raise ClientError(told, status=400, code="USAGE")


SPEC = Command(_spec_arguments, _spec, json=False, rest=True)
