"""What the keeper does about what it sees. The head, the programs it starts and the API are played; that real ones come
back is tests/e2e/test_crash.py."""

from __future__ import annotations

import fcntl
import io
import json
import os
import urllib.error
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.platform import head, keeper
from osmo_ray.platform.files import Process
from osmo_ray.platform.keeper import MISSING, READY, WAITING, Keeper
from osmo_ray.settings import Settings


class Played(Keeper):
    """Looks come from a script; what is done is written down. The script's end stops it."""

    def __init__(self, home: Path, looks: list[str | bool]) -> None:
        super().__init__(Settings(home=home))
        self.looks: Iterator[str | bool] = iter(looks)
        self.done: list[str] = []
        self.helper_fails = 0

    def _look(self) -> str:
        try:
            seen = next(self.looks)
        except StopIteration:
            self.stopped.set()
            return READY
        if seen is False:  # the head dies just before this look
            self.state = keeper.replace(self.state, head=Process(0, 0))
            return MISSING
        return str(seen)

    def _helper(self, module: str, *args: str) -> None:
        self.done.append(module.rpartition(".")[2])
        if self.helper_fails and module.endswith("bring_up"):
            self.helper_fails -= 1
            raise RuntimeError("cannot bring it up")


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Starts and stops of the head, which is this very process as far as the keeper can tell."""
    calls: list[str] = []

    def start(*args: Any) -> head.Head:
        calls.append("start")
        return head.Head(Process.of(os.getpid()), "127.0.0.1:1", "http://127.0.0.1:2", "here")

    monkeypatch.setattr(head, "start", start)
    monkeypatch.setattr(head, "stop", lambda *args: calls.append("stop"))
    monkeypatch.setattr(keeper, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(keeper, "RESTART_PAUSE", 0.0)
    return calls


def test_what_is_up_is_left_alone(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [READY] * 5)
    assert one.run() == 0
    assert one.done == ["prepare", "bring_up"] and heads == ["start", "stop"]
    assert one.files.state().phase == "stopped"


def test_one_bad_look_is_not_enough(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [READY, MISSING, MISSING, READY, MISSING, MISSING, READY])
    one.run()
    assert one.done.count("bring_up") == 1 and heads.count("start") == 1


def test_missing_parts_are_brought_up_and_ray_stays(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [READY, MISSING, MISSING, MISSING, READY])
    one.run()
    assert one.done.count("bring_up") == 2 and heads.count("start") == 1


def test_a_database_that_is_away_is_waited_for(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [READY, *[WAITING] * 20, READY])
    one.run()
    assert one.done.count("bring_up") == 1 and heads.count("start") == 1


def test_parts_that_stay_away_make_a_new_head(tmp_path: Path, heads: list[str]):
    """Nine looks are three times bringing up in vain; the next three end Ray's patience."""
    one = Played(tmp_path, [READY, *[MISSING] * 12, READY])
    one.run()
    assert one.done.count("bring_up") == 1 + 3 + 1 and heads[:3] == ["start", "stop", "start"]


def test_parts_that_cannot_be_brought_up_make_a_new_head(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [READY, MISSING, MISSING, MISSING, READY])
    one.helper_fails = 0
    first = one._helper

    def helper(module: str, *args: str) -> None:
        if module.endswith("bring_up") and one.done.count("bring_up") == 1:
            one.helper_fails = 1
        first(module, *args)

    one._helper = helper  # type: ignore[method-assign]
    one.run()
    assert heads[:3] == ["start", "stop", "start"]


def test_a_dead_head_is_replaced_at_once(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [READY, False, READY, READY])
    one.run()
    assert heads[:3] == ["start", "stop", "start"] and one.done.count("bring_up") == 2


def test_a_head_that_does_not_come_back_is_tried_again(
    tmp_path: Path, heads: list[str], monkeypatch: pytest.MonkeyPatch
):
    good, fails = head.start, iter([False, True, True, False])

    def start(*args: Any) -> head.Head:
        made = good(*args)
        if next(fails):
            raise head.HeadError("no port is free")
        return made

    monkeypatch.setattr(head, "start", start)
    one = Played(tmp_path, [READY, False, MISSING, MISSING, READY, READY])
    assert one.run() == 0
    assert heads.count("start") == 4, "the first, two that failed, and one that stands"


def test_a_platform_that_was_never_up_is_given_up_and_says_why(
    tmp_path: Path, heads: list[str], monkeypatch: pytest.MonkeyPatch
):
    def start(*args: Any) -> head.Head:
        raise head.HeadError("Ray ended with code 1 while starting")

    monkeypatch.setattr(head, "start", start)
    one = Played(tmp_path, [READY])
    assert one.run() == 1
    assert "Ray ended with code 1" in one.files.state().phase


def test_a_home_has_one_keeper(tmp_path: Path, heads: list[str]):
    one = Played(tmp_path, [])
    one.files.prepare()
    with one.files.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert one.run() == 1
    assert heads == []


@pytest.mark.parametrize(
    ("parts", "seen"),
    [
        ({"controller": {"leading": False}}, WAITING),
        ({"controller": {"leading": True}, "database": "away"}, WAITING),
        ({"controller": {"text": "does not answer"}}, MISSING),
        ({"controller": {}}, MISSING),
    ],
)
def test_an_answer_that_is_not_ready(parts: dict[str, Any], seen: str):
    body = io.BytesIO(json.dumps({"ready": False, "parts": parts}).encode())
    assert keeper._judge(urllib.error.HTTPError("http://x/ready", 503, "", Message(), body)) == seen


def test_an_answer_of_somebody_else_is_nothing():
    body = io.BytesIO(b"<html>Bad gateway</html>")
    assert keeper._judge(urllib.error.HTTPError("http://x/ready", 502, "", Message(), body)) == MISSING


def test_sweep_keeps_the_newest_sessions(tmp_path: Path):
    names = [f"session_2026-11-0{day}_10-00-00_000000_{day}" for day in range(1, 6)]
    for name in names:
        (tmp_path / name / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(tmp_path / names[-1])
    (tmp_path / "other").mkdir()
    head.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", names[3], names[4], "session_latest"]
    head.sweep(tmp_path / "never made")
