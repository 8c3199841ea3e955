"""The special tokens of a task's texts, and Kubernetes' `$(NAME)`.

Where a task runs decides what `{{output}}` means, so whoever prepares the place builds a `Tokens` value and asks
`expand`. A token that means nothing here (an input that does not exist, a task of another group) stays as it is
written, and so does everything that is no token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(r"\{\{(workflow_id|output|input:[^{}\s]+|host:[^{}\s]+)\}\}")
_VARIABLE = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What each token becomes. `inputs` is by position, `aliases` by task name, `hosts` by task name."""

    workflow_id: str
    output: str
    inputs: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)

    def meaning(self, name: str) -> str | None:
        """The text for the token `name` (without braces), or None when it has no meaning here."""
        if name == "workflow_id":
            return self.workflow_id
        if name == "output":
            return self.output
        kind, _, argument = name.partition(":")
        if kind == "host":
            return self.hosts.get(argument)
        if argument.isascii() and argument.isdigit():
            index = int(argument)
            return self.inputs[index] if index < len(self.inputs) else None
        return self.aliases.get(argument)


def expand(text: str, tokens: Tokens) -> str:
    """`text` with every token that has a meaning replaced, once: what a token becomes is not looked at again."""
    if "{{" not in text:
        return text

    def replaced(match: re.Match[str]) -> str:
        meaning = tokens.meaning(match[1])
        return match[0] if meaning is None else meaning

    return _TOKEN.sub(replaced, text)


def variables(text: str, environment: Mapping[str, str]) -> str:
    """Kubernetes' rule for command and args: `$(NAME)` becomes the variable, `$$` becomes `$` (so `$$(NAME)` is the
    way to write `$(NAME)`), and an unknown name stays as it is."""
    if "$" not in text:
        return text

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environment.get(match[1], match[0])

    return _VARIABLE.sub(replaced, text)


def host_label(task: str) -> str:
    """A task's name as a part of a host name: lower case, `_` as `-`, at most 63 letters."""
    return task.lower().replace("_", "-")[:63].rstrip("-")


def host_name(task: str, workflow_id: str) -> str:
    """The name under which a task's siblings find it: `<task>.<workflow id>.osmo`."""
    return f"{host_label(task)}.{host_label(workflow_id)}.osmo"
