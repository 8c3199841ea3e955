"""Credentials of whoever asks: set, named, removed. No route gives a secret back.

What they hold is sealed before it reaches the store, and opened only where a task is sent to its node.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from fastapi import APIRouter

from osmo_ray.api.errors import ApiError
from osmo_ray.api.nouns import CredentialBody, CredentialEntry, CredentialList
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.providers.proofs import Unproven
from osmo_ray.providers.secrets import SecretError, Vault
from osmo_ray.store.protocol import Credential

NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?")
MAX_NAME = 128
Prove = Callable[[str, str, Mapping[str, str]], None]
_PUBLIC = ("username", "access_key_id", "region", "override_url", "addressing")
"""Parts of registry and data credentials that are no secrets."""
MOST = 200
"""Credentials of one user."""


def vault_of(services: Services) -> Vault:
    """The vault. Raises `ApiError` on a platform without a key."""
    if services.vault is None:
        raise ApiError("This platform has no key for secrets (OSMO_SECRET_KEY_FILE).", "CREDENTIAL", 503)
    return services.vault


def opened(services: Services, user: str) -> dict[str, frozenset[str]]:
    """Name -> keys of every credential of a user. Raises `ApiError` for one that does not open."""
    found = services.store.credentials(user)
    try:
        return {c.name: frozenset(vault_of(services).open(user, c.name, c.sealed)) for c in found}
    except SecretError as error:
        raise ApiError(f"{error}.", "CREDENTIAL") from None


def secret_values(services: Services, user: str) -> list[str]:
    """Every secret of a user that still opens: what must not be read in texts of theirs."""
    vault = services.vault
    if vault is None:
        return []
    found: list[str] = []
    for one in services.store.credentials(user):
        try:
            values = vault.open(user, one.name, one.sealed)
        except SecretError:
            continue
        found += [v for k, v in values.items() if k not in _PUBLIC]
    return found


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["credential"])
    store = services.store

    @router.get("/api/credentials")
    def list_credentials(user: User) -> CredentialList:
        return CredentialList(credentials=[_entry(c) for c in store.credentials(user.user)])

    @router.post("/api/credentials/{cred_name}")
    def set_credential(cred_name: str, body: CredentialBody, user: User, check: bool = True) -> None:
        if not NAME.fullmatch(cred_name) or len(cred_name) > MAX_NAME:
            raise ApiError(
                f"{cred_name[:80]!r} is not a credential's name: letters, digits, - and _, a letter first and no - or "
                "_ at the end.",
                "CREDENTIAL",
            )
        kind, profile, values = _values(body)
        if check and services.prove is not None and profile is not None:
            _prove(services.prove, kind, profile, values)
        known = {c.name for c in store.credentials(user.user)}
        if len(known | {cred_name}) > MOST:
            raise ApiError(f"At most {MOST} credentials may be kept; delete one first.", "CREDENTIAL")
        try:
            sealed = vault_of(services).seal(user.user, cred_name, values)
        except SecretError as error:
            raise ApiError(f"{error}.", "CREDENTIAL") from None
        store.save_credential(Credential(user.user, cred_name, kind, profile, sealed))

    @router.delete("/api/credentials/{cred_name}")
    def delete_credential(cred_name: str, user: User) -> CredentialList:
        gone = store.delete_credential(user.user, cred_name)
        if gone is None:
            raise ApiError(f"There is no credential {cred_name[:80]!r}; see osmo credential list.", "CREDENTIAL")
        return CredentialList(credentials=[_entry(gone)])

    return router


def _prove(prove: Prove, kind: str, profile: str, values: dict[str, str]) -> None:
    try:
        prove(kind, profile, values)
    except Unproven as error:
        message = f"Not stored: {error}. To store it untried: osmo credential set --no-check"
        raise ApiError(message, "CREDENTIAL") from None


def _entry(credential: Credential) -> CredentialEntry:
    return CredentialEntry(cred_name=credential.name, cred_type=credential.kind, profile=credential.profile)


def _values(body: CredentialBody) -> tuple[str, str | None, dict[str, str]]:
    """(kind, profile, what is secret). Raises `ApiError`."""
    given = [b for b in (body.generic_credential, body.registry_credential, body.data_credential) if b is not None]
    if len(given) != 1:
        raise ApiError("Send exactly one of generic_credential, registry_credential and data_credential.", "CREDENTIAL")
    if body.generic_credential is not None:
        values = body.generic_credential.credential
        kind, profile = "GENERIC", None
    elif body.registry_credential is not None:
        registry = body.registry_credential
        kind, profile = "REGISTRY", registry.registry
        values = {"username": registry.username, "auth": registry.auth}
    else:
        assert body.data_credential is not None
        data = body.data_credential
        kind, profile = "DATA", data.endpoint.rstrip("/")
        values = {k: v for k, v in data.model_dump(exclude={"endpoint"}).items() if v is not None}
    _check(profile, values)
    return kind, profile, values


def _check(profile: str | None, values: dict[str, str]) -> None:
    if profile is not None and (not profile or len(profile) > 1024 or not profile.isprintable()):
        raise ApiError("The registry or endpoint of a credential must be one line of text.", "CREDENTIAL")
    for key, value in values.items():
        if not key or "/" in key or "\0" in key + value or key in (".", ".."):
            raise ApiError(f"{key[:80]!r} cannot be a key of a credential: it may become a file's name.", "CREDENTIAL")
        try:
            (key + value).encode()
        except UnicodeEncodeError:
            raise ApiError(f"The value of {key[:80]!a} holds half a character.", "CREDENTIAL") from None
