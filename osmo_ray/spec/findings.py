"""What a rule of the language finds, and what several of its rules share: forms of names, the reading of amounts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from osmo_ray.spec.document import Path, suggest
from osmo_ray.spec.quantity import to_bytes

MAX_NAME = 64
NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?")
ENVIRONMENT = re.compile(r"[a-zA-Z_.-][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. `key` says that the name at the end of `path` is what is wrong, not its value; `resource`
    that it is about resources, which clients tell from other mistakes."""

    path: Path
    message: str
    hint: str = ""
    key: bool = False
    resource: bool = False


Findings = Iterator[Finding]


def amount(at: Path, text: str) -> Findings:
    """A quantity such as 4Gi that is more than nothing."""
    try:
        if to_bytes(text) <= 0:
            yield Finding(at, f"{text!r} is nothing", "ask for more than 0", resource=True)
    except (ValueError, OverflowError) as error:
        near = suggest(text, [text[:-1] + "i"]) if re.fullmatch(r"\d+(\.\d+)?[TGMK]B", text) else ""
        yield Finding(at, str(error), near, resource=True)
