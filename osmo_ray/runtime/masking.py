"""Secrets out of streams of text: replaced by `[MASKED]`, also when a write cuts one in two, or it is base64-encoded.

Pure: bytes in, bytes out. A `Masker` holds back at its end what could be the beginning of a secret, until the next
bytes or the end of the stream tell. What base64 makes of a secret depends on where it begins, so all three positions
are looked for, without the letters at both ends that depend on the neighbours; so are its forms in URLs and in JSON.
Not found: base64 that is broken into lines within the secret, compression, encryption, a secret spelled backwards.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = b"[MASKED]"
SHORTEST = 8
"""Characters: shorter values are left alone, since they stand in too much that is no secret."""


class Masker:
    """One stream. `feed` gives what is certain by now, `end` the rest."""

    def __init__(self, values: Iterable[str]) -> None:
        self._forms = forms(values)
        # Longest first: of two secrets, one of which begins like the other, the longer one goes.
        ordered = sorted(self._forms, key=lambda one: (-len(one), one))
        self._pattern = re.compile(b"|".join(re.escape(one) for one in ordered)) if ordered else None
        self._longest = len(ordered[0]) if ordered else 0
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may go on of all that came so far."""
        if self._pattern is None:
            return data
        data = self._held + data
        done, at = self._masked(data, self._open(data))
        self._held = data[at:]
        return done

    def whole(self, text: str) -> str:
        """A text that is no part of the stream."""
        if self._pattern is None:
            return text
        data = text.encode("utf-8", "surrogateescape")
        return self._pattern.sub(MASK, data).decode("utf-8", "surrogateescape")

    def end(self) -> bytes:
        """The last part."""
        if self._pattern is None:
            return b""
        done, _ = self._masked(self._held, len(self._held))
        self._held = b""
        return done

    def _open(self, data: bytes) -> int:
        """Where the first secret may begin that is not whole yet. Nothing that begins before it is open."""
        for at in range(max(len(data) - self._longest + 1, 0), len(data)):
            tail = data[at:]
            if any(len(one) > len(tail) and one.startswith(tail) for one in self._forms):
                return at
        return len(data)

    def _masked(self, data: bytes, certain: int) -> tuple[bytes, int]:
        """The masked text of what begins before `certain`, and where the rest begins."""
        assert self._pattern is not None
        parts: list[bytes] = []
        at = 0
        for match in self._pattern.finditer(data):
            if match.start() >= certain:
                break
            parts += [data[at : match.start()], MASK]
            at = match.end()
        parts.append(data[at : max(certain, at)])
        return b"".join(parts), max(certain, at)


def mask(text: str, values: Iterable[str]) -> str:
    """A whole text without these secrets: for specs, events and errors."""
    masker = Masker(values)
    data = text.encode("utf-8", "surrogateescape")
    return (masker.feed(data) + masker.end()).decode("utf-8", "surrogateescape")


def forms(values: Iterable[str]) -> frozenset[bytes]:
    """All ways in which these secrets are looked for. A value of several lines is looked for line by line as well."""
    found: set[bytes] = set()
    for value in values:
        for one in {value, value.strip(), *value.splitlines()}:
            if len(one) >= SHORTEST:
                found |= _forms(one)
    return frozenset(found)


def _forms(value: str) -> set[bytes]:
    data = value.encode("utf-8", "surrogateescape")
    texts = {json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "replace")}
    texts |= {quote(data, safe="").encode(), quote_plus(data).encode(), quote(data).encode()}
    encoded = set().union(*(_base64(data, skip) for skip in range(3)))
    return {data} | {one for one in texts | encoded if len(one) >= SHORTEST}


def _base64(data: bytes, skip: int) -> set[bytes]:
    """What base64 makes of `data` behind `skip` other bytes, without what its neighbours have a say in."""
    text = base64.b64encode(b"\0" * skip + data)
    first = (0, 2, 3)[skip]
    whole = (skip + len(data)) * 8 // 6
    kept = text[first:whole]
    return {kept, kept.replace(b"+", b"-").replace(b"/", b"_")}
