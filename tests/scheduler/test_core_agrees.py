"""The core and the plain scheduler, which share no code, decide the same on random clusters."""

from __future__ import annotations

import copy

import plain_cluster
import plain_scheduler as plain
from hypothesis import HealthCheck, given, settings

from clusters import session, states, worlds
from osmo_ray.scheduler.core.cycle import run

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(worlds())
def test_the_fair_shares_are_the_same(w):
    s = session(w)
    s.share()
    plain_cluster.shares(w)
    for name, q in w.queues.items():
        got = s.queues[name].fair
        assert [got[0] / 1e6, got[1], got[2]] == q.fair, name


@quick
@given(worlds())
def test_allocation_is_the_same(w):
    s = session(w)
    run(s, ["allocate"])
    plain_cluster.shares(w)
    assert states(s) == plain.allocate(w).states()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_each_taking_action_is_the_same(w):
    plain_cluster.shares(w)
    for name, action in (("consolidation", plain.consolidate), ("reclaim", plain.reclaim), ("preempt", plain.preempt)):
        s = session(w)
        run(s, [name])
        assert states(s) == action(copy.deepcopy(w)).states(), name


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_a_whole_cycle_is_the_same(w):
    s = session(w)
    run(s)
    assert states(s) == plain.cycle(w).states()
