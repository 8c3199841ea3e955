"""Logging in by a browser of this host: authorization code with PKCE, and a way back on loopback.

For people with a browser beside the terminal it is one click, where the device code wants eight letters typed. The code
comes to a port of this host that lives for one answer; without the verifier, which never leaves this process, it is
worth nothing to whoever else hears it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from osmo_ray.sdk import grant
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.grant import SCOPES, Grant

LIMIT = 300.0
"""Seconds that a person has."""
PATH = "/login"
"""Where the provider sends the browser, on 127.0.0.1 and any port: the address to register for this client."""
_DONE = b"<!doctype html><title>osmo</title><p>You are logged in. This page can be closed."
_FAILED = b"<!doctype html><title>osmo</title><p>The login failed; the terminal says why. This page can be closed."


def by_browser(info: Mapping[str, Any], go: Callable[[str], None], limit: float = LIMIT) -> Grant:
    """`go` leads the person to a page. Raises `ClientError` when the provider refuses or nobody comes back in time."""
    page, client = grant.endpoint(info, "browser_endpoint"), grant.client_of(info)
    verifier, state, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    with _Door(state) as door:
        back = f"http://127.0.0.1:{door.server_port}{PATH}"
        asked = {
            "client_id": client, "response_type": "code", "redirect_uri": back, "scope": SCOPES, "state": state,
            "nonce": nonce, "code_challenge": challenge(verifier), "code_challenge_method": "S256",
            "prompt": "consent",
        }  # fmt: skip
        go(f"{page}{'&' if '?' in page else '?'}{urlencode(asked)}")
        told = door.wait(limit)
    if "code" not in told:
        raise ClientError(f"The identity provider refuses: {grant.told(told)}", status=401)
    fields = {"grant_type": "authorization_code", "code": told["code"], "redirect_uri": back, "client_id": client}
    answer = grant.form(grant.endpoint(info, "token_endpoint"), {**fields, "code_verifier": verifier})
    found = grant.granted(info, answer)
    if not hmac.compare_digest(str(grant.claims(found.id_token).get("nonce", "")), nonce):
        raise ClientError("The identity provider answered another login than this one; log in again", status=401)
    return found


def challenge(verifier: str) -> str:
    """What a provider is told of the verifier beforehand (S256)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class _Door(HTTPServer):
    """Waits on loopback for the one browser that knows the state; whoever else knocks changes nothing."""

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.state = state
        self.told: dict[str, str] | None = None

    def wait(self, limit: float) -> dict[str, str]:
        until = time.monotonic() + limit
        while self.told is None:
            self.timeout = until - time.monotonic()
            if self.timeout <= 0:
                raise ClientError("Nobody came back from the browser in time; log in again", status=401)
            self.handle_request()
        return self.told


class _Answer(BaseHTTPRequestHandler):
    server: _Door
    timeout = 5.0

    def do_GET(self) -> None:
        here = urlsplit(self.path)
        told = {name: values[0] for name, values in parse_qs(here.query).items()}
        mine = here.path == PATH and hmac.compare_digest(told.get("state", "").encode(), self.server.state.encode())
        if mine:
            self.server.told = told
        body = (_DONE if "code" in told else _FAILED) if mine else b"not here"
        self.send_response(200 if mine else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The address holds the code."""
