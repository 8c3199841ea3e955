"""`osmo status`: what is healthy, where the dashboard is, what holds the state."""

from __future__ import annotations

import argparse
import json
import shutil
import urllib.error
import urllib.request
from typing import Any

from osmo_ray import settings as settings_room
from osmo_ray.platform.files import Files, State
from osmo_ray.settings import Settings, without_password
from osmo_ray.spec.quantity import show_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format-type", "-t", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """0 when everything is healthy, 1 when something is not, 3 when nothing runs."""
    settings = settings_room.load()
    files = Files(settings.home)
    state = files.state()
    settings = files.running() or settings
    found = collect(settings, files, state)
    if args.format_type == "json":
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:<14} {text}" for name, text in _lines(found)))
    if not state.keeper.alive:
        return 3
    return 0 if found["ready"] else 1


def collect(settings: Settings, files: Files, state: State) -> dict[str, Any]:
    """Everything as one JSON object with stable keys."""
    ready = _ask(f"{state.url}/ready") if state.keeper.alive and state.url else {}
    free = shutil.disk_usage(settings.home).free if settings.home.exists() else 0
    return {
        "phase": state.phase if state.keeper.alive else "stopped",
        "ready": bool(ready.get("ready")),
        "url": state.url,
        "parts": ready.get("parts", {}),
        "keeper": {"pid": state.keeper.pid, "alive": state.keeper.alive},
        "ray": {"address": state.ray_address, "pid": state.head.pid, "alive": state.head.alive},
        "dashboard": state.dashboard,
        "dashboard_token": str(files.ray_token),
        "home": str(settings.home),
        "database": without_password(settings.database),
        "storage": settings.storage,
        "disk_free": free,
    }


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    if found["phase"] == "stopped":
        return [("osmo", "not running; start it with: osmo up"), ("home", found["home"])]
    parts = [(name, part if isinstance(part, str) else part.get("text", "")) for name, part in found["parts"].items()]
    return [
        ("osmo", f"{found['phase']}{'' if found['ready'] else ', NOT READY'}   {found['url']}"),
        ("keeper", f"pid {found['keeper']['pid']}"),
        ("ray", f"{found['ray']['address']}   {'alive' if found['ray']['alive'] else 'DEAD'}"),
        *parts,
        ("dashboard", f"{found['dashboard']}   token in {found['dashboard_token']}"),
        ("database", found["database"]),
        ("storage", found["storage"]),
        ("home", f"{found['home']}   {show_bytes(found['disk_free'])} free"),
    ]


def _ask(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        try:
            return dict(json.load(error))
        except ValueError:
            return {}
    except (OSError, ValueError):
        return {}
