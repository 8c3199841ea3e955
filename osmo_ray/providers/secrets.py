"""Secrets of users, encrypted at rest: what the database holds is useless without a key that is not in it.

AES-256-GCM with a fresh nonce for each value. Who owns a secret and what it is called are authenticated with it, so
that a row copied to another user does not open. The key stands in a file of mode 0600; an older key may stand after the
first, one per line, so that a key can be changed while old values still open.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE, _KEY = 12, 32
MAX_VALUE = 1 << 20
"""Bytes of one secret: what a Kubernetes Secret can carry, too."""


class SecretError(Exception):
    """A key or a secret that cannot be used, and what to do about it."""


class Vault(Protocol):
    """Seals values for one owner and name, and opens them again."""

    def seal(self, owner: str, name: str, values: Mapping[str, str]) -> bytes:
        """What may be stored anywhere."""
        ...

    def open(self, owner: str, name: str, sealed: bytes) -> dict[str, str]:
        """What `seal` was given. Raises `SecretError`."""
        ...


class LocalVault:
    """A vault whose keys this process holds; the first one seals, all of them open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != _KEY for key in keys):
            raise SecretError(f"a key has {_KEY} bytes; make a new key file by removing the old one")
        self._keys = [AESGCM(key) for key in keys]

    def __repr__(self) -> str:
        return f"<LocalVault of {len(self._keys)} keys>"

    def seal(self, owner: str, name: str, values: Mapping[str, str]) -> bytes:
        data = json.dumps(dict(values), ensure_ascii=False).encode()
        if len(data) > MAX_VALUE:
            raise SecretError(f"the credential {name!r} has more than {MAX_VALUE >> 10} KiB")
        nonce = secrets.token_bytes(_NONCE)
        return _VERSION + nonce + self._keys[0].encrypt(nonce, data, _bound(owner, name))

    def open(self, owner: str, name: str, sealed: bytes) -> dict[str, str]:
        if sealed[:1] != _VERSION or len(sealed) <= 1 + _NONCE:
            raise SecretError(f"the credential {name!r} was stored by a newer program, or is damaged; set it again")
        nonce, data = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        for key in self._keys:
            try:
                found: dict[str, str] = json.loads(key.decrypt(nonce, data, _bound(owner, name)))
                return found
            except InvalidTag:
                continue
        raise SecretError(f"the credential {name!r} does not open with this platform's key; set it again")


def _bound(owner: str, name: str) -> bytes:
    return json.dumps([owner, name]).encode()


def key_file(home: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Where the key stands: `OSMO_SECRET_KEY_FILE`, else `secret.key` in the platform's home."""
    named = (os.environ if environ is None else environ).get("OSMO_SECRET_KEY_FILE")
    return Path(named) if named else home / "secret.key"


def load(path: Path, *, create: bool = True) -> LocalVault:
    """The vault of a key file, which is made when it is not there. Raises `SecretError` for a file that others may
    read, or that holds no keys."""
    if create and not path.exists():
        _create(path)
    return LocalVault(read_keys(path))


def read_keys(path: Path) -> list[bytes]:
    """The keys of a key file. Raises `SecretError` for a file that others may read, or that holds no keys."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            lines = file.read().split()
    except OSError as error:
        raise SecretError(f"the key file {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise SecretError(f"the key file {path} can be read by others (mode {mode:04o}); write: chmod 600 {path}")
    try:
        return [base64.b64decode(line, validate=True) for line in lines]
    except ValueError as error:
        raise SecretError(f"the key file {path} holds no keys: 32 bytes in base64 on each line") from error


def _create(path: Path) -> None:
    """A new key, whole or not at all; of two processes that try, one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(_KEY)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
