"""Short-lived passes (JSON Web Tokens, ES256) for clients that trade their access token for one before each call.

The signing key is derived from the platform's secret key, so every replica that has that key signs and reads the same
passes, and there is no second file to keep. A pass proves only which access token it was given for: whoever reads it
still looks that token up, so a deleted token ends its passes at once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

LIFE = 300.0
"""Seconds that a pass is good for."""
_ISSUER = "osmo"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SIDE = 32


class BadPass(ValueError):
    """A pass that is broken, not ours, or too old."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Who holds it, by which access token, with which roles, until when (seconds since the epoch)."""

    user: str
    token: str
    roles: tuple[str, ...]
    expires: float


class Passes:
    """Signs with the first key, reads passes of all of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = [_derive(key) for key in keys]

    def sign(self, user: str, token: str, roles: Sequence[str], now: float) -> tuple[str, int]:
        """A pass, and when it ends."""
        until = int(now + LIFE)
        times = {"iat": int(now), "nbf": int(now), "exp": until}
        claims = {"iss": _ISSUER, "aud": _ISSUER, **times, "unique_name": user, "roles": list(roles)}
        head = {"alg": "ES256", "typ": "JWT", "kid": "0"}
        text = f"{_pack(head)}.{_pack({**claims, 'osmo_token_name': token})}"
        r, s = decode_dss_signature(self._keys[0].sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(_SIDE, 'big') + s.to_bytes(_SIDE, 'big'))}", until

    def read(self, text: str, now: float) -> Pass:
        """Raises `BadPass`."""
        signed, _, signature = text.rpartition(".")
        head, _, body = signed.partition(".")
        try:
            if _unpack(head).get("alg") != "ES256":
                raise BadPass("it is signed in another way")
            self._verify(signed.encode(), _bytes(signature))
            claims = _unpack(body)
            found = Pass(
                str(claims["unique_name"]), str(claims["osmo_token_name"]), tuple(claims["roles"]), float(claims["exp"])
            )
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise BadPass("it is broken") from error
        if claims.get("aud") != _ISSUER or found.expires <= now:
            raise BadPass("it has expired")
        return found

    def public(self) -> dict[str, Any]:
        """The public keys as a JWK set."""
        return {"keys": [_jwk(str(number), key) for number, key in enumerate(self._keys)]}

    def _verify(self, signed: bytes, signature: bytes) -> None:
        if len(signature) != 2 * _SIDE:
            raise BadPass("its signature is broken")
        sides = (int.from_bytes(signature[:_SIDE], "big"), int.from_bytes(signature[_SIDE:], "big"))
        for key in self._keys:
            try:
                key.public_key().verify(encode_dss_signature(*sides), signed, ec.ECDSA(hashes.SHA256()))
                return
            except InvalidSignature:
                continue
        raise BadPass("another platform signed it")


def _derive(key: bytes) -> ec.EllipticCurvePrivateKey:
    wide = HKDFExpand(hashes.SHA256(), 48, b"osmo passes 1").derive(key)
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def _jwk(kid: str, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    point = key.public_key().public_numbers()
    x, y = (_base64(side.to_bytes(_SIDE, "big")) for side in (point.x, point.y))
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _pack(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _unpack(text: str) -> dict[str, Any]:
    return dict(json.loads(_bytes(text)))
