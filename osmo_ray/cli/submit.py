"""`osmo workflow submit` and `validate`: what a file needs before it can be sent, and what comes back."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from osmo_ray.cli.command import Command, connect, print_json
from osmo_ray.cli.pyfiles import compiled, is_python, refuse_rest, send_code
from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client

_ID = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]*-\d+")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is sent: the text, and the file as it was written when that differs."""

    text: str
    template: str = ""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that say how a file is to be read."""
    parser.add_argument("--pool", "-p", default="", help="the pool to run in (default: that of your profile)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="template values (numbers stay so)"
    )
    parser.add_argument(
        "--set-string", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="template values, as text"
    )


def add_submission(parser: argparse.ArgumentParser) -> None:
    """The options of everything that submits."""
    add_settings(parser)
    parser.add_argument(
        "--set-env", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="environment of every task"
    )
    parser.add_argument(
        "--priority", type=str.upper, choices=("HIGH", "NORMAL", "LOW"), default="NORMAL", help="LOW may be preempted"
    )


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="workflow_file", help="a YAML or Python file, or the id of a workflow")
    add_submission(parser)
    parser.add_argument(
        "--rsync", default="", metavar="LOCAL:REMOTE", help="send a folder to the lead task's workspace while it runs"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the file with its templates filled in, and stop")


def _submit(args: argparse.Namespace) -> int:
    with connect(args) as client:
        if args.dry_run and is_python(args.file):
            print(compiled(args).text, end="")
            return 0
        if args.dry_run:
            refuse_rest(args)
            print(client.render(read(args.file), pool=args.pool, set=args.set, set_string=args.set_string))
            return 0
        name = send(client, args)
        announce(client, args, name)
        if args.rsync:
            from osmo_ray.cli.inside.background import after_submit

            after_submit(client, name, args.rsync, sys.stderr)
        return 0


def announce(client: Client, args: argparse.Namespace, name: str) -> None:
    """Say that a workflow was submitted."""
    base = client.login.url
    if args.format_type == "json":
        overview, logs = f"{base}/workflows/{name}", f"{base}/api/workflow/{name}/logs?last_n_lines=1000"
        print_json({"name": name, "overview": overview, "logs": logs})
        return
    print("Workflow submit successful.")
    print(f"Workflow ID        - {name}")
    print(f"Workflow Overview  - {base}/workflows/{name}")
    if args.priority == "LOW":
        print("Priority LOW: this workflow may be preempted.")


def send(client: Client, args: argparse.Namespace) -> str:
    """Submit what the arguments name; returns the id of the workflow."""
    if is_python(args.file):
        made = compiled(args)
        send_code(client, made)
        args.made = made
        return client.submit(made.text, pool=args.pool, env=args.set_env, priority=args.priority)
    refuse_rest(args)
    if not Path(args.file).exists() and _ID.fullmatch(args.file):
        if args.set or args.set_string:
            raise ClientError("--set has no effect on a workflow that is submitted again", status=400, code="USAGE")
        return client.resubmit(args.file, pool=args.pool, env=args.set_env, priority=args.priority)
    ready = prepare(client, args)
    return client.submit(
        ready.text,
        pool=args.pool,
        set=args.set,
        set_string=args.set_string,
        env=args.set_env,
        priority=args.priority,
        template=ready.template,
    )


def read(name: str) -> str:
    """The text of a file. Raises `ClientError`."""
    path = Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = " (and there is no file of that name to submit)" if _ID.fullmatch(name) else ""
        raise ClientError(f"{name}: no such file{hint}", status=400, code="USAGE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{name}: cannot be read: {error}", status=400, code="USAGE") from None


def prepare(client: Client, args: argparse.Namespace, *, send: bool = True) -> Prepared:
    """A file with its local files put in, and local folders uploaded as datasets if it is to be sent. Only where there
    are any, a template is rendered first."""
    return inlined(client, args, read(args.file), str(Path(args.file).resolve().parent), send=send)


def inlined(client: Client, args: argparse.Namespace, text: str, folder: str, *, send: bool = True) -> Prepared:
    """The same of a text whose local files are named from `folder`."""
    from osmo_ray.cli.localfiles import has_local_files, inline

    if not has_local_files(text):
        return Prepared(text)
    from osmo_ray.spec.template import is_templated

    ready = text
    if is_templated(text):
        ready = client.render(text, pool=args.pool, set=args.set, set_string=args.set_string)
    ready = inline(ready, Path(folder).resolve())
    return Prepared(_uploaded(client, args, ready, Path(folder).resolve()) if send else ready, text)


def _uploaded(client: Client, args: argparse.Namespace, text: str, folder: Path) -> str:
    """The text with datasets of local folders uploaded; it is validated before: uploads take long."""
    from osmo_ray.cli.localdata import local_data, upload

    wanted = local_data(text)
    if not wanted:
        return text
    client.validate(text, pool=args.pool)
    return upload(client, text, wanted, folder)


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="workflow_file", help="a YAML or Python file")
    parser.add_argument("--strict", action="store_true", help="refuse extensions, for files that run elsewhere too")
    add_settings(parser)


def _validate(args: argparse.Namespace) -> int:
    with connect(args) as client:
        if is_python(args.file):
            made = compiled(args)
            send_code(client, made)
            ready = Prepared(made.text)
        else:
            refuse_rest(args)
            ready = prepare(client, args, send=False)
        settings = {} if is_python(args.file) else {"set": args.set, "set_string": args.set_string}
        told = client.validate(ready.text, pool=args.pool, **settings)
        if args.strict:
            _strict(client.render(ready.text, pool=args.pool, **settings))
    if args.format_type == "json":
        print_json({"message": told})
    else:
        print(told)
    return 0


def _strict(text: str) -> None:
    """Raises `ClientError` for what only this platform knows."""
    from osmo_ray.spec.errors import SpecError
    from osmo_ray.spec.reader import read as understood

    try:
        understood(text, strict=True)
    except SpecError as error:
        problems = [{"path": p.path, "message": p.message, "hint": p.hint} for p in error.problems]
        raise ClientError(str(error), status=400, code="USAGE", problems=problems) from None


def _restart_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", help="a workflow that has ended")
    parser.add_argument(
        "--from",
        dest="tasks",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK",
        help="run these again and all that depends on them, though they completed",
    )
    parser.add_argument("--file", default="", metavar="FILE", help="a newer YAML or Python file to run them by")
    add_settings(parser)
    parser.add_argument(
        "--set-env", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="environment of every task"
    )


def _restart(args: argparse.Namespace) -> int:
    with connect(args) as client:
        name = _send_again(client, args)
        if args.format_type == "json":
            print_json({"name": name, "overview": f"{client.login.url}/workflows/{name}"})
        else:
            print("Workflow restart successful.")
            print(f"Workflow ID        - {name}")
            print(f"Workflow Overview  - {client.login.url}/workflows/{name}")
    return 0


def _send_again(client: Client, args: argparse.Namespace) -> str:
    how = {"pool": args.pool, "tasks": args.tasks, "env": args.set_env}
    if args.file and is_python(args.file):
        made = compiled(args)
        send_code(client, made)
        return client.restart(args.workflow_id, text=made.text, **how)
    refuse_rest(args)
    if not args.file:
        if args.set or args.set_string:
            raise ClientError("--set has no effect without --file", status=400, code="USAGE")
        return client.restart(args.workflow_id, **how)
    ready = prepare(client, args)
    return client.restart(
        args.workflow_id, text=ready.text, template=ready.template, set=args.set, set_string=args.set_string, **how
    )


SUBMIT = Command(_submit_arguments, _submit, rest=True)
RESTART = Command(_restart_arguments, _restart, rest=True)
VALIDATE = Command(_validate_arguments, _validate, rest=True)
