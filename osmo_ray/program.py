"""The `osmo` program: a table of verbs, each loaded only when it is called.

Nothing heavy is imported here: `osmo --help` answers in a tenth of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

# verb -> (what it does, where it is); a dictionary in the second place holds verbs of its own.
Entry = tuple[str, "str | Mapping[str, Entry]"]
_CLI = "osmo_ray.cli"
_INSIDE = f"{_CLI}.inside"
_DATA = f"{_CLI}.datasets"
_PLATFORM = "osmo_ray.platform"

RSYNC: Mapping[str, Entry] = {
    "upload": ("copy to the task's workspace, and go on with what changes", f"{_INSIDE}.rsync:UPLOAD"),
    "download": ("copy from the task's workspace", f"{_INSIDE}.rsync:DOWNLOAD"),
    "status": ("list the uploads that go on in the background", f"{_INSIDE}.background:STATUS"),
    "stop": ("end uploads that go on in the background", f"{_INSIDE}.background:STOP"),
}
WORKFLOW: Mapping[str, Entry] = {
    "submit": ("hand in a workflow file (or the id of a workflow, to run it once more)", f"{_CLI}.submit:SUBMIT"),
    "validate": ("check a workflow file and run nothing", f"{_CLI}.submit:VALIDATE"),
    "restart": ("run what failed of a workflow again", f"{_CLI}.submit:RESTART"),
    "list": ("list workflows", f"{_CLI}.workflow:LIST"),
    "query": ("show one workflow with its tasks", f"{_CLI}.workflow:QUERY"),
    "logs": ("print logs, and follow them while it runs", f"{_CLI}.streams:LOGS"),
    "events": ("print what happened, and follow it while it runs", f"{_CLI}.streams:EVENTS"),
    "spec": ("print the workflow file as it was understood", f"{_CLI}.streams:SPEC"),
    "cancel": ("end workflows", f"{_CLI}.workflow:CANCEL"),
    "wait": ("wait until workflows have ended", f"{_CLI}.workflow:WAIT"),
    "delete": ("remove finished workflows with their logs and outputs", f"{_CLI}.workflow:DELETE"),
    "outputs": ("list the files that tasks wrote", f"{_CLI}.outputs:OUTPUTS"),
    "download": ("fetch the files that tasks wrote", f"{_CLI}.outputs:DOWNLOAD"),
    "sweep": ("show the tasks of a matrix with their values and key figures", f"{_CLI}.sweeps:SWEEP"),
    "explain": ("say why tasks wait or failed", f"{_CLI}.explain:EXPLAIN"),
    "tag": ("add and remove tags", f"{_CLI}.workflow:TAG"),
    "datasets": ("show which versions of datasets it read, and which it made", f"{_DATA}.lineage:OF_WORKFLOW"),
    "exec": ("run a command inside a running task", f"{_INSIDE}.exec:EXEC"),
    "port-forward": ("let ports of this host lead into a running task", f"{_INSIDE}.forward:FORWARD"),
    "rsync": ("copy files into and out of a running task", RSYNC),
    "release": ("let a failed task that is held go on, or run it again in place", f"{_INSIDE}.exec:RELEASE"),
}
APP: Mapping[str, tuple[str, str]] = {
    "submit": ("submit an app", f"{_CLI}.app:SUBMIT"),
    "create": ("make an app of a workflow file", f"{_CLI}.app:CREATE"),
    "update": ("add a version", f"{_CLI}.app:UPDATE"),
    "list": ("list apps", f"{_CLI}.app:LIST"),
    "info": ("list the versions of an app", f"{_CLI}.app:INFO"),
    "show": ("show what an app does and what can be set", f"{_CLI}.app:SHOW"),
    "spec": ("print the workflow file of an app", f"{_CLI}.app:SPEC"),
    "delete": ("delete one version, or all", f"{_CLI}.app:DELETE"),
    "rename": ("give an app another name", f"{_CLI}.app:RENAME"),
}
DATASET: Mapping[str, Entry] = {
    "upload": ("make a new version of files and folders", f"{_DATA}.files:UPLOAD"),
    "download": ("fetch a version, or a collection", f"{_DATA}.files:DOWNLOAD"),
    "update": ("make a new version of an old one", f"{_DATA}.files:UPDATE"),
    "delete": ("delete a version, or all", f"{_DATA}.words:DELETE"),
    "list": ("list datasets and collections", f"{_DATA}.words:LIST"),
    "info": ("show a dataset with its versions", f"{_DATA}.words:INFO"),
    "tag": ("set and delete tags of a version", f"{_DATA}.words:TAG"),
    "label": ("set and delete labels of a dataset", f"{_DATA}.words:LABEL"),
    "metadata": ("set and delete metadata of a version", f"{_DATA}.words:METADATA"),
    "rename": ("give a dataset another name", f"{_DATA}.words:RENAME"),
    "query": ("find datasets or versions by a query", f"{_DATA}.words:QUERY"),
    "collect": ("make a collection of versions", f"{_DATA}.words:COLLECT"),
    "recollect": ("change a collection", f"{_DATA}.words:RECOLLECT"),
    "migrate": ("do nothing: versions of old layouts cannot be here", f"{_DATA}.words:MIGRATE"),
    "check": ("try what may be done with a dataset's bucket", f"{_DATA}.check:CHECK"),
    "inspect": ("list the files of a version", f"{_DATA}.files:INSPECT"),
    "checksum": ("print the checksum of files here", f"{_DATA}.files:CHECKSUM"),
    "diff": ("compare two versions", f"{_DATA}.files:DIFF"),
    "mount": ("show a version as a folder of this host", f"{_DATA}.mount:MOUNT"),
    "log": ("show what made each version", f"{_DATA}.files:LOG"),
    "lineage": ("show what made versions and which workflows read them", f"{_DATA}.lineage:LINEAGE"),
    "verify": ("read a bucket back and compare", f"{_DATA}.files:VERIFY"),
    "gc": ("free what no version needs", f"{_DATA}.files:GC"),
}
VERBS: Mapping[str, Entry] = {
    "run": ("submit a workflow, watch it, and end with its verdict", f"{_CLI}.run:RUN"),
    "spec": ("print what a Python file means as YAML, or the JSON Schema of the language", f"{_CLI}.pyfiles:SPEC"),
    "explain": ("say why the tasks of a workflow wait or failed", f"{_CLI}.explain:EXPLAIN"),
    "workflow": ("work with workflows", WORKFLOW),
    "shell": ("a shell inside a running task", f"{_INSIDE}.exec:SHELL_VERB"),
    "code": ("open a running task in VS Code", f"{_INSIDE}.editors:CODE"),
    "jupyter": ("start Jupyter inside a running task", f"{_INSIDE}.editors:JUPYTER"),
    "ssh-config": ("let ssh, scp and VS Code reach running tasks by name", f"{_INSIDE}.ssh_config:CONFIG"),
    "ssh-proxy": ("what ssh runs to reach a task", f"{_INSIDE}.ssh:PROXY"),
    "task": ("look at tasks", {"list": ("list tasks of all workflows", f"{_CLI}.others:TASK_LIST")}),
    "pool": ("look at pools", {"list": ("list pools and what they have free", f"{_CLI}.others:POOL_LIST")}),
    "queue": ("say what queues are owed, hold and borrow", f"{_CLI}.queue:QUEUE"),
    "resource": (
        "look at nodes",
        {
            "list": ("list nodes and what they have", f"{_CLI}.others:RESOURCE_LIST"),
            "info": ("show one node", f"{_CLI}.others:RESOURCE_INFO"),
        },
    ),
    "credential": (
        "secrets that tasks may use",
        {
            "set": ("keep one, or replace it", f"{_CLI}.credential:SET"),
            "list": ("list them, without what is secret", f"{_CLI}.credential:LIST"),
            "delete": ("remove one", f"{_CLI}.credential:DELETE"),
        },
    ),
    "dataset": ("versioned sets of files", DATASET),
    "data": (
        "files at storage URLs",
        {
            "upload": ("copy there", f"{_DATA}.urls:UPLOAD"),
            "download": ("copy from there", f"{_DATA}.urls:DOWNLOAD"),
            "list": ("list what is there", f"{_DATA}.urls:LIST"),
            "delete": ("delete it", f"{_DATA}.urls:DELETE"),
            "check": ("try whether one may", f"{_DATA}.urls:CHECK"),
        },
    ),
    "bucket": ("where datasets lie", {"list": ("list buckets", f"{_DATA}.words:BUCKETS")}),
    "app": ("workflow files with a name and versions", APP),
    "token": (
        "access tokens of your own",
        {
            "set": ("make one and print it once", f"{_CLI}.token:SET"),
            "list": ("list them", f"{_CLI}.token:LIST"),
            "delete": ("end one", f"{_CLI}.token:DELETE"),
            "roles": ("list what one may be", f"{_CLI}.token:ROLES"),
        },
    ),
    "user": (
        "who may use the platform, and as what",
        {
            "list": ("list users", f"{_CLI}.user:LIST"),
            "create": ("add one", f"{_CLI}.user:CREATE"),
            "get": ("show one with its roles", f"{_CLI}.user:GET"),
            "update": ("give and take roles", f"{_CLI}.user:UPDATE"),
            "delete": ("remove one, with all access tokens", f"{_CLI}.user:DELETE"),
            "roles": ("list the roles there are", f"{_CLI}.user:ROLES"),
        },
    ),
    "config": (
        "what administrators say of pools, requests and roles",
        {
            "show": ("print what holds", f"{_CLI}.config:SHOW"),
            "update": ("write it from a file", f"{_CLI}.config:UPDATE"),
            "delete": ("take back what was written of one", f"{_CLI}.config:DELETE"),
            "history": ("list the changes", f"{_CLI}.config:HISTORY"),
            "diff": ("compare two revisions", f"{_CLI}.config:DIFF"),
            "rollback": ("make an old revision hold again", f"{_CLI}.config:ROLLBACK"),
            "tag": ("set and delete tags of a revision", f"{_CLI}.config:TAG"),
        },
    ),
    "audit": ("who changed what", f"{_CLI}.user:AUDIT"),
    "backend": (
        "the clusters that work is sent to",
        {
            "list": ("list them, with how they are", f"{_CLI}.backends:BACKEND_LIST"),
            "add": ("register a Kubernetes cluster", f"{_CLI}.backends:BACKEND_ADD"),
            "token": ("a new token for its agent, or none any more", f"{_CLI}.backends:BACKEND_TOKEN"),
            "remove": ("forget one", f"{_CLI}.backends:BACKEND_REMOVE"),
        },
    ),
    "profile": (
        "your own settings",
        {
            "list": ("show them", f"{_CLI}.others:PROFILE_LIST"),
            "set": ("change one", f"{_CLI}.others:PROFILE_SET"),
        },
    ),
    "login": ("choose a platform and say who you are", f"{_CLI}.login:LOGIN"),
    "logout": ("forget the stored login", f"{_CLI}.login:LOGOUT"),
    "completion": ("print a script for your shell: bash, zsh or fish", f"{_CLI}.completion:COMPLETION"),
    "version": ("print versions of client and platform", f"{_CLI}.others:VERSION"),
    "up": ("start the platform on this host", f"{_PLATFORM}.up"),
    "down": ("stop the platform of this host", f"{_PLATFORM}.down"),
    "status": ("say how the platform of this host is", f"{_PLATFORM}.status"),
    "doctor": ("say what this host can do", f"{_PLATFORM}.doctor"),
    "backup": ("save the state of this platform in a file, while it runs", f"{_PLATFORM}.archive:BACKUP"),
    "restore": ("fill an empty database from such a file", f"{_PLATFORM}.archive:RESTORE"),
    "simulate": ("replay arrivals with other quotas or nodes and compare", f"{_PLATFORM}.simulate"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview("osmo", VERBS))  # noqa: T201
        return 0
    if words[0] == "--version":
        words[0] = "version"
    return _dispatch("osmo", VERBS, words)


def overview(program: str, verbs: Mapping[str, Entry]) -> str:
    """The page that names all verbs."""
    width = max(len(name) for name in verbs)
    lines = [f"  {name.ljust(width)}  {entry[0]}" for name, entry in verbs.items()]
    return "\n".join([f"usage: {program} VERB [...]", "", *lines, "", f"{program} VERB --help shows more of each."])


def _dispatch(program: str, verbs: Mapping[str, Entry], words: list[str]) -> int:
    name = words[0]
    if name not in verbs:
        return _unknown(program, name, verbs)
    told, target = verbs[name]
    program = f"{program} {name}"
    if isinstance(target, str):
        return _call(program, told, target, words[1:])
    if len(words) == 1 or words[1] in ("-h", "--help"):
        print(overview(program, target))  # noqa: T201
        return 0 if len(words) > 1 else 2
    return _dispatch(program, target, _verb_first(words[1:]))


def _verb_first(words: list[str]) -> list[str]:
    """`--format-type json list` is `list --format-type json`: scripts write both."""
    if words[0] in ("--format-type", "-t") and len(words) > 2:
        return [words[2], *words[:2], *words[3:]]
    return words


def _unknown(program: str, name: str, verbs: Mapping[str, Entry]) -> int:
    import difflib

    near = difflib.get_close_matches(name, verbs, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"{program} --help lists the verbs."
    print(f"{program}: there is no verb {name!r}; {hint}", file=sys.stderr)  # noqa: T201
    return 2


def _call(program: str, told: str, target: str, words: list[str]) -> int:
    import argparse

    from osmo_ray.cli.command import load

    verb = load(target)
    takes_rest = getattr(verb, "rest", False)
    parser = argparse.ArgumentParser(
        prog=program, description=f"{told[0].upper()}{told[1:]}.", allow_abbrev=not takes_rest
    )
    verb.add_arguments(parser)
    tail: list[str] = []
    if getattr(verb, "tail", False) and "--" in words:
        words, tail = words[: words.index("--")], words[words.index("--") + 1 :]
    args, rest = parser.parse_known_args(words)
    if rest and not takes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest, args.tail, args.verbs = rest, tail, VERBS
    try:
        return verb.run(args)
    except KeyboardInterrupt:
        return 3
    except BrokenPipeError:
        # The reader of a pipe has gone (`| head`): not an error, but Python would complain at exit.
        sys.stderr.close()
        return 0
    except Exception as error:
        return _report(error, args)


def _report(error: Exception, args: object) -> int:
    from osmo_ray.sdk.errors import ClientError
    from osmo_ray.settings import SettingsError

    if isinstance(error, SettingsError):
        print(f"osmo: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if not isinstance(error, ClientError):
        raise error
    from osmo_ray.cli.mistakes import show

    return show(error, args)
