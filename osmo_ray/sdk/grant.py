"""Logging in through an identity provider from a terminal: by a code that is typed in a browser, or by a password.

The provider gives an ID token, which every request shows, and a refresh token, for which it gives a new one. The client
speaks to the provider directly, so the platform never sees a password.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from osmo_ray.sdk.errors import ClientError, Unreachable

SCOPES = "openid offline_access profile email"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_EARLY = 10.0
"""Seconds before its end in which a token is no longer used."""
_TIMEOUT = 20.0
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Grant:
    """What a provider gave, with the names under which it is stored."""

    id_token: str
    refresh_token: str
    refresh_url: str
    client_id: str
    username: str = ""

    @property
    def ended(self) -> bool:
        """Whether the token is past its use. Its signature is the platform's business."""
        return float(claims(self.id_token).get("exp") or 0) - time.time() < _EARLY

    def renew(self) -> Grant:
        """A new one for the refresh token, which may be used up by this. Raises `ClientError`."""
        if not self.refresh_token:
            raise ClientError("The login has ended; log in again: osmo login URL", status=401)
        asked = {"grant_type": "refresh_token", "refresh_token": self.refresh_token, "client_id": self.client_id}
        answer = form(self.refresh_url, asked)
        if "id_token" not in answer:
            why = answer.get("error_description") or answer.get("error") or "no token"
            raise ClientError(f"The identity provider refuses ({why}); log in again: osmo login URL", status=401)
        return replace(
            self,
            id_token=str(answer["id_token"]),
            refresh_token=str(answer.get("refresh_token") or self.refresh_token),
        )


def by_password(info: Mapping[str, Any], user: str, password: str) -> Grant:
    """Raises `ClientError`."""
    asked = {"grant_type": "password", "username": user, "password": password, "scope": SCOPES}
    return granted(info, form(endpoint(info, "token_endpoint"), {**asked, "client_id": client_of(info)}), user)


def by_device(
    info: Callable[[], Mapping[str, Any]], tell: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Grant:
    """`info` asks the platform where to log in, `tell` says to the person what to do. Raises `ClientError`."""
    first = info()
    begun = form(endpoint(first, "device_endpoint"), {"client_id": client_of(first), "scope": SCOPES})
    if "device_code" not in begun:
        raise ClientError(f"The identity provider gives no code: {told(begun)}", status=400)
    page = begun.get("verification_uri_complete") or begun["verification_uri"]
    tell(str(begun.get("message") or f"Open {page} in a browser and confirm the code {begun['user_code']}"))
    pause, until = float(begun.get("interval") or 5), time.monotonic() + float(begun.get("expires_in") or 600)
    while time.monotonic() < until:
        sleep(pause)
        asked = {"grant_type": DEVICE, "device_code": str(begun["device_code"]), "client_id": client_of(first)}
        answer = form(endpoint(first, "token_endpoint"), asked)
        if answer.get("error") == "slow_down":
            pause += 5
        elif answer.get("error") != "authorization_pending":
            return granted(first, answer, "")
    raise ClientError("Nobody confirmed the code in time; log in again", status=401)


def claims(token: str) -> dict[str, Any]:
    """What a JWT says, unproven; empty for anything else."""
    try:
        part = token.split(".")[1]
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def granted(info: Mapping[str, Any], answer: Mapping[str, Any], user: str = "") -> Grant:
    """What a provider's token endpoint gave. Raises `ClientError`."""
    if "id_token" not in answer:
        raise ClientError(f"The identity provider refuses: {told(answer)}", status=401)
    token = str(answer["id_token"])
    named = user or str(claims(token).get("preferred_username") or "")
    refresh = str(answer.get("refresh_token") or "")
    return Grant(token, refresh, endpoint(info, "token_endpoint"), client_of(info), named)


def told(answer: Mapping[str, Any]) -> str:
    """Why it refuses, in its words."""
    return str(answer.get("error_description") or answer.get("error") or "it says nothing")[:300]


def endpoint(info: Mapping[str, Any], name: str) -> str:
    """An address that the platform told. Raises `ClientError` when it has none."""
    if not info.get(name):
        raise ClientError(f"This platform offers no {name.replace('_', ' ')}; try --method token", status=400)
    return str(info[name])


def client_of(info: Mapping[str, Any]) -> str:
    """The name of the command line's client at the provider: one without a secret, where there is one."""
    return str(info.get("device_client_id") or info.get("browser_client_id") or "")


def form(url: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """A form sent to the provider: over https, or over http to this host alone. Raises `ClientError`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" and host not in ("127.0.0.1", "localhost", "::1"):
        raise ClientError(f"{url} is not https: what is secret does not go there", status=400)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, parts.port, timeout=_TIMEOUT)
    try:
        head = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, urlencode(fields), head)
        value = json.loads(connection.getresponse().read(_LIMIT))
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"The identity provider does not answer at {url} ({type(error).__name__})") from error
    except ValueError:
        raise ClientError(f"{url} does not answer as an identity provider", status=502) from None
    finally:
        connection.close()
    return value if isinstance(value, dict) else {}
