"""What has to stand before anything opens the database: its newest schema, and a way in for the administrator.

A platform that listens beyond loopback, or has an identity provider, wants to know from everybody who they are, so the
first access token is made here and left in a file that only the platform's user can read.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from osmo_ray import settings as settings_room
from osmo_ray.platform.files import Files, write_secret
from osmo_ray.settings import Settings
from osmo_ray.store.protocol import Store, Token
from osmo_ray.store.sql import SqlStore

_LIFE = 365 * 86400.0


def main() -> int:
    """`python -m osmo_ray.platform.prepare`"""
    settings = settings_room.load()
    store = SqlStore(settings.database)
    try:
        store.migrate()
        if settings.authenticated:
            ensure_admin(store, Files(settings.home))
    finally:
        store.close()
    return 0


def ensure_admin(store: Store, files: Files) -> None:
    """The administrator's token, made anew when it is missing or about to expire."""
    if files.admin_token.exists():
        known = store.token(hashlib.sha256(files.admin_token.read_bytes()).hexdigest())
        if known is not None and known.expires > time.time() + 7 * 86400:
            return
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    store.delete_token("admin", "first")
    store.save_token(Token("first", "admin", digest, time.time() + _LIFE, ("osmo-admin",), "made by osmo up"))
    write_secret(files.admin_token, secret)


def describe(settings: Settings, files: Files, ray_address: str) -> list[str]:
    """How others come in: lines for `osmo up`."""
    url = f"http://{settings.host}:{settings.port}"
    through = [f"                 osmo login {settings.address}   (through {settings.oidc_issuer})"]
    return [
        f"  log in         osmo login {url} --method token --token-file {files.admin_token}",
        *(through if settings.oidc_issuer else ()),
        f"  join a node    copy {files.ray_token} there, then on it:",
        f"                 RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=ray.token ray start --address={ray_address}",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
