"""The bell, and the look ahead at how images would run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosting import Begin, Host, shell

from osmo_ray.runtime import wakeup
from osmo_ray.runtime.options import Options


def test_a_bell_is_heard_with_its_key(tmp_path: Path):
    bell = wakeup.listen(tmp_path)
    try:
        assert wakeup.ring(tmp_path, "a") and wakeup.ring(tmp_path, "b")
        assert [bell.recv(256), bell.recv(256)] == [b"a", b"b"]
        with pytest.raises(BlockingIOError):
            bell.recv(256)
    finally:
        bell.close()


def test_nobody_listens(tmp_path: Path):
    assert not wakeup.ring(tmp_path, "a")
    wakeup.listen(tmp_path).close()
    assert not wakeup.ring(tmp_path, "a"), "whoever listened has gone"


def test_a_full_queue_has_woken_enough(tmp_path: Path):
    bell = wakeup.listen(tmp_path)
    try:
        for _ in range(5000):
            assert wakeup.ring(tmp_path, "a")
        assert bell.recv(256) == b"a"
    finally:
        bell.close()


def test_a_deep_folder_has_a_bell_too(tmp_path: Path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    bell = wakeup.listen(deep)
    try:
        assert wakeup.ring(deep, "a") and bell.recv(256) == b"a"
    finally:
        bell.close()


async def test_how_images_would_run(begin: Begin):
    here: Host = await begin(Options(engine="off"))
    told = await here.preview(["ubuntu:22.04", ""])
    assert set(told) == {"ubuntu:22.04", ""}
    assert "not in ubuntu:22.04" in told["ubuntu:22.04"] and "not in an image" in told[""]
    assert all(text.split(":")[0] == here.report().sandbox.split(":")[0].split()[0] for text in told.values())


async def test_an_attempt_asked_of_a_zygote_that_died_is_begun_by_the_next(any_host: Host):
    first = shell("true")
    assert (await any_host.run(first)).exit_code == 0
    any_host.helpers.renew_zygote()  # the socket that was open leads nowhere now
    second = shell("true")
    assert (await any_host.run(second)).exit_code == 0
