"""`osmo login` and `osmo logout`: which platform, and who one is there."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from osmo_ray.cli.command import Command
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.grant import Grant, by_device, by_password
from osmo_ray.sdk.http import Http
from osmo_ray.sdk.login import Login, forget, write


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="URL", help="for example https://osmo.example.org")
    parser.add_argument(
        "--method",
        choices=("code", "browser", "password", "token", "dev"),
        help="code: confirm in any browser; browser: in one here; password: at the identity provider; token: an "
        "access token; dev: a name, on loopback (default: code where the platform has an identity provider, else dev)",
    )
    parser.add_argument("--username", default="", help="with dev or password: who you are")
    parser.add_argument("--password", default="", help="with password; better asked for, or --password-file")
    parser.add_argument("--password-file", type=Path, help="with password: a file that holds it")
    parser.add_argument("--token-file", type=Path, help="with token: a file that holds it")
    parser.add_argument("--token", default="", help="with token: the token itself")


def _login(args: argparse.Namespace) -> int:
    """The login is tried before it is stored."""
    method = args.method or _usual(args)
    wanted = Login(args.address.rstrip("/"))
    if method == "token":
        secret = args.token_file.read_text().strip() if args.token_file else args.token
        if not secret:
            print("osmo login: --method token needs --token-file FILE or --token TOKEN", file=sys.stderr)
            return 2
        wanted = Login(wanted.url, args.username, secret)
    elif method == "dev":
        wanted = Login(wanted.url, args.username)
    else:
        wanted = Login(wanted.url, grant=_grant(args, wanted, method))
    with Client(wanted.url, user=wanted.user, token=wanted.token) as client:
        client.login = client.http.login = wanted  # not what another login has stored for this address
        user = client.http.json("GET", "/api/profile/settings")["profile"]["username"]
    forget()
    write(wanted)
    print(f"logged in to {wanted.url} as {user}")
    return 0


def _usual(args: argparse.Namespace) -> str:
    """What is meant when nobody says how."""
    if args.token or args.token_file:
        return "token"
    if args.password or args.password_file:
        return "password"
    return "code" if _info(Login(args.address.rstrip("/"))).get("device_endpoint") else "dev"


def _grant(args: argparse.Namespace, login: Login, method: str) -> Grant:
    if method == "code":
        return by_device(lambda: _info(login), lambda text: print(text, flush=True))
    if method == "browser":
        from osmo_ray.sdk.browser import by_browser

        return by_browser(_info(login), _lead)
    info = _info(login)
    if not info.get("token_endpoint"):
        raise ClientError(f"{login.url} has no identity provider; try --method token or dev", status=400)
    user = args.username or input("User: ")
    stored = args.password_file.read_text().rstrip("\n") if args.password_file else args.password
    return by_password(info, user, stored or getpass.getpass("Password: "))


def _lead(page: str) -> None:
    """Open the page; who sees no browser can do so by hand."""
    import webbrowser

    print(f"Log in in a browser of this host: {page}", flush=True)
    if sys.stdout.isatty():
        webbrowser.open(page)


def _info(login: Login) -> dict[str, str | None]:
    http = Http(login)
    try:
        found: dict[str, str | None] = http.json("GET", "/api/auth/login")
        return found
    finally:
        http.close()


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _logout(args: argparse.Namespace) -> int:
    print("logged out" if forget() else "there was no stored login")
    return 0


LOGIN = Command(_login_arguments, _login)
LOGOUT = Command(_no_arguments, _logout)
