"""A Python file with workflows in it: load it, choose one, read its arguments from words, and compile it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osmo_ray.sdk import inside
from osmo_ray.sdk.code import Archive, pack
from osmo_ray.sdk.compiling import compile_workflow
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.flow import FlowError, Workflow
from osmo_ray.spec.dump import to_yaml
from osmo_ray.spec.model import WorkflowSpec
from osmo_ray.spec.reader import validate
from osmo_ray.spec.template import shield


@dataclass(frozen=True, slots=True)
class Made:
    """A workflow that is ready to be sent: the spec, the same as text, its code, and what its function returned."""

    spec: WorkflowSpec
    text: str
    archive: Archive
    returned: Any


def is_python(name: str) -> bool:
    """Whether this names a Python file, or a workflow in one (`file.py:train`)."""
    return split(name)[0].suffix == ".py"


def split(name: str) -> tuple[Path, str]:
    """`file.py:train` -> the file, and the workflow's name or an empty text."""
    path, colon, workflow = name.rpartition(":")
    return (Path(path), workflow) if colon and path.endswith(".py") else (Path(name), "")


def make(name: str, words: Sequence[str] = ()) -> Made:
    """Load the file, run the workflow's function with the arguments in `words` (`--x 3`), and pack its code. Raises
    `ClientError` that shows a mistake of the file as the file's own."""
    path, wanted = split(name)
    if not path.is_file():
        raise ClientError(f"{path}: there is no such file", status=400, code="USAGE")
    root, module = locate(path.resolve())
    workflow = _choose(_load(root, module), path, wanted)
    arguments = read_arguments(workflow, words, f"osmo run {name}")
    archive = pack(root)
    try:
        compiled = compile_workflow(workflow, arguments, module, archive.digest)
    except Exception as error:
        raise _theirs(error, root) from error
    problems = [p.render(name) for p in validate(compiled.spec)]
    text = to_yaml(compiled.spec)
    if shield(text).active:
        problems.append("templates ({{ }}, {% %}, {# #}) have no place in the options of a task; use Python")
    if problems:
        raise ClientError("\n".join(problems), status=400, code="USAGE")
    return Made(compiled.spec, text, archive, compiled.returned)


def locate(path: Path) -> tuple[Path, str]:
    """The folder that is sent, and the module's name in it: a package is sent from the folder that holds it."""
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").exists() and root.parent != root:
        parts.insert(0, root.name)
        root = root.parent
    return root, ".".join(parts)


_loaded: set[str] = set()
"""Modules that are files of users, which may be loaded anew."""


def _load(root: Path, module: str) -> Any:
    sys.path.insert(0, str(root))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        known = sys.modules.get(module)
        if known is not None and module not in _loaded and not _is_below(known, root):
            message = f"{module}.py has the name of another module that Python has loaded ({module}); rename the file"
            raise ClientError(message, status=400, code="USAGE")
        sys.modules.pop(module, None)
        _loaded.add(module)
        return importlib.import_module(module)
    except ClientError:
        raise
    except Exception as error:
        raise _theirs(error, root) from error
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(root))


def _is_below(module: Any, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(root)


def _choose(module: Any, path: Path, wanted: str) -> Workflow:
    found = {name: one for name, one in vars(module).items() if isinstance(one, Workflow)}
    own = {name: one for name, one in found.items() if one.function.__module__ == module.__name__} or found
    if wanted:
        if wanted in found:
            return found[wanted]
        raise ClientError(f"{path} has no workflow {wanted!r}; it has {_listed(own)}", status=400, code="USAGE")
    if len(own) == 1:
        return next(iter(own.values()))
    if not own:
        raise ClientError(f"{path} has no function with @osmo.workflow", status=400, code="USAGE")
    message = f"{path} has several workflows; name one: {path}:{next(iter(own))} ({_listed(own)})"
    raise ClientError(message, status=400, code="USAGE")


def _listed(found: dict[str, Workflow]) -> str:
    return ", ".join(found) or "none"


def _theirs(error: Exception, root: Path) -> ClientError:
    """A mistake of the user's file, told as Python tells it, without our own frames."""
    if isinstance(error, FlowError):
        where = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
        own = [f for f in where if Path(f.filename).resolve().is_relative_to(root) and not inside._is_ours(f.filename)]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}: " if own else ""
        source = f"\n    {own[-1].code_context[0].strip()}" if own and own[-1].code_context else ""
        return ClientError(f"{place}{error}{source}", status=400, code="USAGE")
    return ClientError("\n" + inside.told(error, str(root)).rstrip(), status=400, code="USAGE")


# -- arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise ClientError(f"{message}\n{self.format_usage().strip()}", status=400, code="USAGE")


def read_arguments(workflow: Workflow, words: Sequence[str], program: str) -> dict[str, Any]:
    """`--x 3 --names '["a"]'` as the arguments of the workflow's function, by its annotations. Lists, tuples and
    dictionaries are JSON. Raises `ClientError`."""
    parser = _Parser(prog=program, allow_abbrev=False, add_help=False)
    kinds = _kinds(workflow)
    for parameter in inspect.signature(workflow.function).parameters.values():
        name, needed = parameter.name, parameter.default is inspect.Parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = kinds.get(name) or (type(parameter.default) if not needed and parameter.default is not None else None)
        names = {f"--{name}", f"--{name.replace('_', '-')}"}
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(*sorted(names), dest=name, action=action, required=needed, default=argparse.SUPPRESS)
        else:
            reader = _reader(kind)
            parser.add_argument(*sorted(names), dest=name, type=reader, required=needed, default=argparse.SUPPRESS)
    return vars(parser.parse_args(list(words)))


def _kinds(workflow: Workflow) -> dict[str, Any]:
    try:
        return typing.get_type_hints(workflow.function)
    except (NameError, TypeError):
        return {}


def _reader(kind: Any) -> Any:
    if kind in (int, float, str):
        return kind
    origin = typing.get_origin(kind) or kind

    def read(text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError:
            if origin in (list, tuple, dict):
                raise argparse.ArgumentTypeError(f"{text!r} is not JSON, such as [1, 2]") from None
            return text
        return tuple(value) if origin is tuple and isinstance(value, list) else value

    return read
