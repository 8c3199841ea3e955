"""A real identity provider for tests, and a browser that signs in at it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

HERE = Path(__file__).parent
PLATFORM, DEVICE, OTHER = "osmo", "osmo-cli", "somebody-else"
SECRET = "the browser client's secret, which is long enough"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
ROLES = {"ann": ["robot-admins", "everyone"], "bob": ["everyone"], "eve": []}


def installed() -> Path:
    """Where the script puts the library; tests that were selected fail when it is not there."""
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache" / "osmo-ray" / "tools")
    match = re.search(r"^OIDC_PROVIDER=(\S+)$", (HERE / "install.sh").read_text(), re.M)
    assert match is not None
    found = tools / f"oidc-provider-{match[1]}"
    if not (found / "node_modules/oidc-provider/package.json").exists():
        pytest.fail(f"{found} is missing; run {HERE / 'install.sh'} oidc-provider")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class IdentityProvider:
    """oidc-provider on loopback. It forgets all logins when it is stopped; `rotate` gives it another signing key."""

    folder: Path
    callback: str
    life: int = 3600
    port: int = field(default_factory=free_port)
    roles: dict[str, list[str]] = field(default_factory=lambda: dict(ROLES))
    process: subprocess.Popen[str] | None = None
    generation: int = 0

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rotate(self) -> None:
        self.generation += 1

    def start(self) -> None:
        key = RSAKey.generate_key(2048, {"kid": f"k{self.generation}", "use": "sig", "alg": "RS256"}, private=True)
        grants = ["authorization_code", "refresh_token"]
        web = {"redirect_uris": [self.callback], "grant_types": grants, "response_types": ["code"]}
        native = {
            "redirect_uris": ["http://127.0.0.1/login"], "response_types": ["code"], "application_type": "native",
            "token_endpoint_auth_method": "none",
        }  # fmt: skip
        clients = [
            {"client_id": PLATFORM, "client_secret": SECRET, **web},
            {"client_id": OTHER, "client_secret": SECRET, **web},
            {"client_id": DEVICE, "grant_types": [DEVICE_GRANT, *grants, "password"], **native},
        ]
        told = {"issuer": self.issuer, "clients": clients, "keys": [key.as_dict(private=True)], "life": self.life}
        config = self.folder / "provider.json"
        config.write_text(json.dumps({**told, "roles": self.roles}))
        log = (self.folder / "provider.log").open("a")
        command = ["node", str(HERE / "oidc_provider.mjs"), str(installed()), str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            pytest.fail(f"oidc-provider did not start:\n{(self.folder / 'provider.log').read_text()}")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Browser(httpx.Client):
    """Keeps cookies, follows links, fills in the provider's forms."""

    def __init__(self) -> None:
        super().__init__(timeout=20, headers={"accept": "text/html", "sec-fetch-site": "none"})

    def visit(self, url: str, user: str, until: str) -> httpx.Response:
        """Go where one is sent and sign in as `user`, up to an address that begins with `until`: the answer that
        sends there, or that comes from there."""
        answer = self.get(url)
        for _ in range(40):
            if answer.is_redirect:
                target = str(answer.next_request.url) if answer.next_request else ""
                if target.startswith(until):
                    return answer
                answer = self.get(target)
            elif (form := _form(answer)) is not None:
                answer = self.post(form[0], data={**form[1], **_typed(form[1], user)})
            else:
                return answer
        raise AssertionError(f"going in circles: {answer.url}")


def _form(answer: httpx.Response) -> tuple[str, dict[str, str]] | None:
    found = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', answer.text, re.S)
    if found is None:
        return None
    inputs = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<input ([^>]*)>", found[2])]
    names = {i["name"]: unescape(i.get("value", "")) for i in inputs if "name" in i}
    return str(answer.url.join(unescape(found[1]))), names


def _typed(names: dict[str, str], user: str) -> dict[str, str]:
    return {"login": user, "password": "right"} if "login" in names else {}


def sign_in(provider: IdentityProvider, user: str, client: str = PLATFORM, **asked: str) -> dict[str, Any]:
    """The tokens that a client gets for a user, by the code flow done by hand."""
    query = {"client_id": client, "response_type": "code", "redirect_uri": provider.callback, **asked}
    query = {"scope": "openid profile email", **query}
    with Browser() as browser:
        answer = browser.visit(f"{provider.issuer}/auth?{httpx.QueryParams(query)}", user, provider.callback)
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": provider.callback}
        if "resource" in asked:
            fields["resource"] = asked["resource"]
        token = browser.post(f"{provider.issuer}/token", data=fields, auth=(client, SECRET))
    assert token.status_code == 200, token.text
    return dict(token.json())
