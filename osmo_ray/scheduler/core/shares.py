"""Fair shares: what each queue may hold of one resource when all ask at once.

Quotas first, whatever they add up to; then what is left by priority and weight, in whole units; then the cut-off
fractions, one unit each. Siblings share what their parent was given, level by level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

UNLIMITED = -1.0


@dataclass(slots=True)
class Claimant:
    """One queue among its siblings, for one resource; amounts in the resource's own unit."""

    name: str
    priority: int
    created: float
    quota: float
    limit: float
    weight: float
    request: float
    usage: float = 0.0
    share: float = 0.0
    cut: float = field(default=0.0)

    @property
    def wants(self) -> float:
        """What it could take: its request, within its limit."""
        return self.request if self.limit == UNLIMITED else min(self.limit, self.request)


def divide(total: float, siblings: Sequence[Claimant], usage_factor: float = 1.0) -> float:
    """Set every sibling's `share`; return what nobody got."""
    return divide_over_quota(give_quota(total, siblings), siblings, usage_factor)


def give_quota(total: float, siblings: Sequence[Claimant]) -> float:
    """Hand out the quotas; the rest may be negative, since quotas are honoured in full."""
    left = total
    for one in siblings:
        deserved = total if one.quota == UNLIMITED else one.quota
        one.share = min(deserved, one.wants)
        left -= one.share
    return left


def divide_over_quota(left: float, siblings: Sequence[Claimant], usage_factor: float = 1.0) -> float:
    """Hand out what the quotas left: by priority, then weight, then the cut-off fractions."""
    if left <= 0:
        return 0.0
    groups = [[s for s in siblings if s.priority == p] for p in sorted({s.priority for s in siblings}, reverse=True)]
    for group in groups:
        left = _by_weight(left, group, usage_factor)
    for group in groups:
        left = _remainders(left, group)
    return left


def _by_weight(left: float, group: Sequence[Claimant], usage_factor: float) -> float:
    again = True
    while again and left > 0:
        hungry = [s for s in group if s.weight > 0 and s.wants > s.share]
        weights = _weights(hungry, usage_factor)
        if not weights:
            break
        again, available = False, left
        for one, weight in zip(hungry, weights, strict=True):
            given, sated = _slice(one, available * weight)
            again = again or sated
            one.share += given
            left -= given
    return left


def _weights(hungry: Sequence[Claimant], usage_factor: float) -> list[float]:
    """Parts of one; empty when nobody may take."""
    whole = sum(s.weight for s in hungry)
    if whole <= 0:
        return []
    raw = [max(0.0, s.weight / whole + usage_factor * (s.weight / whole - s.usage)) for s in hungry]
    if not any(s.usage for s in hungry):
        raw = [s.weight for s in hungry]
    total = sum(raw)
    return [r / total for r in raw] if total > 0 else []


def _slice(one: Claimant, offered: float) -> tuple[float, bool]:
    """What one takes of an offer, and whether it wanted less."""
    missing = one.wants - one.share
    if missing <= offered + 1e-9:
        one.cut = 0.0
        return missing, missing < offered - 1e-9
    given = math.floor(offered + 1e-9)
    one.cut = max(0.0, offered - given)
    return given, False


def _remainders(left: float, group: Sequence[Claimant]) -> float:
    for one in sorted((s for s in group if s.cut > 1e-9), key=lambda s: (-s.cut, s.created, s.name)):
        if left <= 0:
            break
        given = min(1.0, left)
        one.share += given
        left -= given
    return left
