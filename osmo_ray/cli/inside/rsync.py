"""`osmo workflow rsync`: files to and from the workspace of a running task, by the rsync program of this host."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from osmo_ray.cli.command import Command, connect
from osmo_ray.cli.inside.naming import task_of

WORKSPACE = "/osmo/run/workspace"


def _arguments(parser: argparse.ArgumentParser, path: str) -> None:
    parser.add_argument("workflow_id", help="the workflow, or WORKFLOW/TASK")
    parser.add_argument("words", nargs="+", metavar="[TASK] " + path, help=f"remote paths are below {WORKSPACE}")
    parser.add_argument("--delete", action="store_true", help="remove at the target what the source has not")
    parser.add_argument("--rate-limit", "--upload-rate-limit", type=int, metavar="BYTES", help="bytes per second")
    parser.add_argument("--timeout", type=int, default=0, metavar="SECONDS", help="give up after this long a silence")
    parser.add_argument("--verbose", "-v", action="store_true", help="name each file")


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments(parser, "LOCAL:REMOTE")
    parser.add_argument(
        "--once",
        action="store_true",
        help="copy and be done, instead of going on in the background until the task ends",
    )


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments(parser, "REMOTE:LOCAL")
    parser.add_argument("--once", action="store_true", help="the only way for downloads")


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
    lasting = ["--delete"] if args.delete else []
    if args.rate_limit:
        lasting.append(f"--bwlimit={max(args.rate_limit >> 10, 1)}")
    code = copy(workflow, task, local, remote, [*lasting, *_options(args)], up=up, url=url)
    if code:
        print(f"osmo: rsync ended with {code}", file=sys.stderr)
        return 1
    if up and not args.once:
        _go_on(url, workflow, task, local, remote, tuple(lasting))
    return 0


def _go_on(url: str, workflow: str, task: str, local: str, remote: str, options: tuple[str, ...]) -> None:
    from osmo_ray.cli.inside import background

    background.begin(background.Sync(url, workflow, task, background.absolute(local), remote, options))
    print(
        f"Changes of {local} are sent to {workflow}/{task} until it ends, or: osmo workflow rsync stop {workflow}",
        file=sys.stderr,
    )


def copy(
    workflow: str, task: str, local: str, remote: str, options: Sequence[str], *, up: bool = True, url: str = ""
) -> int:
    """One run of the rsync program; its exit code."""
    far = f"rsync://task/osmo/{below(remote)}"
    line = ["rsync", "--archive", *options, "--", *((local, far) if up else (far, local))]
    program = shlex.join([sys.executable, "-P", "-m", "osmo_ray.cli.inside.pipe", workflow, task])
    where = {"OSMO_URL": url} if url else {}
    return subprocess.run(line, env={**os.environ, "RSYNC_CONNECT_PROG": program, **where}, check=False).returncode


def below(remote: str) -> str:
    """A remote path as one of the module: relative, or absolute below the workspace."""
    return remote.removeprefix(WORKSPACE).lstrip("/")


def _options(args: argparse.Namespace) -> list[str]:
    found = []
    if args.verbose:
        found.append("--verbose")
    if sys.stderr.isatty():
        found.append("--info=progress2")
    if args.timeout:
        found.append(f"--timeout={args.timeout}")
    return found


UPLOAD = Command(_upload_arguments, _upload, json=False)
DOWNLOAD = Command(_download_arguments, _download, json=False)
