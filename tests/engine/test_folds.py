"""Every pair of statuses, folded: tables to be read by people, so that a change of the rules shows as a change here.

One letter per status, in the order of `LETTERS`; a row is the first part's status (for a group: the lead's), a column
the second's. Small letters are alive.
"""

from __future__ import annotations

import itertools

import pytest

from osmo_ray.engine.folds import fold_group, fold_workflow
from osmo_ray.engine.model import Group, Task
from osmo_ray.engine.status import TaskStatus as S
from osmo_ray.engine.status import WorkflowStatus as W

LETTERS = {
    "s": S.SUBMITTING,
    "w": S.WAITING,
    "p": S.PROCESSING,
    "c": S.SCHEDULING,
    "i": S.INITIALIZING,
    "r": S.RUNNING,
    "a": S.RESCHEDULED,
    "C": S.COMPLETED,
    "F": S.FAILED,
    "X": S.FAILED_CANCELED,
    "S": S.FAILED_SERVER_ERROR,
    "B": S.FAILED_BACKEND_ERROR,
    "E": S.FAILED_EXEC_TIMEOUT,
    "Q": S.FAILED_QUEUE_TIMEOUT,
    "I": S.FAILED_IMAGE_PULL,
    "U": S.FAILED_UPSTREAM,
    "V": S.FAILED_EVICTED,
    "T": S.FAILED_START_ERROR,
    "O": S.FAILED_START_TIMEOUT,
    "P": S.FAILED_PREEMPTED,
}

MINDS = """
    s w p c i r a C F X S B E Q I U V T O P
    s i i i i i r i i i i i i i i i i i i i i
    w i i i i i r i i i i i i i i i i i i i i
    p i i i i i r i i i i i i i i i i i i i i
    c i i i i i r i i i i i i i i i i i i i i
    i i i i i i r i i i i i i i i i i i i i i
    r r r r r r r r r r r r r r r r r r r r r
    a i i i i i r i i i i i i i i i i i i i i
    C i i i i i r i C F F S F F F F U V F F P
    F i i i i i r i F F F S F F F F U V F F P
    X i i i i i r i F F F S F F F F U V F F P
    S i i i i i r i S S S S S S S S U S S S S
    B i i i i i r i F F F S F F F F U V F F P
    E i i i i i r i F F F S F F F F U V F F P
    Q i i i i i r i F F F S F F F F U V F F P
    I i i i i i r i F F F S F F F F U V F F P
    U i i i i i r i U U U U U U U U U U U U U
    V i i i i i r i V V V S V V V V U V V V P
    T i i i i i r i F F F S F F F F U V F F P
    O i i i i i r i F F F S F F F F U V F F P
    P i i i i i r i P P P S P P P P U P P P P
"""
"""A group that minds its members: which of the two is the lead makes no difference."""

IGNORES = """
    s w p c i r a C F X S B E Q I U V T O P
    s i i i i i r i i i i i i i i i i i i i i
    w i i i i i r i i i i i i i i i i i i i i
    p i i i i i r i i i i i i i i i i i i i i
    c i i i i i r i i i i i i i i i i i i i i
    i i i i i i r i i i i i i i i i i i i i i
    r r r r r r r r r r r r r r r r r r r r r
    a i i i i i r i i i i i i i i i i i i i i
    C i i i i i r i C C C S C C C C U C C C P
    F i i i i i r i F F F S F F F F U F F F P
    X i i i i i r i F F F S F F F F U F F F P
    S i i i i i r i S S S S S S S S U S S S S
    B i i i i i r i F F F S F F F F U F F F P
    E i i i i i r i F F F S F F F F U F F F P
    Q i i i i i r i F F F S F F F F U F F F P
    I i i i i i r i F F F S F F F F U F F F P
    U i i i i i r i U U U U U U U U U U U U U
    V i i i i i r i V V V S V V V V U V V V P
    T i i i i i r i F F F S F F F F U F F F P
    O i i i i i r i F F F S F F F F U F F F P
    P i i i i i r i P P P S P P P P U P P P P
"""
"""A group that ignores how its members ended, unless the whole group is meant."""

WHOLE = """
    s w p c i r a C F X S B E Q I U V T O P
    s p p p p p r p r p p p p p p p p p p p p
    w p p p p p r p r p p p p p p p p p p p p
    p p p p p p r p r p p p p p p p p p p p p
    c p p p p p r p r p p p p p p p p p p p p
    i p p p p p r p r p p p p p p p p p p p p
    r r r r r r r r r r r r r r r r r r r r r
    a p p p p p r C C F X S B E Q I F V T O P
    C r r r r r r C C F X S B E Q I F V T O P
    F p p p p p r F F F X S F E Q F F F F F F
    X p p p p p r X X X X X X X X X X X X X X
    S p p p p p r S S S X S S S S S S S S S S
    B p p p p p r B B F X S B E Q F B F F F F
    E p p p p p r E E E X S E E E E E E E E E
    Q p p p p p r Q Q Q X S Q E Q Q Q Q Q Q Q
    I p p p p p r I I F X S F E Q I I F F F F
    U p p p p p r F F F X S B E Q I F V T O P
    V p p p p p r V V F X S F E Q F V V F F F
    T p p p p p r T T F X S F E Q F T F T F F
    O p p p p p r O O F X S F E Q F O F F O F
    P p p p p p r P P F X S F E Q F P F F F P
"""
"""Two groups of a workflow that was PENDING."""


def table(text: str) -> dict[tuple[S, S], str]:
    head, *rows = text.strip("\n").splitlines()
    columns = head.split()
    assert columns == list(LETTERS)
    found = {}
    for row in rows:
        name, *cells = row.split()
        found.update({(LETTERS[name], LETTERS[c]): cell for c, cell in zip(columns, cells, strict=True)})
    assert set(found) == set(itertools.product(S, S))
    return found


def tasks(lead: S, member: S) -> tuple[Task, Task]:
    return Task("1" * 32, "lead", True, lead), Task("2" * 32, "member", False, member)


@pytest.mark.parametrize(("text", "ignore"), [(MINDS, False), (IGNORES, True)])
def test_a_group_from_two_tasks(text: str, ignore: bool):
    wrong = {
        pair: got
        for pair, cell in table(text).items()
        if (got := fold_group(tasks(*pair), ignore)) is not LETTERS[cell]
    }
    assert not wrong


def test_who_leads_makes_no_difference_to_a_group_that_minds():
    for one, other in itertools.combinations(S, 2):
        assert fold_group(tasks(one, other), False) is fold_group(tasks(other, one), False)


def groups(one: S, other: S) -> tuple[Group, Group]:
    return Group("a", "1" * 32, one, ()), Group("b", "2" * 32, other, ())


def test_a_workflow_from_two_groups():
    alive = {"p": W.PENDING, "r": W.RUNNING}
    for (one, other), cell in table(WHOLE).items():
        expected = alive.get(cell) or W(LETTERS[cell].value)
        assert fold_workflow(groups(one, other), W.PENDING) is expected, (one, other)
        assert fold_workflow(groups(other, one), W.PENDING) is expected, (other, one)
        if not expected.finished:
            assert fold_workflow(groups(one, other), W.RUNNING) is W.RUNNING, "never back to PENDING"
