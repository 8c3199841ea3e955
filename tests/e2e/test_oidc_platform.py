"""People of an identity provider on a whole platform under Ray Serve: a browser, the command line, and nobody else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Platform, free_port
from tests.servers.oidc import DEVICE, PLATFORM, SECRET, Browser, IdentityProvider

pytestmark = [pytest.mark.ray, pytest.mark.servers]
SAYS = """workflow:
  name: hello
  tasks:
  - name: a
    image: ubuntu:24.04
    command: [sh, -c, "echo of bob"]
"""


@pytest.fixture
def platform() -> Iterator[Platform]:
    home, port = Path(tempfile.mkdtemp(prefix="osmo-oidc-")), free_port()
    provider = IdentityProvider(home, f"http://127.0.0.1:{port}/api/x/login/callback")
    provider.start()
    (home / "client.secret").write_text(SECRET)
    (home / "client.secret").chmod(0o600)
    settings = {
        "OSMO_OIDC_ISSUER": provider.issuer,
        "OSMO_OIDC_CLIENT_ID": PLATFORM,
        "OSMO_OIDC_CLIENT_SECRET_FILE": str(home / "client.secret"),
        "OSMO_OIDC_DEVICE_CLIENT_ID": DEVICE,
        "OSMO_OIDC_ROLE_MAP": "robot-admins=osmo-admin, everyone=osmo-user",
    }
    made = Platform(home, port, extra=settings)
    try:
        made.up()
        yield made
    finally:
        made.down()
        provider.stop()
        shutil.rmtree(home, ignore_errors=True)


def test_a_person_of_the_provider_works_in_browser_and_terminal(platform: Platform) -> None:
    assert httpx.get(f"{platform.url}/api/workflow", headers={"x-osmo-user": "ann"}).status_code == 401
    login = ("login", platform.url, "--method", "password", "--username", "bob")
    assert platform.cli(*login, "--password", "wrong", check=False).returncode == 2
    assert "as bob" in platform.cli(*login, "--password", "right").stdout
    id = platform.submit(SAYS)
    assert "of bob" in platform.cli("workflow", "logs", id).stdout
    refused = platform.cli("user", "list", check=False)
    assert refused.returncode == 2 and "bob may not do this" in refused.stderr
    with Browser() as browser:
        page = f"{platform.url}/workflows/{id}"
        browser.visit(page, "bob", page)
        assert browser.get(f"{platform.url}/api/workflow/{id}").json()["submitted_by"] == "bob"
        settings = f"{platform.url}/api/profile/settings"
        assert browser.post(settings, json={}, headers={"origin": "http://evil.example"}).status_code == 403
        assert browser.post(settings, json={}, headers={"origin": platform.url}).status_code == 200
    admin = httpx.get(
        f"{platform.url}/api/auth/user",
        headers={"authorization": f"Bearer {(platform.home / 'admin.token').read_text().strip()}"},
    )
    assert "bob" in {user["id"] for user in admin.json()["users"]}
