"""`python -m osmo_ray.sim [--seed N] [--workflows N]`: one simulation, and how it went."""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from osmo_ray.sim.backend import Broken
from osmo_ray.sim.faults import NONE, Faults
from osmo_ray.sim.world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m osmo_ray.sim", description="The core under a virtual clock.")
    parser.add_argument("--seed", type=int, help="repeat this one (default: a new one)")
    parser.add_argument("--workflows", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--calm", action="store_true", help="nothing goes wrong")
    args = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if args.seed is None else args.seed
    begun = time.process_time()
    try:
        done = simulate(seed, args.workflows, NONE if args.calm else Faults(), args.nodes)
    except Broken as broken:
        print(broken, file=sys.stderr)
        print(f"repeat it: python -m osmo_ray.sim --seed {seed} --workflows {args.workflows}", file=sys.stderr)
        return 1
    took = time.process_time() - begun
    print(f"seed {seed}: {args.workflows} workflows, {done.attempts} attempts, {done.crashes} dead controllers")
    print(f"  {done.seconds:,.0f} virtual seconds in {took:.1f} s of CPU, history {done.digest}")
    print("  " + ", ".join(f"{status} {count}" for status, count in sorted(done.statuses.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
