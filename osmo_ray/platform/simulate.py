"""`osmo simulate`: what other quotas or nodes would have made of the work that came."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osmo_ray import settings as settings_room
from osmo_ray.cli.command import client_options, connect, print_json, table
from osmo_ray.platform import recorded
from osmo_ray.providers.quota import QuotaError, QuotaSnapshot, parse
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sim.chart import draw
from osmo_ray.sim.figures import Figures, figures
from osmo_ray.sim.replay import Replayed, Variant, nodes_like, replay
from osmo_ray.sim.trace import Arrival, TraceError, read, write
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.quantity import show_seconds, to_bytes, to_seconds

PRESENT, NEW = "present", "new"
_HEAD = ["Pool", "Quotas", "Groups", "Never", "Mean", "Median", "p95", "Max", "GPU", "CPU", "Preempted", "Lost GPU h"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    client_options(parser, json=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", type=Path, metavar="FILE", help="arrivals as JSON Lines (docs/scheduling.md)")
    source.add_argument("--last", metavar="TIME", help="what came to the platform in this time, for example 24h")
    parser.add_argument("--quota", type=Path, metavar="FILE", help="the new quota.yaml (default: as at present)")
    parser.add_argument(
        "--present", type=Path, metavar="FILE", help="the present quotas (default: quota.yaml in OSMO_HOME, if any)"
    )
    parser.add_argument("--nodes", type=_count, metavar="N", help="so many nodes instead of those of the platform")
    parser.add_argument(
        "--present-nodes", type=_count, metavar="N", help="so many at present (default: with --trace as --nodes)"
    )
    parser.add_argument("--gpus", type=_amount, default=8, help="GPUs of each of these (default: 8)")
    parser.add_argument("--cpus", type=_count, default=64, help="cores of each (default: 64)")
    parser.add_argument("--memory", type=_size, default="512Gi", help="memory of each (default: 512Gi)")
    parser.add_argument(
        "--step", type=_count, default=1, metavar="SECONDS", help="virtual seconds between two cycles (default: 1)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw utilisation and queue over time")
    parser.add_argument("--save-trace", type=Path, metavar="FILE", help="keep the arrivals as a file for --trace")


def run(args: argparse.Namespace) -> int:
    """0, or 2 for files that cannot be used."""
    try:
        return _run(args)
    except (TraceError, QuotaError, OSError) as error:
        print(f"osmo simulate: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    present_quota = _present(args)
    new_quota = _quota(args.quota) if args.quota else present_quota
    arrivals = _arrivals(args)
    present_nodes, new_nodes = _nodes(args)
    done = [
        (name, replay(arrivals, Variant(nodes, quota), args.step))
        for name, nodes, quota in ((PRESENT, present_nodes, present_quota), (NEW, new_nodes, new_quota))
    ]
    if args.save_trace:
        args.save_trace.write_text(write(arrivals), "utf-8")
    if args.plot:
        args.plot.write_text(draw(done), "utf-8")
    if args.format_type == "json":
        print_json({name: _json(one) for name, one in done})
    else:
        _print(done)
    return 0


def _present(args: argparse.Namespace) -> QuotaSnapshot | None:
    if args.present:
        return _quota(args.present)
    settings = settings_room.load()
    if settings.quota_source != "file":
        raise QuotaError(f"quotas come from {settings.quota_source}; write the present ones in a file: --present FILE")
    file = settings.home / "quota.yaml"
    if file.exists():
        return _quota(file)
    if args.quota:
        print(f"there is no {file}: present means no quotas (or say --present FILE)", file=sys.stderr)
    return None


def _quota(path: Path) -> QuotaSnapshot:
    try:
        return parse(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError:
        raise QuotaError(f"{path}: it is not UTF-8; save it as UTF-8") from None


def _arrivals(args: argparse.Namespace) -> tuple[Arrival, ...]:
    if args.trace:
        try:
            return read(args.trace.read_text("utf-8"), str(args.trace))
        except UnicodeDecodeError:
            raise TraceError(f"{args.trace}: it is not UTF-8; save it as UTF-8") from None
    try:
        seconds = to_seconds(args.last)
    except ValueError as error:
        raise TraceError(f"--last: {error}") from None
    with connect(args) as client:
        found = recorded.recorded(client.http, time.time(), seconds)
    if found.unknown:
        print(f"{found.unknown} groups wait or never ran, so their run time is not known: left out", file=sys.stderr)
    if found.running:
        print(f"{found.running} groups run still: counted with the time so far", file=sys.stderr)
    if not found.arrivals:
        raise TraceError(f"--last {args.last}: no group that came in this time has run; try a longer time")
    return found.arrivals


def _nodes(args: argparse.Namespace) -> tuple[tuple[NodeReport, ...], tuple[NodeReport, ...]]:
    """The nodes at present and those to try. A trace need not come from the platform: there --nodes says both."""

    def made(count: int) -> tuple[NodeReport, ...]:
        return nodes_like(count, args.cpus, args.memory, args.gpus)

    given = args.present_nodes or (args.nodes if args.trace else None)
    present = made(given) if given else _asked(args)
    return present, made(args.nodes) if args.nodes else present


def _asked(args: argparse.Namespace) -> tuple[NodeReport, ...]:
    with connect(args) as client:
        found = recorded.nodes(client.http)
    if not found:
        raise ClientError("The platform has no nodes now; say how many to count with: --nodes N", status=400)
    return found


def _json(done: Replayed) -> dict[str, Any]:
    """Times in seconds, utilisations as parts of 1."""
    variant = done.variant
    return {
        "nodes": len(variant.nodes),
        "gpus": variant.gpus,
        "cpus": variant.cpus,
        "seconds": done.ended - done.begun,
        "pools": [asdict(row) for row in figures(done)],
    }


def _print(done: list[tuple[str, Replayed]]) -> None:
    rows = []
    for lines in zip(*(figures(one) for _, one in done), strict=True):
        rows += [_row(name, line) for (name, _), line in zip(done, lines, strict=True)]
    print(table(_HEAD, rows))
    print()
    for name, one in done:
        v = one.variant
        print(f"{name}: {len(v.nodes)} nodes, {v.gpus} GPUs, {v.cpus:g} cores; {show_seconds(one.ended - one.begun)}")
        for line in figures(one)[:-1]:
            if line.never:
                print(f"  {line.never} groups of pool {line.pool} never start: {', '.join(line.reasons)}")


def _row(name: str, line: Figures) -> list[str]:
    w = line.waits
    waits = [show_seconds(s) for s in (w.mean, w.median, w.p95, w.max)] if w else ["-"] * 4
    used = ["-" if part is None else f"{part:.1%}" for part in (line.gpu, line.cpu)]
    lost = f"{line.lost / 3600:.2f}"
    return [line.pool, name, str(line.groups), str(line.never), *waits, *used, str(line.preempted), lost]


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _amount(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _size(text: str) -> int:
    try:
        return to_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
