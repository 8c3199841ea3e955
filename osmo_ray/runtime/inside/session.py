"""One session: a keeper outside, a worker that goes in.

The worker enters the sandbox, starts the command or makes the connection, and moves bytes. The keeper stays outside,
where it can find everything that the session started, and ends it all when the worker has gone: because the command
ended, the caller went away, or the task did. The keeper shows as a supervisor, so what is below it counts as a task's.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Any

from osmo_ray.runtime import process
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.inside import command, connection
from osmo_ray.runtime.inside.frames import Ask, Kind, frame
from osmo_ray.runtime.inside.target import NotThere, Target
from osmo_ray.spec.reason import Reason

MARK = "OSMO_SESSION"
_KEEPER = "osmo-supervise"


def main(root: Path, request: dict[str, Any]) -> None:
    """The keeper's life. `fds` of the request holds one end of the session's socket."""
    sys.name_process(_KEEPER)
    end = socket.socket(fileno=request["fds"].pop())
    end.set_inheritable(False)
    ask, session = Ask.from_json(request["ask"]), secrets.token_hex(8)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sys.prctl(sys.PR_SET_CHILD_SUBREAPER, 1)
    worker = os.fork()
    if worker == 0:
        try:
            _work(root, ask, end, session)
        finally:
            os._exit(0)
    end.close()
    os.waitpid(worker, 0)
    _end_all(f"{MARK}={session}")


def _work(root: Path, ask: Ask, end: socket.socket, session: str) -> None:
    sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.name_process("osmo-inside")
    try:
        target = Target.find(root, ask.key)
        if ask.argv:
            command.serve(target, ask, end, {MARK: session})
        else:
            connection.serve(target, ask, end)
    except NotThere as error:
        refuse(end, Reason("NotRunning", str(error)))
    except Exception as error:  # a fault of ours must still be told
        refuse(end, Reason("SessionFailed", f"the session failed: {type(error).__name__}: {error}"))


def refuse(end: socket.socket, reason: Reason) -> None:
    """Say why there is no session."""
    try:
        end.setblocking(True)
        end.sendall(frame(Kind.REFUSED, json.dumps(reason.to_json()).encode()))
    except OSError:
        return


def _end_all(mark: str) -> None:
    """What the session left: processes below us, then those that carry its mark wherever they went."""
    process.kill_tree(os.getpid())
    for _ in range(20):
        found = process.marked(mark)
        if not found:
            return
        for pid in found:
            process.send(pid, signal.SIGKILL)
