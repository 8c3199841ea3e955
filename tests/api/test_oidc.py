"""Login through a real identity provider (`tests/servers/install.sh oidc-provider`), and its faults."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from osmo_ray.providers import oidc
from osmo_ray.providers.oidc import OidcSettings, Provider
from tests.api.wire import Reply, Wire, serve
from tests.api.world import World
from tests.servers.oidc import DEVICE, OTHER, PLATFORM, SECRET, Browser, IdentityProvider, free_port, sign_in

pytestmark = pytest.mark.servers
NAMES = "robot-admins=osmo-admin, everyone=osmo-user"


class Site:
    """A platform whose people come from a provider. `ticks` is how old its memory of the provider is."""

    def __init__(self, world: World, provider: IdentityProvider, port: int) -> None:
        self.world, self.provider, self.port = world, provider, port
        self.ticks = 0.0
        self.url = f"http://127.0.0.1:{port}"

    def relying(self, **settings: Any) -> Provider:
        asked = {"client_id": PLATFORM, "client_secret": SECRET, "device_client_id": DEVICE, "audience": "osmo-api"}
        wanted = OidcSettings(issuer=self.provider.issuer, role_map=oidc.read_role_map(NAMES), **{**asked, **settings})
        return Provider(wanted, clock=lambda: self.world.now, ticks=lambda: self.ticks)

    @contextmanager
    def up(self, relying: Provider | None = None) -> Iterator[Wire]:
        """The platform with nothing remembered of the provider."""
        self.world.services = replace(self.world.services, provider=relying or self.relying())
        with serve(self.world, self.port, oidc_issuer=self.provider.issuer) as wire:
            yield wire


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    world.now = time.time()
    port = free_port()
    provider = IdentityProvider(tmp_path, f"http://127.0.0.1:{port}/api/x/login/callback")
    provider.start()
    yield Site(world, provider, port)
    provider.stop()


def ask(wire: Wire, token: str, path: str = "/api/profile/settings") -> Reply:
    return wire.call("GET", path, user="", headers={"Authorization": f"Bearer {token}"})


def refused(wire: Wire, token: str, why: str) -> None:
    reply = ask(wire, token)
    assert reply.status == 401 and why in reply.json["message"], reply.text


def test_login_information_is_the_providers(site: Site) -> None:
    with site.up() as wire:
        told = wire.get("/api/auth/login", user="")
    issuer = site.provider.issuer
    assert told == {
        "device_endpoint": f"{issuer}/device/auth",
        "device_client_id": DEVICE,
        "browser_endpoint": f"{issuer}/auth",
        "browser_client_id": PLATFORM,
        "token_endpoint": f"{issuer}/token",
        "logout_endpoint": f"{issuer}/session/end",
    }


def test_with_a_provider_nobody_is_believed_for_a_header(site: Site) -> None:
    with site.up() as wire:
        assert wire.call("GET", "/api/workflow", user="ann").status == 401


def test_an_id_token_gets_in_with_the_roles_that_it_stands_for(site: Site) -> None:
    with site.up() as wire:
        for user, roles in (("ann", ["osmo-admin", "osmo-user"]), ("bob", ["osmo-user"]), ("eve", [])):
            reply = ask(wire, sign_in(site.provider, user)["id_token"])
            assert (reply.json["profile"]["username"], sorted(reply.json["roles"])) == (user, roles)
        ann, eve = (sign_in(site.provider, user)["id_token"] for user in ("ann", "eve"))
        assert ask(wire, ann, "/api/auth/user").json["total_results"] == 3
        assert ask(wire, eve, "/api/workflow").status == 403


def test_an_access_token_made_for_this_api_gets_in(site: Site) -> None:
    with site.up() as wire:
        made = sign_in(site.provider, "bob", resource="urn:osmo:api", scope="openid profile api")
        assert made["access_token"].count(".") == 2
        assert ask(wire, made["access_token"]).json["profile"]["username"] == "bob"


def test_an_expired_token_and_one_for_somebody_else_are_refused(site: Site) -> None:
    with site.up() as wire:
        refused(wire, sign_in(site.provider, "ann", client=OTHER)["id_token"], "aud")
        token = sign_in(site.provider, "ann")["id_token"]
        assert ask(wire, token).status == 200
        site.world.now += site.provider.life + oidc.LEEWAY + 2
        refused(wire, token, "expired")


def forged(token: str, head: dict[str, Any], **claims: Any) -> str:
    """The token with other words, signed by whoever knows only what is public, or not at all."""
    body = token.split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    signed = ".".join(packed(part) for part in (head, {**said, **claims}))
    if head["alg"] == "none":
        return f"{signed}."
    return f"{signed}.{base64.urlsafe_b64encode(hmac.digest(b'public key', signed.encode(), 'sha256')).decode()}"


def packed(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_forged_tokens_are_refused(site: Site) -> None:
    with site.up() as wire:
        token = sign_in(site.provider, "bob")["id_token"]
        for head in (
            {"alg": "none"},
            {"alg": "HS256", "kid": "k0"},
            {"alg": "RS256", "kid": "k0"},
            {"alg": "none", "kid": "k0"},
        ):
            assert ask(wire, forged(token, head, preferred_username="ann")).status == 401, head
        head, body, signature = token.split(".")
        assert ask(wire, f"{head}.{body}.{signature[:-8]}AAAAAAAA").status == 401
        assert ask(wire, f"{head}.{body}.").status == 401


def test_a_rotated_key_is_noticed_and_the_old_one_ends(site: Site) -> None:
    with site.up() as wire:
        old = sign_in(site.provider, "ann")["id_token"]
        assert ask(wire, old).status == 200
        site.provider.stop()
        site.provider.rotate()
        site.provider.start()
        site.ticks += 6
        assert ask(wire, sign_in(site.provider, "ann")["id_token"]).status == 200
        assert ask(wire, old).status == 401


def test_a_provider_that_is_away_locks_nobody_out_who_has_a_token(site: Site) -> None:
    token = sign_in(site.provider, "ann")["id_token"]
    with site.up() as wire:
        assert ask(wire, token).status == 200
        site.provider.stop()
        site.ticks += 700
        assert ask(wire, token).status == 200, "its keys are known"
        site.ticks += 86400
        assert ask(wire, token).status == 503, "its keys are old"
    with site.up() as wire:
        reply = ask(wire, token)
        assert reply.status == 503 and "does not answer" in reply.json["message"]
        told = wire.call("GET", "/api/auth/login", user="")
        assert told.status == 503 and told.json["error_code"] == "OSMO_ERROR"


def test_what_the_provider_takes_back_is_taken_and_what_an_administrator_gave_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osmo_ray.api.access._FRESH", 0.0)
    with site.up() as wire:
        assert ask(wire, sign_in(site.provider, "bob")["id_token"]).json["roles"] == ["osmo-user"]
        ann = {"Authorization": f"Bearer {sign_in(site.provider, 'ann')['id_token']}"}
        wire.call("POST", "/api/auth/user/bob/roles", (), {"role_name": "osmo-viewer"}, user="", headers=ann)
        site.provider.stop()
        site.provider.roles["bob"] = []
        site.provider.start()
        site.ticks += 700
        token = sign_in(site.provider, "bob")["id_token"]
        assert ask(wire, token).json["roles"] == ["osmo-viewer"]
        assert ask(wire, token, "/api/credentials").status == 403
        assert ask(wire, token, "/api/workflow").status == 200


def test_the_email_names_a_user_only_when_it_is_verified(site: Site) -> None:
    with site.up(site.relying(user_claim="email")) as wire:
        reply = ask(wire, sign_in(site.provider, "bob")["id_token"])
        assert reply.json["profile"]["username"] == "bob@example.org"
        refused(wire, sign_in(site.provider, "mallory")["id_token"], "not verified this email")


# -- browsers


def test_a_browser_signs_in_looks_changes_and_signs_out(site: Site) -> None:
    with site.up(), Browser() as browser:
        name = _submitted(site)
        page = f"{site.url}/workflows/{name}"
        first = browser.get(page)
        assert (first.status_code, first.headers["location"]) == (302, f"/api/x/login?next=/workflows/{name}")
        answer = browser.visit(page, "bob", page)
        kept = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("osmo_session="))
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in kept.split(";")}
        assert "Secure" not in kept, "loopback has no TLS"
        assert browser.get(page).status_code == 200
        settings = f"{site.url}/api/profile/settings"
        assert browser.get(settings).json()["profile"]["username"] == "bob"

        for origin in ("http://evil.example", "null", f"http://localhost:{site.port}", None):
            headers = {"origin": origin} if origin else {}
            told = browser.post(settings, json={"email_notification": True}, headers=headers)
            assert told.status_code == 403, origin
        assert (
            browser.post(settings, json={"email_notification": True}, headers={"origin": site.url}).status_code == 200
        )
        assert browser.get(f"{site.url}/api/auth/access_token").json() == [], "a session is no access token"
        cookie = browser.cookies["osmo_session"]
        assert httpx.get(settings, headers={"authorization": f"Bearer {cookie}"}).status_code == 401

        out = browser.post(f"{site.url}/api/x/logout", headers={"origin": site.url})
        assert out.json()["provider_logout"].startswith(f"{site.provider.issuer}/session/end?client_id=osmo")
        assert "osmo_session" not in browser.cookies
        assert httpx.get(settings, cookies={"osmo_session": cookie}).status_code == 401, "the cookie is dead by itself"


async def test_a_websocket_of_a_session_comes_from_a_page_of_ours(site: Site) -> None:
    """A browser sends the cookie with any page's websocket, so the page is looked at."""
    with site.up(), Browser() as browser:
        page = f"{site.url}/workflows/{_submitted(site)}"
        await asyncio.to_thread(browser.visit, page, "bob", page)
        cookie = {"Cookie": f"osmo_session={browser.cookies['osmo_session']}"}
        for origin in ("http://evil.example", "null", f"http://localhost:{site.port}", ""):
            headers = {**cookie, **({"Origin": origin} if origin else {})}
            assert await _knock(site, headers) == 403, origin
        assert await _knock(site, {**cookie, "Origin": site.url}) == 4000, "let in; there is no such key"
        assert await _knock(site, {"Origin": site.url}) in (401, 403), "nobody"


async def _knock(site: Site, headers: dict[str, str]) -> int:
    """The status of a refused websocket, or the code with which one that was let in is closed."""
    url = f"ws://127.0.0.1:{site.port}/api/router/exec/x/client/EXEC-{'0' * 32}"
    try:
        async with connect(url, additional_headers=headers) as socket:
            await socket.wait_closed()
            return socket.close_code or 0
    except InvalidStatus as refused:
        return refused.response.status_code


def test_over_https_cookies_are_of_this_host_alone(world: World, tmp_path: Path) -> None:
    """Behind a proxy that speaks TLS: the login by hand, as a browser at the public address does it."""
    address, world.now = "https://osmo.example.org", time.time()
    provider = IdentityProvider(tmp_path, f"{address}/api/x/login/callback")
    provider.start()
    site = Site(world, provider, free_port())
    world.services = replace(world.services, provider=site.relying())
    try:
        with serve(world, site.port, oidc_issuer=provider.issuer, public_url=address), Browser() as browser:
            at = {"host": "osmo.example.org"}
            begun = httpx.get(f"{site.url}/api/x/login", headers=at)
            answer = browser.visit(begun.headers["location"], "bob", address)
            back = urlsplit(answer.headers["location"])
            name, _, value = _kept(begun).partition("=")
            assert name.startswith("__Host-")
            url = f"{site.url}{back.path}?{back.query}"
            ended = httpx.get(url, headers={**at, "cookie": f"{name}={value.split(';')[0]}"})
            assert ended.status_code == 302, ended.text
            session = _kept(ended).partition(";")[0]
            assert session.startswith("__Host-osmo_session=")
            settings = f"{site.url}/api/profile/settings"
            there = httpx.get(settings, headers={**at, "cookie": session})
            assert there.json()["profile"]["username"] == "bob"
            planted = session.removeprefix("__Host-")
            assert httpx.get(settings, headers={**at, "cookie": planted}).status_code == 401, (
                "another host may set that"
            )
            change = {**at, "cookie": session, "origin": site.url}
            assert httpx.post(settings, json={}, headers=change).status_code == 403, "of the address behind the proxy"
            assert httpx.post(settings, json={}, headers={**change, "origin": address}).status_code == 200
    finally:
        provider.stop()


def _kept(answer: httpx.Response) -> str:
    """The cookie that an answer sets, with what the prefix demands of it."""
    kept = next(c for c in answer.headers.get_list("set-cookie") if "Max-Age=0" not in c)
    assert {"Secure", "HttpOnly", "Path=/"} <= {part.strip() for part in kept.split(";")} and "Domain" not in kept
    return str(kept)


def _submitted(site: Site) -> str:
    services = site.world.services
    site.world.services = replace(services, provider=None)
    try:
        return site.world.submit(user="bob")
    finally:
        site.world.services = services


def test_a_session_ends_with_its_time_and_with_its_user(site: Site) -> None:
    with site.up() as wire, Browser() as browser:
        settings = f"{site.url}/api/profile/settings"
        browser.visit(f"{site.url}/api/x/login?next=/health", "bob", f"{site.url}/health")
        assert browser.get(settings).status_code == 200
        ann = {"Authorization": f"Bearer {sign_in(site.provider, 'ann')['id_token']}"}
        wire.call("DELETE", "/api/auth/user/bob", user="", headers=ann)
        assert browser.get(settings).status_code == 401
        browser.visit(f"{site.url}/api/x/login?next=/health", "bob", f"{site.url}/health")
        assert browser.get(settings).status_code == 200
        site.world.now += 12 * 3600 + 1
        assert browser.get(settings).status_code == 401


def test_a_login_ends_only_in_the_browser_that_began_it(site: Site) -> None:
    """Neither somebody else's code, nor an answer without its question, nor a used one signs anybody in."""
    with site.up(), Browser() as mine, Browser() as victim:
        callback = f"{site.url}/api/x/login/callback"
        sent = mine.visit(f"{site.url}/api/x/login", "ann", callback).headers["location"]
        assert victim.get(sent).status_code == 400
        victim.visit(f"{site.url}/api/x/login", "bob", callback)
        assert victim.get(sent).status_code == 400, "the state of another login"
        assert "osmo_session" not in victim.cookies
        planted = mine.cookies["osmo_login"]
        kept = json.loads(base64.urlsafe_b64decode(planted))
        wrong = base64.urlsafe_b64encode(json.dumps({**kept, "nonce": "x"}).encode()).decode()
        told = httpx.get(sent, cookies={"osmo_login": wrong})
        assert told.status_code == 403 and "another login" in told.json()["message"]
        assert mine.get(sent).status_code == 403, "a code is used once"


def test_a_stolen_code_is_nothing_without_the_verifier(site: Site) -> None:
    with site.up(), Browser() as browser:
        sent = browser.visit(f"{site.url}/api/x/login", "ann", f"{site.url}/api/x/login/callback").headers["location"]
        kept = json.loads(base64.urlsafe_b64decode(browser.cookies["osmo_login"]))
        wrong = base64.urlsafe_b64encode(json.dumps({**kept, "verifier": "y" * 43}).encode()).decode()
        assert httpx.get(sent, cookies={"osmo_login": wrong}).status_code == 403


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", "/a\nb"])
def test_nobody_is_sent_away_from_the_platform(site: Site, target: str) -> None:
    with site.up(), Browser() as browser:
        browser.get(f"{site.url}/api/x/login", params={"next": target})
        assert json.loads(base64.urlsafe_b64decode(browser.cookies["osmo_login"]))["next"] == "/"


def test_the_question_to_the_provider_has_pkce_state_and_nonce(site: Site) -> None:
    with site.up(), Browser() as browser:
        asked = httpx.URL(browser.get(f"{site.url}/api/x/login").headers["location"]).params
        kept = json.loads(base64.urlsafe_b64decode(browser.cookies["osmo_login"]))
    digest = base64.urlsafe_b64encode(hashlib.sha256(kept["verifier"].encode()).digest()).rstrip(b"=").decode()
    assert (asked["code_challenge"], asked["code_challenge_method"]) == (digest, "S256")
    assert (asked["state"], asked["nonce"]) == (kept["state"], kept["nonce"])
