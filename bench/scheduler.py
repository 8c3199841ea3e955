"""The scheduler's core at size: the shapes that KAI measures itself with, and the platform's own budgets.

Beside each figure stands what is known of others; those were measured elsewhere and by others, on other machines, and
say an order of magnitude, no more. Times are CPU of this one thread, so that a busy machine does not count. Building
a session is measured apart from running a cycle in it, except where the line says otherwise. `curve(path)` draws time
over size into an SVG.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.cycle import run
from osmo_ray.scheduler.core.inputs import Ask, GroupIn, JobIn, NodeIn, PodSetIn, QueueIn, Settings, TaskIn
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.model import Amount, Job, Need, Node, Queue, Seat, Snapshot
from osmo_ray.scheduler.queued import Planner

GIB = 1 << 30
SHAPES = ((1, 1), (1, 4), (2, 2), (4, 4), (8, 1), (8, 2), (1, 16), (2, 8))
"""GPUs each, members."""
SIZES = (100, 200, 500, 1000)
KAI_RECLAIM = {100: "0.12 s", 200: "0.63 s", 500: "9.1 s; newest 1.5 s", 1000: "76 s"}


def nodes(count: int, gpu: int = 8) -> list[NodeIn]:
    return [NodeIn(f"n{i:05d}", gpu, 128_000, 1024 * GIB) for i in range(count)]


@lru_cache
def ask(gpu: int) -> Ask:
    return Ask(gpu=gpu, cpu=1000 * max(gpu, 1), memory=GIB * max(gpu, 1))


def job(name: str, queue: str, gpu: int, members: int = 1, node: list[str] | None = None, **more: object) -> JobIn:
    state = st.RUNNING if node else st.PENDING
    tasks = tuple(TaskIn(f"{name}-{i}", ask(gpu), state, node[i] if node else None) for i in range(members))
    tree = GroupIn(pod_sets=(PodSetIn("default", members),))
    return JobIn(name, queue, tasks, tree=tree, **more)  # type: ignore[arg-type]


def flat(count: int, quota: float = 0.0) -> list[QueueIn]:
    parent = QueueIn("all")
    return [parent, *(QueueIn(f"q{i}", "all", created=i, quota=(quota, -1, -1)) for i in range(count))]


def allocate(size: int, jobs: int, queues: int = 1) -> Session:
    wanted = [job(f"j{i}", f"q{i % queues}", 1, created=float(i)) for i in range(jobs)]
    return Session(nodes(size), flat(queues), wanted)


def reclaim(size: int) -> Session:
    """Every GPU runs a job of a queue without quota; one job of another asks for a tenth of all."""
    queues = [
        QueueIn("all"),
        QueueIn("q0", "all", quota=(0, -1, -1)),
        QueueIn("q1", "all", 100, 1.0, (8.0 * size, -1, -1)),
    ]
    running = [job(f"r{i}", "q0", 1, node=[f"n{i // 8:05d}"], created=float(i)) for i in range(8 * size)]
    return Session(nodes(size), queues, [*running, job("large", "q1", 8, size // 10, created=1e9)])


def mixed(size: int = 1000, pending: int = 10_000, running: int = 8_000, queues: int = 200) -> Session:
    """Gangs of 1 to 16 tasks of 1 to 8 GPUs wait; half of the queues hold three quarters of the GPUs, the rest is free.

    At most 20 of the waiting groups per action search for victims in one cycle, as in the platform.
    """
    made = flat(queues, quota=8.0 * size / queues)
    jobs: list[JobIn] = []
    left, number = pending, 0
    while left > 0:
        gpu, members = SHAPES[number % len(SHAPES)]
        members = min(members, left)
        priority = 125 if number % 7 == 0 else 50
        jobs.append(job(f"p{number}", f"q{number % queues}", gpu, members, priority=priority, created=float(number)))
        left, number = left - members, number + 1
    for i in range(running):
        jobs.append(
            job(f"r{i}", f"q{i % (queues // 2)}", int(i < 6 * size), node=[f"n{i // 8 % size:05d}"], created=-1.0 - i)
        )
    return Session(nodes(size), made, jobs, settings=Settings(tries=20, scenarios=20))


def snapshot(size: int = 1000, pending: int = 10_000, running: int = 8_000, queues: int = 200) -> Snapshot:
    """The same load through the platform's own door."""
    jobs: list[Job] = []
    left, number = pending, 0
    while left > 0:
        gpu, members = SHAPES[number % len(SHAPES)]
        members = min(members, left)
        needs = tuple(Need(f"p{number}.{k}", f"t{k}", Amount(1, GIB, gpu)) for k in range(members))
        priority = 100 if number % 7 == 0 else 50
        rank = (1, float(number), str(number))
        jobs.append(Job("w", f"p{number}", needs, rank, queue=f"q{number % queues}", priority=priority))
        left, number = left - members, number + 1
    for i in range(running):
        seat = Seat(Need(f"r{i}.0", "t", Amount(1, GIB, int(i < 6 * size))), f"n{i // 8 % size:05d}")
        jobs.append(Job("w", f"r{i}", (), (1, -1.0 - i, f"r{i}"), queue=f"q{i % (queues // 2)}", seats=(seat,)))
    pools = [Queue("all"), *(Queue(f"q{i}", "all", created=i, gpu=(8.0 * size / queues, -1, 1)) for i in range(queues))]
    hosts = [Node(f"n{i:05d}", Amount(128, 1024 * GIB, 8, 1024 * GIB)) for i in range(size)]
    return Snapshot(tuple(hosts), tuple(jobs), tuple(pools))


def planning() -> float:
    """Median seconds of a plan, reasons included, by a planner that has seen the cluster before."""
    planner, seen = Planner(), snapshot()
    planner.plan(seen)
    took = []
    for _ in range(5):
        begun = time.process_time()
        planner.plan(seen)
        took.append(time.process_time() - begun)
    return statistics.median(took)


def idle(size: int = 4000, tasks: int = 140_000) -> Session:
    running = [job(f"r{i}", f"q{i % 200}", 0, node=[f"n{i % size:05d}"], created=float(i)) for i in range(tasks)]
    return Session(nodes(size), flat(200), running)


def timed(make: Callable[[], Session], actions: tuple[str, ...], times: int = 3) -> float:
    """Median seconds of a cycle on a fresh session."""
    took = []
    for _ in range(times):
        session = make()
        gc.collect()
        begun = time.process_time()
        run(session, actions)
        took.append(time.process_time() - begun)
    return statistics.median(took)


ALL = ("allocate", "consolidation", "reclaim", "preempt", "stalegangeviction")


def incremental() -> tuple[float, float, float]:
    """Seconds to build from nothing, to take one job in and out, and for a cycle with nothing to do."""
    begun = time.process_time()
    session = idle()
    built = time.process_time() - begun
    run(session)
    begun = time.process_time()
    session.remove("r7")
    session.add(job("new", "q1", 0, node=["n00007"]))
    changed = time.process_time() - begun
    begun = time.process_time()
    run(session)
    return built, changed, time.process_time() - begun


def table(row: Callable[..., None]) -> None:
    """Print every figure with `row(what, ours, budget, beside)`."""
    row("allocate 500 jobs on 100 nodes", ms(timed(lambda: allocate(100, 500), ("allocate",))), "30 ms", "KAI ~86 ms")
    row(
        "allocate 200 jobs, 50 nodes, 20 queues",
        ms(timed(lambda: allocate(50, 200, 20), ("allocate",))),
        "",
        "KAI ~35 ms",
    )
    for size in SIZES:
        budget = "400 ms" if size == 1000 else ""
        row(
            f"reclaim one large job, {size} nodes",
            ms(timed(lambda s=size: reclaim(s), ("reclaim",))),
            budget,
            f"KAI {KAI_RECLAIM[size]}",
        )
    row(
        "full cycle, 10,000 pending, 1,000 nodes, 200 queues",
        ms(timed(mixed, ALL)),
        "400 ms",
        "Ray's autoscaler 10-44 min",
    )
    row("  the same as a plan, with a reason for each that waits", ms(planning()), "400 ms")
    built, changed, cycle = incremental()
    row("4,000 nodes, 140,000 tasks: build from nothing", ms(built), "", "KAI 2.2 s")
    row("  one job out and one in, and an idle cycle", ms(changed + cycle), "100 ms", "KAI 2.4 s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row("  peak memory of the process", f"{peak:.0f} MiB")


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def curve(path: Path) -> None:
    """Draw reclaim and full cycle over the number of nodes."""
    series = {
        "reclaim one large job": [(n, timed(lambda n=n: reclaim(n), ("reclaim",), 3)) for n in SIZES],
        "full cycle, 10 pending tasks a node": [
            (n, timed(lambda n=n: mixed(n, 10 * n, 8 * n, max(2, n // 5)), ALL, 3)) for n in SIZES
        ],
    }
    path.write_text(svg(series))


def svg(series: dict[str, list[tuple[int, float]]]) -> str:
    width, height, left, low = 640, 360, 60, 310
    most = max(t for line in series.values() for _, t in line) * 1.15
    widest = max(n for line in series.values() for n, _ in line)
    colors = ("#1f6feb", "#d1242f")

    def x(n: float) -> float:
        return left + (width - left - 30) * n / widest

    def y(t: float) -> float:
        return low - (low - 30) * t / most

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<path d="M{left} 30V{low}H{width - 30}" fill="none" stroke="#57606a"/>',
    ]
    for part in range(5):
        t = most * part / 4
        out.append(f'<text x="{left - 6}" y="{y(t) + 4:.0f}" text-anchor="end">{1000 * t:.0f} ms</text>')
    for n in sorted({n for line in series.values() for n, _ in line}):
        out.append(f'<text x="{x(n):.0f}" y="{low + 18}" text-anchor="middle">{n}</text>')
    out.append(f'<text x="{(left + width) / 2:.0f}" y="{low + 38}" text-anchor="middle">nodes</text>')
    for i, (name, line) in enumerate(series.items()):
        points = " ".join(f"{x(n):.1f},{y(t):.1f}" for n, t in line)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colors[i]}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x(n):.1f}" cy="{y(t):.1f}" r="3" fill="{colors[i]}"/>' for n, t in line)
        out.append(f'<text x="{left + 12}" y="{44 + 18 * i}" fill="{colors[i]}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])
