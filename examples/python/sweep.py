"""A sweep in Python: make data, fit it several times, keep the best.

    osmo run examples/python/sweep.py --points 500
    osmo spec examples/python/sweep.py

and, in a test, without any platform: `sweep.local(points=100)`.
"""

from __future__ import annotations

import random
from pathlib import Path

import osmo_ray as osmo


@osmo.task(cpu=1, memory="256Mi")
def make_data(points: int, seed: int = 7) -> Path:
    """A line with noise, as a folder with one file."""
    dice = random.Random(seed)
    folder = osmo.output()
    rows = [f"{x / points},{3 * x / points + 1 + dice.gauss(0, 0.1)}" for x in range(points)]
    (folder / "points.csv").write_text("\n".join(rows) + "\n")
    return folder


@osmo.task(memory="256Mi", retries=1)
def fit(rate: float, data: Path) -> dict[str, float]:
    """Gradient descent on a line."""
    rows = [tuple(map(float, line.split(","))) for line in (data / "points.csv").read_text().splitlines()]
    slope = shift = 0.0
    for _ in range(300):
        wrong = [(x, slope * x + shift - y) for x, y in rows]
        slope -= rate * sum(x * e for x, e in wrong) / len(rows)
        shift -= rate * sum(e for _, e in wrong) / len(rows)
    loss = sum((slope * x + shift - y) ** 2 for x, y in rows) / len(rows)
    print(f"rate {rate}: slope {slope:.3f}, shift {shift:.3f}, loss {loss:.5f}")
    return {"rate": rate, "slope": slope, "loss": loss}


@osmo.task(memory="256Mi")
def best(fits: list[dict[str, float]]) -> dict[str, float]:
    """The fit with the smallest loss."""
    return min(fits, key=lambda one: one["loss"])


@osmo.workflow
def sweep(points: int = 200, rates: list[float] = [1.0, 0.3, 0.1]):  # noqa: B006
    data = make_data(points)
    return best(fit.map(rates, data=data))
