"""Names of datasets, versions and tags, as people and workflows write them.

`[bucket/]name[:selector]` (or `@` for `:`). A selector of digits alone is a version, anything else a tag; none, or
`latest`, is the newest version. A tag may therefore not be all digits, and nobody sets `latest` by hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from osmo_ray.data.errors import BadName

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_REFERENCE = re.compile(r"(?:([A-Za-z0-9_-]+)/)?([A-Za-z0-9_-]+)(?:[:@]([A-Za-z0-9_-]+))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """`bucket` is empty for the default bucket; `selector` is a version in digits, a tag, or `latest`."""

    bucket: str
    name: str
    selector: str = LATEST

    @property
    def version(self) -> int | None:
        return int(self.selector) if self.selector.isdigit() else None

    def __str__(self) -> str:
        return f"{self.bucket}/{self.name}:{self.selector}" if self.bucket else f"{self.name}:{self.selector}"


def parse_reference(text: str) -> Reference:
    """Raises `BadName` unless the whole text is a reference."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise BadName(f"{text!r} is no dataset; write [bucket/]name[:version or tag], of letters, digits, _ and -")
    return Reference(found[1] or "", check_name(found[2]), found[3] or LATEST)


def check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise BadName(f"{name!r} is no name; use letters, digits, _ and - (255 at most)")
    return name


def check_tag(tag: str) -> str:
    """A tag that people may set."""
    check_name(tag)
    if tag.isdigit():
        raise BadName(f"tag {tag!r} would read as a version; add a letter")
    if tag == LATEST:
        raise BadName("'latest' follows the newest version by itself; choose another tag")
    return tag
