"""When `osmo up` does not start: beyond loopback without TLS, and with half an identity provider."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.platform.up import refuse
from osmo_ray.settings import Settings

WHOLE = {"oidc_issuer": "https://id.example", "oidc_client_id": "osmo"}
AWAY = {"host": "0.0.0.0", "public_url": "https://osmo.example"}


def told(tmp_path: Path, no_tls: bool = True, **settings: Any) -> str:
    return refuse(Settings(home=tmp_path, **settings), argparse.Namespace(insecure_no_tls=no_tls))


@pytest.mark.parametrize(
    "settings", [{}, WHOLE, {**WHOLE, **AWAY}, AWAY, {**WHOLE, "oidc_issuer": "http://127.0.0.1:9"}]
)
def test_what_is_whole_starts(tmp_path: Path, settings: dict[str, str]) -> None:
    assert told(tmp_path, **settings) == ""


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"oidc_issuer": "https://id.example"}, "oidc_client_id"),
        ({**WHOLE, "oidc_issuer": "http://id.example"}, "reached by https"),
        ({**WHOLE, "oidc_role_map": "admins"}, "is not NAME=ROLE"),
        ({**WHOLE, "oidc_client_secret_file": "/nowhere/secret"}, "/nowhere/secret"),
        ({**WHOLE, "host": "0.0.0.0"}, "public_url"),
        ({**WHOLE, **AWAY, "public_url": "http://osmo.example"}, "public_url"),
    ],
)
def test_half_a_provider_does_not(tmp_path: Path, settings: dict[str, str], why: str) -> None:
    assert why in told(tmp_path, **settings)


def test_beyond_loopback_wants_tls_also_with_a_provider(tmp_path: Path) -> None:
    assert "TLS proxy" in told(tmp_path, no_tls=False, **{**WHOLE, **AWAY})
