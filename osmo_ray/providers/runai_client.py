"""Run:AI's control plane as a reader sees it: a token, pages of projects and departments, and patience.

Only ever reads. A page that does not fit those before it (the list was edited between two of them, or a proxy answers
from an old copy) makes the whole answer worthless: an error like a lost connection, and everything is read again.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from osmo_ray.providers.quota import QuotaError

Row = Mapping[str, object]
_PAGE = 500
_TRIES = 4
_EARLY = 60.0
"""Seconds before its end that a token is renewed."""
_LONGEST = 30.0
"""Most seconds that a server's `Retry-After` is followed within one reading."""
_MOST_ROWS = 100_000
_MOST_BYTES = 32 << 20
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class RunaiError(QuotaError):
    """Run:AI could not be read; the message says what was asked, what came, and what to do."""


class _Passing(RunaiError):
    """Trying again may help; `after` is what the server asked for, in seconds."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class _Expired(RunaiError):
    """The token is not taken any more."""


@dataclass(frozen=True, slots=True)
class Login:
    """Where Run:AI answers, and an application that may read projects and departments there."""

    url: str
    client_id: str
    secret: str | Callable[[], str] = field(repr=False)
    """Text, or what reads it anew for each token: secrets are rotated. That may raise OSError."""
    timeout: float = 15.0
    ca_file: str = ""
    """Certificates that a private server is trusted by, in place of the system's."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        near = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and near)):
            raise RunaiError(f"runai_url {self.url!r} must be https://HOST: the client's secret goes there")

    def trusted(self) -> ssl.SSLContext | bool:
        """Whom to trust. Raises `RunaiError` for a file of certificates that cannot be used."""
        if not self.ca_file:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise RunaiError(f"runai_ca_file {self.ca_file!r} cannot be used: {error}") from None

    def shown(self) -> str:
        """The secret as it is now."""
        try:
            return self.secret if isinstance(self.secret, str) else self.secret()
        except (OSError, UnicodeDecodeError) as error:
            raise RunaiError(f"runai_secret_file cannot be read: {error}") from None


class RunaiClient:
    """Lists with renewal and retries. For one thread. `sleep` and `clock` (seconds since 1970) may be a test's."""

    def __init__(
        self, login: Login, sleep: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.time
    ) -> None:
        self._login, self._sleep, self._clock = login, sleep, clock
        self._http = httpx.Client(
            base_url=login.url.rstrip("/"),
            timeout=login.timeout,
            follow_redirects=False,
            trust_env=False,
            verify=login.trusted(),
        )
        self._token, self._until = "", 0.0

    def close(self) -> None:
        self._http.close()

    def rows(self, path: str, key: str, cluster: str = "") -> list[Row]:
        """All rows of a paged list, each with its own `id`. Raises `RunaiError` once patience has ended."""
        for attempt in range(_TRIES):
            try:
                return self._pages(path, key, cluster)
            except _Passing as error:
                if attempt == _TRIES - 1:
                    raise RunaiError(f"{error} ({_TRIES} tries)") from error
                self._sleep(min(max(error.after, 0.5 * 2**attempt), _LONGEST))
        raise AssertionError("unreachable")

    def _pages(self, path: str, key: str, cluster: str) -> list[Row]:
        found: dict[object, Row] = {}
        offset = 0
        while True:
            query = {"offset": str(offset), "limit": str(_PAGE)}
            if cluster:
                query["filterBy"] = f"clusterId=={cluster}"
            answer = self._get(path, query)
            page = answer.get(key)
            if not isinstance(page, list) or not all(isinstance(r, dict) and "id" in r for r in page):
                raise _Passing(f"GET {path}: no list of {key} with ids came")
            if len(page) > _PAGE or any(r["id"] in found for r in page):
                raise _Passing(f"GET {path}: the page at {offset} repeats rows of an earlier one")
            found.update((r["id"], r) for r in page)
            following = answer.get("next")
            if following is None:
                return list(found.values())
            if not isinstance(following, int) or following != offset + len(page) or not page:
                raise _Passing(f"GET {path}: after {len(page)} rows at {offset} comes {following!r}, not the next page")
            if following > _MOST_ROWS:
                raise RunaiError(f"GET {path}: more than {_MOST_ROWS} {key}; narrow it with runai_cluster")
            offset = following

    def _get(self, path: str, query: Mapping[str, str]) -> Row:
        """One page. A token that is refused is renewed once: a second refusal is no matter of age."""
        try:
            return self._send("GET", path, params=query, headers=self._bearer())
        except _Expired:
            self._token = ""
        try:
            return self._send("GET", path, params=query, headers=self._bearer())
        except _Expired:
            self._token = ""
            raise RunaiError(f"GET {path}: 401 with a fresh token; see whether the application still exists") from None

    def _bearer(self) -> dict[str, str]:
        if not self._token or self._clock() >= self._until - _EARLY:
            asked = {
                "grantType": "client_credentials",
                "clientId": self._login.client_id,
                "clientSecret": self._login.shown(),
            }
            try:
                token = self._send("POST", "/api/v1/token", json=asked).get("accessToken")
            except _Expired:
                raise RunaiError("POST /api/v1/token: 401; check runai_client_id and runai_secret_file") from None
            if not isinstance(token, str) or not token:
                raise _Passing("POST /api/v1/token: no accessToken came")
            self._token, self._until = token, _end(token, self._clock())
        return {"Authorization": f"Bearer {self._token}"}

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Row:
        try:
            with self._http.stream(method, path, params=params, json=json, headers=headers) as answer:
                body = _body(answer, self._clock() + self._login.timeout, self._clock)
        except httpx.HTTPError as error:
            raise _Passing(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from error
        _judge(method, path, answer)
        return _object(method, path, body)


def _body(answer: httpx.Response, until: float, clock: Callable[[], float]) -> bytes:
    """The body, of bounded size and within a bounded time: a byte now and then would never time out."""
    found = bytearray()
    for piece in answer.iter_bytes():
        found += piece
        if len(found) > _MOST_BYTES:
            raise RunaiError(f"{answer.url.path}: more than {_MOST_BYTES} bytes in one page")
        if clock() > until:
            raise _Passing(f"{answer.url.path}: the answer takes too long")
    return bytes(found)


def _judge(method: str, path: str, answer: httpx.Response) -> None:
    code = answer.status_code
    if code == 401:
        raise _Expired(f"{method} {path}: 401")
    if code in _RETRIED:
        wait = answer.headers.get("Retry-After", "")
        raise _Passing(f"{method} {path}: {code}", float(wait) if wait.isdigit() else 0.0)
    if code == 403:
        raise RunaiError(f"{method} {path}: 403; give the application a role that reads projects and departments")
    if code != 200:
        raise RunaiError(f"{method} {path}: {code}; check runai_url")


def _object(method: str, path: str, body: bytes) -> Row:
    try:
        found = json.loads(body)
    except ValueError:
        raise _Passing(f"{method} {path}: what came is not JSON") from None
    if not isinstance(found, dict):
        raise _Passing(f"{method} {path}: what came is no object")
    return found


def _end(token: str, now: float) -> float:
    """When a token ends, by its own word; without one, only a 401 tells."""
    try:
        middle = token.split(".")[1]
        told = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))["exp"]
        return float(told)
    except (ValueError, IndexError, KeyError, TypeError):
        return now + 3600.0
