"""`osmo up`: start the platform of this home, and wait until it is ready."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from osmo_ray import settings as settings_room
from osmo_ray.platform import head, keeper
from osmo_ray.platform.files import Files, State
from osmo_ray.platform.head import clean, listening
from osmo_ray.platform.prepare import describe
from osmo_ray.settings import Settings

START_LIMIT = 240.0
PORT_LIMIT = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground (containers, systemd)")
    parser.add_argument("--port", type=int, help="port of the API and console (default: 8000)")
    parser.add_argument("--listen", metavar="ADDR", help="also for other hosts: listen on this address")
    parser.add_argument("--cpus", type=float, help="cores that workflows may use (default: all)")
    parser.add_argument("--gpus", type=int, help="logical GPUs of this node (default: those found)")
    parser.add_argument(
        "--storage-gateway", action="store_true", help="serve the local storage folder to nodes that join"
    )
    parser.add_argument(
        "--insecure-no-tls",
        action="store_true",
        help="with --listen: a proxy in front gives TLS (or the network is ours)",
    )


def run(args: argparse.Namespace) -> int:
    """0 when the platform is ready (also when it was already)."""
    settings = apply(settings_room.load(), args)
    problem = refuse(settings, args)
    if problem:
        print(f"osmo up: {problem}", file=sys.stderr)
        return 1
    files = Files(settings.home)
    files.prepare()
    state = files.state()
    if state.keeper.alive:
        print(f"already up: {state.url or 'starting'} (osmo status shows more)")
        return 0 if _wait(files) else 1
    if not _port_is_free(settings, files, state):
        print(
            f"osmo up: port {settings.port} on {settings.host} is taken by another program; "
            f"try: osmo up --port {settings.port + 1}",
            file=sys.stderr,
        )
        return 1
    os.environ.update(settings.environment())
    if args.foreground:
        return keeper.main()
    _spawn(files)
    return 0 if _wait(files) else 1


def _port_is_free(settings: Settings, files: Files, state: State) -> bool:
    """A platform of this home that was killed may have left parts that still hold the port; they are ended."""
    if listening(settings.host, settings.port) and state.head.pid and state.phase != "stopped":
        head.stop(state.head, files)
        until = time.monotonic() + PORT_LIMIT
        while listening(settings.host, settings.port) and time.monotonic() < until:
            time.sleep(0.1)
    return not listening(settings.host, settings.port)


def apply(settings: Settings, args: argparse.Namespace) -> Settings:
    """Settings with the command line's words over them."""
    changes: dict[str, object] = {}
    if args.port:
        changes["port"] = args.port
    if args.listen:
        changes["host"] = args.listen
    if args.cpus:
        changes["cpu"] = args.cpus
    if args.gpus is not None:
        changes["gpu"] = args.gpus
    if args.storage_gateway:
        changes["storage_gateway"] = True
    return replace(settings, **changes)  # type: ignore[arg-type]


def refuse(settings: Settings, args: argparse.Namespace) -> str:
    """Why this must not start, or nothing."""
    wrong = _wrong_provider(settings)
    if wrong or not settings.beyond_loopback:
        return wrong
    if not args.insecure_no_tls:
        return (
            f"{settings.host} can be reached by other hosts, and this API speaks plain HTTP. Put a TLS proxy in front "
            "and say so with --insecure-no-tls; every request then needs an access token or a login"
        )
    return ""


def _wrong_provider(settings: Settings) -> str:
    """What is missing for logins through a provider, or nothing: better now than at the first login."""
    from osmo_ray.providers import oidc  # its libraries are for those who have a provider

    if not settings.oidc_issuer:
        return ""
    if not settings.oidc_client_id:
        return "oidc_issuer is set, but oidc_client_id is not: which client is this platform at the provider?"
    if settings.beyond_loopback and not settings.public_url.startswith("https://"):
        return (
            "logins through a provider need the address that browsers use: set public_url to https://..., which the "
            "TLS proxy serves, and let the provider send them back to public_url/api/x/login/callback"
        )
    try:
        oidc.from_settings(settings)
    except (ValueError, OSError) as error:
        return f"the identity provider's settings cannot be: {error}"
    return ""


def _spawn(files: Files) -> None:
    with (files.logs / "keeper.log").open("ab") as out:
        subprocess.Popen(
            [interpreter(), "-m", "osmo_ray.platform.keeper"],
            env=clean(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def interpreter() -> str:
    """This Python, by a path that Ray can start workers by: it does not quote it. A virtual environment may be a link
    from a path with spaces to one without."""
    found = Path(sys.executable)
    return str(found.parent.resolve() / found.name) if " " in str(found) else str(found)


def _wait(files: Files) -> bool:
    """Tell the phases as they come, until it is ready or has failed."""
    began, told = time.monotonic(), ""
    seen_alive = False
    while time.monotonic() - began < START_LIMIT:
        state = files.state()
        seen_alive = seen_alive or state.keeper.alive
        if state.phase != told and state.keeper.alive:
            told = state.phase
            if told != "ready":
                print(f"{told} ...", flush=True)
        if state.keeper.alive and state.phase == "ready":
            _ready(files, state, time.monotonic() - began)
            return True
        if (seen_alive or time.monotonic() - began > 15) and not state.keeper.alive:
            cause = state.phase if state.phase.startswith("failed") else "the keeper ended"
            print(f"osmo up: {cause}; its log: {files.logs / 'keeper.log'}", file=sys.stderr)
            return False
        time.sleep(0.1)
    print(f"osmo up: not ready after {START_LIMIT:.0f} s; see {files.logs}", file=sys.stderr)
    return False


def _ready(files: Files, state: State, seconds: float) -> None:
    print(f"osmo is up at {state.url} ({seconds:.0f} s)")
    print(f"  Ray dashboard  {state.dashboard}   (token: {files.ray_token})")
    print(f"  state          {files.home}")
    settings = settings_room.load()
    if settings.authenticated:
        print("\n".join(describe(settings, files, state.ray_address)))
    else:
        print("  development mode: whoever reaches this loopback address is trusted as the user they say they are")
