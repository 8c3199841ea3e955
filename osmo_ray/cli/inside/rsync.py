"""`osmo workflow rsync`: files to and from the workspace of a running task, by the rsync program of this host."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys

from osmo_ray.cli.command import Command, connect
from osmo_ray.cli.inside.naming import task_of

WORKSPACE = "/osmo/run/workspace"


def _arguments(parser: argparse.ArgumentParser, path: str) -> None:
    parser.add_argument("workflow_id", help="the workflow, or WORKFLOW/TASK")
    parser.add_argument("words", nargs="+", metavar="[TASK] " + path, help=f"remote paths are below {WORKSPACE}")
    parser.add_argument("--once", action="store_true", help="once, and in the foreground (there is no other way)")
    parser.add_argument("--delete", action="store_true", help="remove at the target what the source has not")
    parser.add_argument("--rate-limit", "--upload-rate-limit", type=int, metavar="BYTES", help="bytes per second")
    parser.add_argument("--timeout", type=int, default=0, metavar="SECONDS", help="give up after this long a silence")
    parser.add_argument("--verbose", "-v", action="store_true", help="name each file")


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments(parser, "LOCAL:REMOTE")


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments(parser, "REMOTE:LOCAL")


def _upload(args: argparse.Namespace) -> int:
    return _copy(args, up=True)


def _download(args: argparse.Namespace) -> int:
    return _copy(args, up=False)


def _copy(args: argparse.Namespace, *, up: bool) -> int:
    *named, path = args.words
    if len(named) > 1:
        print("osmo: name the workflow, the task, and one pair of paths", file=sys.stderr)
        return 2
    if shutil.which("rsync") is None:
        print("osmo: this needs the program rsync on this host (Debian: apt-get install rsync)", file=sys.stderr)
        return 2
    first, _, second = path.partition(":")
    local, remote = (first, second) if up else (second or ".", first)
    with connect(args) as client:
        workflow, task = task_of(client, args.workflow_id, named[0] if named else "")
        client.http.json("POST", f"/api/workflow/{workflow}/rsync/task/{task}")  # what does not run is said now
        url = client.login.url
    far = f"rsync://task/osmo/{below(remote)}"
    line = ["rsync", "--archive", *_options(args), "--", *((local, far) if up else (far, local))]
    program = shlex.join([sys.executable, "-P", "-m", "osmo_ray.cli.inside.pipe", workflow, task])
    done = subprocess.run(line, env={**os.environ, "RSYNC_CONNECT_PROG": program, "OSMO_URL": url}, check=False)
    if done.returncode:
        print(f"osmo: rsync ended with {done.returncode}", file=sys.stderr)
    return 0 if done.returncode == 0 else 1


def below(remote: str) -> str:
    """A remote path as one of the module: relative, or absolute below the workspace."""
    return remote.removeprefix(WORKSPACE).lstrip("/")


def _options(args: argparse.Namespace) -> list[str]:
    found = ["--delete"] if args.delete else []
    if args.verbose:
        found.append("--verbose")
    if sys.stderr.isatty():
        found.append("--info=progress2")
    if args.rate_limit:
        found.append(f"--bwlimit={max(args.rate_limit >> 10, 1)}")
    if args.timeout:
        found.append(f"--timeout={args.timeout}")
    return found


UPLOAD = Command(_upload_arguments, _upload, json=False)
DOWNLOAD = Command(_download_arguments, _download, json=False)
