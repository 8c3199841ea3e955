"""The production core under a virtual clock. `OSMO_SIM_WORKFLOWS=10000` makes one large world of the first test."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from osmo_ray.control import schedule
from osmo_ray.engine import draft
from osmo_ray.engine.model import DeleteGroup
from osmo_ray.scheduler.model import Amount, Snapshot
from osmo_ray.sim.backend import Broken
from osmo_ray.sim.faults import NONE, Faults
from osmo_ray.sim.world import simulate

WORKFLOWS = int(os.environ.get("OSMO_SIM_WORKFLOWS", "400"))
ROUGH = Faults(
    controller=0.05, node=0.004, refused=0.2, doubled=0.3, late=0.3, failed=0.2, preempted=0.05, canceled=0.1
)


def test_a_large_world_ends_well():
    done = simulate(20_000, WORKFLOWS)
    assert sum(done.statuses.values()) == WORKFLOWS and done.crashes
    assert {"COMPLETED", "FAILED"} <= set(done.statuses)


@pytest.mark.parametrize("seed", range(6))
def test_a_rough_world_keeps_the_laws(seed: int):
    done = simulate(seed, 80, ROUGH, nodes=4)
    assert sum(done.statuses.values()) == 80


def test_in_a_calm_world_only_exit_actions_fail_anything():
    done = simulate(5, 150, NONE, nodes=40)
    assert done.crashes == 0 and set(done.statuses) == {"COMPLETED", "FAILED"}
    assert done.statuses["COMPLETED"] > done.statuses["FAILED"]


def test_a_seed_is_a_history_in_every_process():
    code = "from osmo_ray.sim.world import simulate; print(simulate(9, 60).digest)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hashing},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashing in ("1", "2")
    }
    assert len(found) == 1 and found == {simulate(9, 60).digest + "\n"} and simulate(10, 60).digest + "\n" not in found


# -- it finds what is broken on purpose


def test_it_finds_places_given_away_twice(monkeypatch: pytest.MonkeyPatch):
    real, calls = schedule.Scheduling.take, itertools.count()

    def forgetful(*args: object) -> Snapshot:
        """Every other time that places are given away it does not know what is used (the call before is the check)."""
        found = real(*args)  # type: ignore[arg-type]
        if next(calls) % 4 != 1:
            return found
        return Snapshot(tuple(replace(n, used=Amount()) for n in found.nodes), found.jobs)

    monkeypatch.setattr(schedule.Scheduling, "take", forgetful)
    with pytest.raises(Broken, match=r"seed 3, second [\d.]+: Broken: n\d+ has given away more than it has"):
        simulate(3, 300, NONE, nodes=2)


def test_it_finds_a_move_that_the_table_forbids(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(draft, "may_move", lambda old, new: True)
    with pytest.raises(Broken, match="seed 3, "):
        simulate(3, 200, ROUGH)


def test_it_finds_work_that_nobody_ends(monkeypatch: pytest.MonkeyPatch):
    real = draft.Draft.command
    kept = lambda self, c: None if isinstance(c, DeleteGroup) else real(self, c)  # noqa: E731
    monkeypatch.setattr(draft.Draft, "command", kept)
    with pytest.raises(Broken, match="goes on after the end of its workflow"):
        simulate(3, 200, ROUGH)
