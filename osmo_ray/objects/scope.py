"""Tokens for the storage gateway: what their holder may do, below which prefix, until when.

A token is a list of limits and an HMAC over them, and every limit must allow a request. Whoever holds a token can
add a limit to it without knowing the platform's key, because the new signature is made with the old one as the key;
nobody can take a limit away. So a node gets a token for its tasks, narrows it to one attempt's prefix, and a signed
URL is the same thing once more, narrowed to one key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass

READ, LIST, WRITE, DELETE = "r", "l", "w", "d"
ALL = READ + LIST + WRITE + DELETE


class BadToken(ValueError):
    """Not a token of this platform, or one that does not allow this; the message says which."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`verbs` are letters of `ALL`; `prefix` is `""` for everything, `folder/` for what is below, or one whole key;
    `expires` is seconds since the epoch by the platform's clock."""

    verbs: str
    prefix: str
    expires: int

    def problem(self, verb: str, key: str, now: float) -> str:
        """Why this does not allow `verb` on `key`, empty if it does. To list `folder/` the limit must cover it."""
        if now >= self.expires:
            return "the token has expired"
        if verb not in self.verbs:
            return f"the token does not allow {_NAMES[verb]}"
        below = self.prefix == "" or (self.prefix.endswith("/") and key.startswith(self.prefix))
        return "" if below or key == self.prefix else f"the token is for {self.prefix!r} only"


_NAMES = {READ: "reading", LIST: "listing", WRITE: "writing", DELETE: "deleting"}


def grant(key: bytes, verbs: str, prefix: str, expires: float) -> str:
    """A token made with the platform's secret key of at least 16 bytes."""
    if len(key) < 16:
        raise ValueError("the key of the storage gateway must have at least 16 bytes")
    limit = _dump(verbs, prefix, expires)
    return _encode([limit], _mac(key, limit))


def narrow(token: str, verbs: str, prefix: str, expires: float) -> str:
    """A token that allows only what both it and the given one allow. Raises `BadToken` for what is no token."""
    limits, signature = _decode(token)
    limit = _dump(verbs, prefix, expires)
    return _encode([*limits, limit], _mac(signature, limit))


def check(key: bytes, token: str, verb: str, object_key: str, now: float) -> None:
    """Raises `BadToken` unless the token allows `verb` on `object_key` now."""
    limits, signature = _decode(token)
    wanted = key
    for limit in limits:
        wanted = _mac(wanted, limit)
    if not hmac.compare_digest(wanted, signature):
        raise BadToken("the token was not made by this platform")
    for limit in limits:
        if problem := _load(limit).problem(verb, object_key, now):
            raise BadToken(problem)


def _dump(verbs: str, prefix: str, expires: float) -> str:
    if not verbs or set(verbs) - set(ALL):
        raise ValueError(f"verbs are letters of {ALL!r}, not {verbs!r}")
    return json.dumps([verbs, prefix, int(expires)], separators=(",", ":"))


def _load(text: str) -> Limit:
    verbs, prefix, expires = json.loads(text)  # signed, so it is ours
    return Limit(verbs, prefix, expires)


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _encode(limits: Sequence[str], signature: bytes) -> str:
    packed = json.dumps([*limits, signature.hex()], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _decode(token: str) -> tuple[list[str], bytes]:
    try:
        packed = json.loads(base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4)))
        *limits, signature = packed
        if not limits or not all(isinstance(limit, str) for limit in limits):
            raise ValueError
        return limits, bytes.fromhex(signature)
    except (ValueError, TypeError) as error:
        raise BadToken("this is not a token of the storage gateway") from error
