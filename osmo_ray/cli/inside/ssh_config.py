"""`osmo ssh-config`: an entry for every host named `osmo.WORKFLOW.TASK`, by which ssh, scp and VS Code reach tasks."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from osmo_ray.cli.command import Command
from osmo_ray.sdk.login import folder, resolve

_KEY = "ssh_host_ed25519"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="also include it in ~/.ssh/config")
    parser.add_argument("task", nargs="?", default="", metavar="WORKFLOW/TASK", help="say by which name it is reached")


def _config(args: argparse.Namespace) -> int:
    path = write(resolve(args.url).url if args.url else "")
    if args.write:
        include(path)
        print(f"{path} is included in {_own()}")
    else:
        print(path.read_text(), end="")
        print(f"# written to {path}; osmo ssh-config --write includes it in {_own()}", file=sys.stderr)
    if args.task:
        print(f"ssh {host_of(*args.task.split('/', 1))}", file=sys.stderr)
    return 0


def host_of(workflow: str, task: str) -> str:
    """The name under which ssh knows a task."""
    return f"osmo.{workflow}.{task}"


def write(url: str = "") -> Path:
    """The entry, as a file of its own; with `url` for that platform alone."""
    path, known = folder() / "ssh_config", folder() / "ssh_known_hosts"
    public = host_key().with_suffix(".pub").read_text().strip()
    known.write_text(f"osmo.* {public}\n")
    program = [sys.executable, "-P", "-c", "from osmo_ray.program import main; raise SystemExit(main())"]
    proxy = shlex.join([*program, "ssh-proxy", *(("--url", url) if url else ())]).replace("%", "%%")
    path.write_text(
        "Host osmo.*\n"
        f"  ProxyCommand {proxy} %n\n"
        f'  UserKnownHostsFile "{known}"\n'
        "  User root\n"
        "  StrictHostKeyChecking yes\n"
        "  PreferredAuthentications none\n"
        "  ServerAliveInterval 30\n"
    )
    return path


def include(path: Path) -> None:
    """Once, before everything else: an Include below a Host line would belong to that host."""
    own = _own()
    own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = own.read_text() if own.exists() else ""
    line = f'Include "{path}"'
    if line not in text.splitlines():
        fresh = own.with_name(".config.osmo")
        fresh.write_text(f"{line}\n\n{text}")
        fresh.chmod(own.stat().st_mode & 0o777 if own.exists() else 0o600)
        fresh.replace(own.resolve())


def _own() -> Path:
    return Path.home() / ".ssh" / "config"


def host_key() -> Path:
    """The key by which ssh knows our end of the pipe: this user's, made once."""
    path = folder() / _KEY
    if not path.with_suffix(".pub").exists():
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
        public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
        fresh = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        fresh.replace(path)
        path.with_suffix(".pub").write_bytes(public + b"\n")
    return path


CONFIG = Command(_arguments, _config, json=False)
