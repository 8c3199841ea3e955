"""`make bench`: what the platform costs, beside references measured in the same run.

    python -m bench [SECTION ...]
    sections: store control rate start memory help api logs scheduler datasets

Each figure is the median of several; CPU is the control plane's own. These are measurements, not tests: nothing here
passes or fails. docs/performance.md holds a run's output and says on what machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import references, scheduler
from bench.platform import Bench, platform, pss_of, read

ROOT = Path(__file__).resolve().parents[1]
SMALL = "  resources:\n    default: {cpu: 1, memory: 64Mi, storage: 1Mi}\n"


def row(what: str, ours: str, budget: str = "", reference: str = "") -> None:
    print(f"{what:<52} {ours:>16}   {budget:>12}   {reference}", flush=True)


def flat(name: str, count: int, command: str = "/bin/true") -> str:
    """`count` independent tasks."""
    tasks = "".join(f"  - {{name: t{i}, image: ubuntu, command: [{command}]}}\n" for i in range(count))
    return f"workflow:\n  name: {name}\n{SMALL}  tasks:\n{tasks}"


def chain(name: str, count: int, command: str = "/bin/true") -> str:
    """Tasks in a row, each reading the output of the one before."""
    text = f"workflow:\n  name: {name}\n{SMALL}  tasks:\n"
    for i in range(count):
        inputs = f", inputs: [{{task: t{i - 1}}}]" if i else ""
        text += f"  - {{name: t{i}, image: ubuntu, command: [{command}]{inputs}}}\n"
    return text


def spent(bench: Bench, text: str, idle: float = 0.0) -> tuple[float, float]:
    """CPU of the control plane (ms, above `idle` ms each second) and wall time (s) of one workflow."""
    cpu, begun = bench.cpu(), time.monotonic()
    status = bench.wait(bench.submit(text))
    if status != "COMPLETED":
        raise RuntimeError(f"ended {status}")
    took = time.monotonic() - begun
    return bench.cpu() - cpu - idle * took, took


def resting(bench: Bench, seconds: float = 15.0) -> float:
    """Milliseconds of CPU each second while nothing happens, Ray's part of these processes included."""
    time.sleep(2)
    cpu = bench.cpu()
    time.sleep(seconds)
    return (bench.cpu() - cpu) / seconds


def median(times: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(times))


def control() -> None:
    raw = references.ray_tasks()
    with platform(cpu="16") as bench:
        spent(bench, flat("warm", 20))
        idle = resting(bench)
        row("control CPU each second, idle", f"{idle:.0f} ms", "", "taken off from the lines below")
        fan = median(3, lambda: spent(bench, flat("fan", 500), idle)[0] / 500)
        row("control CPU per no-op task, fan-out of 500", f"{fan:.1f} ms", "2.5 ms", f"raw Ray task {raw[0]:.1f} ms")
        line = median(3, lambda: spent(bench, chain("chain", 50), idle)[0] / 50)
        row("control CPU per no-op task, chain of 50", f"{line:.1f} ms", "4 ms", f"raw Ray task {raw[1]:.1f} ms")
        cpu, begun = bench.cpu(), time.monotonic()
        for id in [bench.submit(chain("small", 3)) for _ in range(100)]:
            bench.wait(id)
        took = time.monotonic() - begun
        each = (bench.cpu() - cpu - idle * took) / 100
        row("control CPU per three-task workflow (100 of them)", f"{each:.0f} ms", "20 ms", f"all in {took:.1f} s")


def rate() -> None:
    plain = references.subprocesses()
    with platform(cpu="16", sandbox="none") as bench:
        spent(bench, flat("warm", 50))
        bare = median(3, lambda: 300 / spent(bench, flat("bare", 300))[1])
        row("process tasks per second, bare", f"{bare:.0f}", "60", f"plain subprocess {plain:.0f}")
    with platform(cpu="16") as bench:
        spent(bench, flat("warm", 50))
        text = "sh, -c, 'echo x > {{output}}/x'"
        boxed = median(3, lambda: 200 / spent(bench, flat("boxed", 200, text))[1])
        row("process tasks per second, sandbox, output kept", f"{boxed:.0f}", "30")


def start() -> None:
    with platform() as bench:
        spent(bench, flat("warm", 5))
        stamp = bench.home / "stamp"

        def once() -> float:
            begun = time.time()
            id = bench.submit(flat("first", 1, "date, '+%s.%N'"))
            bench.wait(id)
            log = references.text(f"{bench.url}/api/workflow/{id}/logs")
            told = next(line.split("] ")[1] for line in log.splitlines() if "[t0] " in line)
            return (float(told) - begun) * 1000

        took = median(15, once)
        row("submit to the user's first instruction, warm", f"{took:.0f} ms", "150 ms", references.spawn())
        stamp.unlink(missing_ok=True)


def memory() -> None:
    """Beyond Ray's own processes, as many empty workers, and an empty replica."""
    worker, replica = references.empty_worker_and_replica()
    with platform() as bench:
        spent(bench, flat("warm", 5))
        time.sleep(20)
        ours = {m: sum(map(pss_of, bench.pids((m,)))) for m in ("ray::ControllerActor", "ray::NodeAgent")}
        api = sum(map(pss_of, bench.pids(("ray::ServeReplica",))))
        others = [p for p in bench.pids((sys.executable,)) if b"osmo_ray" in Path(f"/proc/{p}/cmdline").read_bytes()]
        small = sum(map(pss_of, others))
        beyond = sum(ours.values()) - 2 * worker + api - replica + small
        told = f"controller {ours['ray::ControllerActor']:.0f}, agent {ours['ray::NodeAgent']:.0f}, API {api:.0f}, "
        told += f"keeper and zygote {small:.0f}; an empty worker {worker:.0f}, an empty replica {replica:.0f} MiB"
        row("idle control plane beyond Ray's own (PSS)", f"{beyond:.0f} MiB", "150 MB", told)
    attempts()


def attempts(count: int = 20) -> None:
    """What stays in memory beside each running command: its supervisor, and the init of its namespaces."""
    with platform(cpu=str(count)) as bench:

        def ours() -> float:
            found = [p for p in bench.pids((sys.executable,)) if b"osmo_ray" in read(f"/proc/{p}/cmdline")]
            return sum(map(pss_of, found))

        spent(bench, flat("warm", 5))
        before = ours()
        id = bench.submit(flat("sleepers", count, "sleep, '60'"))
        time.sleep(15)
        row("memory beside a running command (PSS)", f"{(ours() - before) / count:.1f} MiB", "", f"{count} at once")
        bench.call("POST", f"/api/workflow/{id}/cancel")


def help_text() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", "from osmo_ray.program import main; main()", "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000

    row("osmo --help, CPU", f"{median(11, once):.0f} ms", "150 ms", f"python -c pass {references.python():.0f} ms")


def api() -> None:
    with platform() as bench:
        for n in range(20):
            bench.submit(flat(f"list{n}", 1))
        path = "/api/workflow?all_users=true&limit=20"
        p50, per_second = references.load(bench.url + path)
        row(
            "GET a list of 20 workflows under Serve", f"p50 {p50:.1f} ms", "", f"{per_second:.0f}/s with 32 connections"
        )
        p50, per_second = references.under_uvicorn(bench.home, path)
        row("  the same under uvicorn", f"p50 {p50:.1f} ms", "", f"{per_second:.0f}/s with 32 connections")


def logs() -> None:
    with platform() as bench:
        lines = 500_000
        text = f"sh, -c, \"seq -f 'line %.0f of a log that a task writes' {lines}\""
        cpu, seconds = spent(bench, flat("loud", 1, text))
        id = bench.call("GET", "/api/workflow?name=loud&all_users=true&limit=1")["workflows"][0]["name"]
        kept = sum(1 for line in references.lines(f"{bench.url}/api/workflow/{id}/logs") if b"[t0] line " in line)
        row(
            f"log lines kept of {lines} in one task",
            f"{kept}",
            "all",
            f"{lines / seconds:.0f} lines/s, CPU {cpu:.0f} ms",
        )


def store() -> None:
    subprocess.run([sys.executable, str(ROOT / "bench/bench_store.py")], check=True, cwd=ROOT)


def scheduling() -> None:
    scheduler.table(row)


def datasets() -> None:
    subprocess.run([sys.executable, "-m", "bench.datasets"], check=True, cwd=ROOT)


SECTIONS: dict[str, Callable[[], None]] = {
    "help": help_text,
    "control": control,
    "rate": rate,
    "start": start,
    "memory": memory,
    "api": api,
    "logs": logs,
    "store": store,
    "scheduler": scheduling,
    "datasets": datasets,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args(argv).sections or list(SECTIONS)
    print(f"{'what':<52} {'osmo-ray':>16}   {'budget':>12}   beside it")
    for name in chosen:
        SECTIONS[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
