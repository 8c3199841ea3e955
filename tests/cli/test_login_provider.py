"""`osmo login` through a real identity provider: password, code, refresh, and what goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from osmo_ray.cli.login import _info
from osmo_ray.program import main
from osmo_ray.providers.oidc import OidcSettings, Provider, read_role_map
from osmo_ray.sdk import grant, login
from osmo_ray.sdk.browser import by_browser, challenge
from osmo_ray.sdk.errors import ClientError
from tests.api.wire import serve
from tests.api.world import World
from tests.servers.oidc import DEVICE, PLATFORM, SECRET, Browser, IdentityProvider

pytestmark = pytest.mark.servers
Capture = pytest.CaptureFixture[str]
Osmo = Callable[..., str]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[IdentityProvider]:
    made = IdentityProvider(tmp_path, "http://127.0.0.1:1/unused")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def url(world: World, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    world.now = time.time()
    asked = OidcSettings(
        provider.issuer, PLATFORM, SECRET, DEVICE, role_map=read_role_map("robot-admins=osmo-admin,everyone=osmo-user")
    )
    world.services = replace(world.services, provider=Provider(asked, clock=lambda: world.now))
    monkeypatch.setenv("OSMO_CONFIG_FILE_DIR", str(tmp_path / "client"))
    for name in ("OSMO_TOKEN", "OSMO_URL"):
        monkeypatch.delenv(name, raising=False)
    login._RENEWED.clear()
    with serve(world, oidc_issuer=provider.issuer) as wire:
        yield f"http://127.0.0.1:{wire.port}"


@pytest.fixture
def osmo(capsys: Capture) -> Osmo:
    def run(*words: str, code: int = 0) -> str:
        ended = main(list(words))
        told = capsys.readouterr()
        assert ended == code, told
        return told.out + told.err

    return run


def stored(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "client" / "login.yaml"
    assert path.stat().st_mode & 0o777 == 0o600
    value: dict[str, object] = yaml.safe_load(path.read_text())
    return value


def test_password_then_calls_then_logout(url: str, osmo: Osmo, tmp_path: Path) -> None:
    said = osmo("login", url, "--method", "password", "--username", "bob", "--password", "right")
    assert f"logged in to {url} as bob" in said
    kept = stored(tmp_path)
    assert set(kept["token_login"]) == {"id_token", "refresh_token", "refresh_url", "username", "client_id"}  # type: ignore[call-overload]
    assert (kept["url"], kept["name"], kept["osmo_token"]) == (url, "bob", False)
    assert "bob" in osmo("profile", "list")
    assert osmo("logout") == "logged out\n"
    assert "Log in first" in osmo("workflow", "list", "--url", url, code=2)
    wrong = osmo("login", url, "--method", "password", "--username", "bob", "--password", "wrong", code=2)
    assert "refuses" in wrong
    assert not (tmp_path / "client" / "login.yaml").exists()


def test_without_a_method_a_code_is_confirmed_in_a_browser(
    url: str, osmo: Osmo, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    def confirm() -> None:
        with Browser() as browser:
            assert "Sign-in Success" in browser.visit(pages[0], "ann", "nowhere:").text

    def tell(text: str) -> None:
        pages.append(next(word for word in text.split() if word.startswith("http")))

    waits = iter([lambda: None, confirm])

    def pause(seconds: float) -> None:
        next(waits)()  # once for nothing, so that the provider says "pending"

    original = grant.by_device
    monkeypatch.setattr("osmo_ray.cli.login.by_device", lambda info, _: original(info, tell, pause))
    assert "as ann" in osmo("login", url)
    assert "ann" in osmo("user", "list"), "she is an administrator"


def signed_in_by(user: str, wrong: bool = False) -> Callable[[str], None]:
    """A person with a browser: it goes to the page and follows it back to this host."""
    ends: list[str] = []

    def go(page: str) -> None:
        def visit() -> None:
            with Browser() as browser:
                back = parse_qs(urlsplit(page).query)["redirect_uri"][0]
                if wrong:  # somebody else's answer, and then a refusal
                    assert browser.get(f"{back}?code=stolen&state=guessed").status_code == 404
                    state = parse_qs(urlsplit(page).query)["state"][0]
                    browser.get(f"{back}?error=access_denied&state={state}")
                    return
                sent = browser.visit(page, user, back)
                ends.append(browser.get(sent.headers["location"]).text)
                assert "can be closed" in ends[0]

        threading.Thread(target=visit, daemon=True).start()

    return go


def test_a_browser_of_this_host_comes_back_with_a_code(
    url: str, osmo: Osmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osmo_ray.cli.login._lead", signed_in_by("ann"))
    assert "as ann" in osmo("login", url, "--method", "browser")
    kept = stored(tmp_path)["token_login"]
    assert kept["refresh_token"] and kept["client_id"] == DEVICE  # type: ignore[index]
    assert "ann" in osmo("user", "list"), "she is an administrator"


def test_a_browser_that_brings_a_refusal_or_nothing(
    url: str, osmo: Osmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osmo_ray.cli.login._lead", signed_in_by("ann", wrong=True))
    assert "refuses: access_denied" in osmo("login", url, "--method", "browser", code=2)
    assert not (tmp_path / "client" / "login.yaml").exists()
    with pytest.raises(ClientError, match="in time"):
        by_browser(_info(login.Login(url)), lambda page: None, limit=0.1)


def test_a_challenge_is_that_of_the_standard() -> None:
    """The example of RFC 7636, appendix B."""
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_a_token_that_ends_is_renewed_once_for_all_clients(
    url: str, osmo: Osmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider ends a login whose refresh token is used twice, so eight clients at once must use it once."""
    osmo("login", url, "--method", "password", "--username", "bob", "--password", "right")
    before = login.read()
    assert before is not None and before.grant is not None
    old = before.grant.refresh_token
    monkeypatch.setattr(grant.Grant, "ended", property(lambda self: self.refresh_token == old))
    uses: list[str] = []
    renew = grant.Grant.renew

    def counted(self: grant.Grant) -> grant.Grant:
        uses.append(self.refresh_token)
        return renew(self)

    monkeypatch.setattr(grant.Grant, "renew", counted)
    told: list[dict[str, str]] = []

    def client() -> None:
        login._RENEWED.clear()
        told.append(login.resolve(url).headers())

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({t["Authorization"] for t in told}) == 1 and len(told) == 8
    after = stored(tmp_path)["token_login"]
    assert uses == [old] and after["refresh_token"] != old  # type: ignore[index]
    assert "bob" in osmo("profile", "list")


def test_a_provider_that_is_away_is_said_so(
    url: str, osmo: Osmo, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    osmo("login", url, "--method", "password", "--username", "bob", "--password", "right")
    provider.stop()
    assert "bob" in osmo("profile", "list"), "the token is still good"
    monkeypatch.setattr(grant.Grant, "ended", property(lambda self: True))
    assert "identity provider does not answer" in osmo("profile", "list", code=10)
