"""What a verb of the command line is, and the parts that verbs share.

A verb is anything with `add_arguments(parser)` and `run(args) -> exit code`: a `Command` of this room, or a module
of another. It is named by a text, `package.module` or `package.module:NAME`, and loaded when it is called, so that
the program itself stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client


NARROWEST = 8
"""Letters below which no column of a table is cut."""


class Verb(Protocol):
    """What the program calls."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code. May raise `ClientError`."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """A verb made of two functions."""

    arguments: Callable[[argparse.ArgumentParser], None]
    action: Callable[[argparse.Namespace], int]
    json: bool = True
    """Whether there is a form for programs; verbs that print streams have none, and `-t` is their task."""
    rest: bool = False
    """Words that no option takes are left in `args.rest`: the arguments of a Python workflow."""
    tail: bool = False
    """What follows `--` is left in `args.tail` as it is: somebody else's command line."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        client_options(parser, json=self.json)
        self.arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        return self.action(args)


def load(target: str) -> Verb:
    """The verb that a text names."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    return cast("Verb", getattr(found, name) if name else found)


def client_options(parser: argparse.ArgumentParser, *, json: bool) -> None:
    """What every verb that talks to a platform takes."""
    parser.add_argument("--url", default="", help="the platform to talk to (default: OSMO_URL, then the stored login)")
    if not json:
        return
    parser.add_argument(
        "--format-type",
        "-t",
        choices=("text", "json"),
        default="text",
        help="json: what the API answered, for programs",
    )


def connect(args: argparse.Namespace) -> Client:
    """The client that the options ask for."""
    from osmo_ray.sdk.client import Client

    return Client(args.url)


def print_json(value: object) -> None:
    """Print for programs: stable keys, readable by people too."""
    import json

    print(json.dumps(value, indent=4, ensure_ascii=False))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be; the last one is not padded. On a terminal, cells of the widest columns are
    cut until a line fits; in a pipe nothing is."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(head) - 1)
        while sum(widths) > room and max(widths) > NARROWEST:
            widths[widths.index(max(widths))] -= 1
        rows = [[_cut(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def ask_many(names: list[str], act: Callable[[str], None], done: str, refused: Callable[[Exception], str] = str) -> int:
    """Do one thing to many workflows, say how each went, and go on after failures. 0 if all went well, else 1."""
    from osmo_ray.sdk.errors import ClientError, Unreachable

    failed = 0
    for name in names:
        try:
            act(name)
        except Unreachable:
            raise
        except ClientError as error:
            failed += 1
            print(f"{name}: {refused(error)}", file=sys.stderr)
        else:
            print(f"{name}: {done}")
    return 1 if failed else 0


def duration(seconds: float | None) -> str:
    """`75.2` -> `1m 15s`; nothing for None."""
    if seconds is None:
        return ""
    from osmo_ray.spec.quantity import show_seconds

    return show_seconds(seconds)
