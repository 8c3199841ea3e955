"""What may go wrong in a simulation, and how often. All chances are per step or per thing, all times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """A world's bad luck. `NONE` is a world without any."""

    controller: float = 0.01
    """Chance, at each of several points of a controller's step, that it dies there."""
    node: float = 0.0005
    """Chance per node and step that it goes down, with all that runs on it."""
    refused: float = 0.02
    """Chance that a node cannot take a group's plan now."""
    doubled: float = 0.05
    """Chance that an observation is told again later."""
    late: float = 0.05
    """Chance that an observation waits for a later step, behind newer ones."""
    failed: float = 0.08
    """Chance that a command ends with another code than 0."""
    preempted: float = 0.001
    """Chance per step that one running group has to give way."""
    canceled: float = 0.01
    """Chance per workflow that somebody cancels it."""


NONE = Faults(*(0.0,) * 8)
