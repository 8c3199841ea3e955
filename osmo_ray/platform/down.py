"""`osmo down`: stop exactly what `osmo up` started for this home."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from osmo_ray import settings as settings_room
from osmo_ray.platform import head
from osmo_ray.platform.files import Files
from osmo_ray.runtime import NodeHost
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import Phase

LIMIT = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-tasks",
        action="store_true",
        help="let running tasks go on until their lease ends; the next `osmo up` adopts them",
    )


def run(args: argparse.Namespace) -> int:
    """0 when nothing of this home runs any more."""
    settings = settings_room.load()
    files = Files(settings.home)
    state = files.state()
    was_up = state.keeper.alive or state.head.alive
    state.keeper.end(LIMIT)
    if state.head.alive:
        head.stop(state.head, files)
    ended = 0 if args.keep_tasks else sum(asyncio.run(_end_tasks(settings, root)) for root in _spools(files))
    if was_up:
        files.save(replace(files.state(), phase="stopped"))
    print(_told(was_up, ended, args.keep_tasks))
    left = [p for p in (state.keeper, state.head) if p.alive]
    if left:
        print(f"osmo down: still running: {', '.join(str(p.pid) for p in left)}", file=sys.stderr)
    return 1 if left else 0


async def _end_tasks(settings: Settings, root: Path) -> int:
    """End what runs below a spool; it is written there as lost, so that the next `up` runs it again."""
    host = NodeHost(root, root.name, "", settings.storage)
    await host.start()
    running = sum(1 for o in await host.attempts() if o.phase not in (Phase.FINISHED, Phase.LOST))
    await host.shutdown()
    return running


def _spools(files: Files) -> list[Path]:
    nodes = files.home / "nodes"
    return sorted(nodes.iterdir()) if nodes.is_dir() else []


def _told(was_up: bool, ended: int, kept: bool) -> str:
    if not was_up:
        return "nothing was running" + (f"; ended {ended} tasks that were left" if ended else "")
    tasks = " (running tasks were left alone)" if kept else f"; {ended} running tasks ended" if ended else ""
    return f"osmo is down{tasks}; workflows that had not finished go on with the next `osmo up`"
