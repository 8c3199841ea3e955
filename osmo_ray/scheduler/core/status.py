"""States of a task, and the sets of them that the rules speak of, as tables indexed by state.

Plain integers rather than an enumeration: a cycle looks these up a hundred thousand times.
"""

from __future__ import annotations

PENDING, GATED, ALLOCATED, PIPELINED, BINDING, BOUND, RUNNING, RELEASING, SUCCEEDED, FAILED = range(10)

NAMES = (
    "Pending",
    "Gated",
    "Allocated",
    "Pipelined",
    "Binding",
    "Bound",
    "Running",
    "Releasing",
    "Succeeded",
    "Failed",
)

HOLDS = tuple(s in {ALLOCATED, BINDING, BOUND, RUNNING, RELEASING} for s in range(10))
"""Sits on its node now."""
STAYS = tuple(s in {ALLOCATED, PIPELINED, BINDING, BOUND, RUNNING} for s in range(10))
"""Active and not on its way out: counts for its gang, can be a victim."""
USES = tuple(STAYS[s] or s == RELEASING for s in range(10))
ALIVE = tuple(STAYS[s] or s in {PENDING, GATED} for s in range(10))
REALLY = tuple(s in {ALLOCATED, BINDING, BOUND, RUNNING} for s in range(10))
"""Counts against the quota when a cycle begins."""
