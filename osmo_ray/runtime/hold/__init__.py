"""Containers that stay after a failure.

A container ends with its first process. Where a task has a `hold`, that is a program of ours of one kilobyte (`hold.c`)
which becomes the task's command, or, once the command has failed and the container is started again, stays and does
nothing. So what people find inside is the container as the command left it, and the image is as it was.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from osmo_ray.runtime.supervisor import Supervisor

INSIDE = "/osmo/hold"
NOT_FOUND = 127
_NOT_RUN = 126
_SAYS = "osmo-hold: "
_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


def program(sup: Supervisor) -> Path | None:
    """The program in the attempt's folder, put there when it is first asked for; None where nothing is to be held, or
    we have none for this kind of machine."""
    if sup.plan.hold <= 0:
        return None
    machine = platform.machine()
    source = Path(__file__).with_name(f"hold.{_NAMES.get(machine, machine)}")
    if not source.exists():
        return None
    target = sup.folder.path / "hold" / "hold"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        target.parent.chmod(0o755)  # the image's user may be anyone
        shutil.copyfile(source, target)
        target.chmod(0o755)
    return target


def stay(sup: Supervisor) -> tuple[str, ...]:
    """The engine's command line that starts the ended container to stay. OSError when it cannot."""
    from osmo_ray.runtime import container

    own = program(sup)
    if own is None:
        raise OSError(f"there is no program for {platform.machine()} that keeps a container up")
    if not container.exists(sup.job.engine, container.container_name(str(sup.plan.key))):
        raise OSError("its container was not made")
    own.with_name("stay").touch(0o644)
    return container.start_again(sup.job)


def go(sup: Supervisor) -> None:
    """The next start runs the command."""
    (sup.folder.path / "hold" / "stay").unlink(missing_ok=True)


def refused(sup: Supervisor, code: int) -> str:
    """What our program said when it could not become the command; empty when the code is the command's own."""
    if code not in (NOT_FOUND, _NOT_RUN) or program(sup) is None:
        return ""
    last = sup.log.tail(1)
    return last[-1].partition(_SAYS)[2] if last and last[-1].startswith(_SAYS) else ""
