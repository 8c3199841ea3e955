"""Which platform a client talks to, and as whom.

`--url`, else `OSMO_URL`, else the stored login, else the platform that `osmo up` started below `OSMO_HOME`, else port
8000 of this host. What is stored for one address is never sent to another.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from osmo_ray.sdk.grant import Grant

_RENEWED: dict[tuple[str, str, str], Grant] = {}
"""What this process has got for grants that had ended."""
DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Login:
    """An address without a slash at its end, a user for development login, and an access token; or what an identity
    provider gave."""

    url: str
    user: str = ""
    token: str = ""
    grant: Grant | None = None

    def headers(self) -> dict[str, str]:
        """What identifies the caller to the platform. A token of a provider that ends is first made fresh; raises
        `ClientError` when that cannot be."""
        if self.grant is not None and not self.token:
            return {"Authorization": f"Bearer {_current(self, self.grant).id_token}"}
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        return {"x-osmo-user": self.user} if self.user else {}


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where clients keep their settings."""
    env = os.environ if environ is None else environ
    if named := env.get("OSMO_CONFIG_FILE_DIR"):
        return Path(named).expanduser()
    base = env.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "osmo"


def resolve(url: str = "", environ: Mapping[str, str] | None = None) -> Login:
    """The login to use."""
    env = os.environ if environ is None else environ
    stored = read(env)
    wanted = (url or env.get("OSMO_URL") or (stored.url if stored else "") or started(env) or DEFAULT_URL).rstrip("/")
    found = stored if stored and stored.url == wanted else Login(wanted)
    if token := env.get("OSMO_TOKEN"):
        return Login(wanted, found.user, token)
    return found


def started(environ: Mapping[str, str]) -> str:
    """Where the platform of this `OSMO_HOME` listens, by what its `osmo up` left; empty if there is none."""
    home = Path(environ.get("OSMO_HOME") or Path.home() / ".osmo").expanduser()
    try:
        return str(json.loads((home / "run" / "state.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read(environ: Mapping[str, str] | None = None) -> Login | None:
    """The stored login, if there is one that can be read."""
    path = folder(environ) / "login.yaml"
    if not path.is_file():
        return None
    import yaml

    value: Any = yaml.safe_load(path.read_text())
    if not isinstance(value, dict) or not value.get("url"):
        return None
    dev, through = value.get("dev_login") or {}, value.get("token_login")
    url = str(value["url"]).rstrip("/")
    grant = _grant(through) if isinstance(through, dict) else None
    return Login(url, str(dev.get("username", "")), str(value.get("access_token") or ""), grant)


def _grant(value: Mapping[str, Any]) -> Grant:
    return Grant(**{f.name: str(value.get(f.name) or "") for f in fields(Grant)})


def _current(login: Login, grant: Grant) -> Grant:
    """A grant whose token is good for a while: this one, what another client has got meanwhile, or a new one."""
    grant = _RENEWED.get((login.url, grant.refresh_url, grant.username), grant)
    if not grant.ended:
        return grant
    with _alone():
        stored = read()
        mine = stored is not None and stored.url == login.url
        if mine and stored is not None and stored.grant is not None:
            grant = stored.grant
        if grant.ended:
            grant = grant.renew()
            if mine:
                write(replace(login, grant=grant))
    _RENEWED[login.url, grant.refresh_url, grant.username] = grant
    return grant


@contextmanager
def _alone() -> Iterator[None]:
    """One client at a time: a provider may end a login whose refresh token is used twice."""
    place = folder() / "login.lock"
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(login: Login, environ: Mapping[str, str] | None = None) -> Path:
    """Store a login for its owner's eyes only."""
    import yaml

    path = folder(environ) / "login.yaml"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    value = {
        "url": login.url,
        "dev_login": {"username": login.user} if login.user and not login.token else None,
        "token_login": asdict(login.grant) if login.grant else None,
        "osmo_token": bool(login.token),
        "name": login.grant.username if login.grant else login.user,
        "access_token": login.token or None,
    }
    fresh = path.with_suffix(f".new{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        yaml.safe_dump(value, file, sort_keys=False)
    fresh.replace(path)
    return path


def forget(environ: Mapping[str, str] | None = None) -> bool:
    """Remove the stored login; False when there was none."""
    path = folder(environ) / "login.yaml"
    _RENEWED.clear()
    if not path.exists():
        return False
    path.unlink()
    return True
