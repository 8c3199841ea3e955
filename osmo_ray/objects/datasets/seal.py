"""Client-side encryption: what a bucket with a key does to bytes before they leave, and after they come.

AES-256-GCM, a key of its own for each object derived from the bucket's, a random nonce each time, and the place of the
bytes (the object's key, the chunk's id) bound in, so that a store that swaps two objects is found out. Ids of chunks
are keyed too. Without a key both are the identity.
"""

from __future__ import annotations

import os
from functools import lru_cache

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from osmo_ray.data.chunking import Hasher
from osmo_ray.data.errors import Corrupt, DataError

_NONCE, _TAG = 12, 16
_CHUNK_IDS, _OBJECTS, _CHECK = (f"osmo-ray 2026 dataset {use}" for use in ("chunk ids", "objects", "key check"))


class Seal:
    """`key` has 32 bytes, or is None for a bucket in the clear."""

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) != 32:
            raise DataError(f"the key of a bucket has 32 bytes, not {len(key)}; make one with: head -c 32 /dev/urandom")
        self.overhead = _NONCE + _TAG if key else 0
        self.hasher = Hasher(_derive(_CHUNK_IDS, key) if key else None)
        self.check = _derive(_CHECK, key).hex() if key else ""
        self._objects = _derive(_OBJECTS, key) if key else None
        self._cipher = lru_cache(maxsize=256)(self._make)

    def close(self, data: bytes | memoryview, object: str, piece: bytes = b"") -> bytes | memoryview:
        """What is stored: `piece` names the part of the object."""
        if self._objects is None:
            return data
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher(object).encrypt(nonce, bytes(data), piece)

    def open(self, data: bytes | memoryview, object: str, piece: bytes = b"") -> bytes | memoryview:
        """The inverse. Raises `Corrupt` for other bytes than were stored there."""
        if self._objects is None:
            return data
        try:
            return self._cipher(object).decrypt(bytes(data[:_NONCE]), bytes(data[_NONCE:]), piece)
        except InvalidTag as error:
            raise Corrupt(f"{object} is not what was stored there, or the key is another") from error

    def _make(self, object: str) -> AESGCM:
        assert self._objects is not None
        return AESGCM(blake3(object.encode(), key=self._objects).digest())


def _derive(use: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=use).digest()
