"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass

from osmo_ray.store.protocol import Token


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `how` is `token`, `session`, `provider`, `development`, or empty on paths that are open to all."""

    user: str = ""
    roles: tuple[str, ...] = ()
    how: str = ""
    token: Token | None = None
