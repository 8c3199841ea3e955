"""Mounts of the host that come and go (a container's, for example) never keep a task from starting."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hosting import Begin, shell

from osmo_ray.runtime import syscalls


@pytest.mark.root
async def test_a_mount_that_went_away_is_an_empty_folder(begin: Begin) -> None:
    place = Path(tempfile.mkdtemp(prefix="osmo-test-", dir="/var/lib"))
    try:
        syscalls.mount("tmpfs", str(place), "tmpfs")
        try:
            (place / "seen").write_text("as long as it is mounted")
            host = await begin()
            before = shell(f"cat {place}/seen")
            assert (await host.run(before)).exit_code == 0
        finally:
            syscalls.umount(str(place))
        assert (await host.run(shell(f"ls {place}; test ! -e {place}/seen"))).exit_code == 0
        place.rmdir()
        assert (await host.run(shell(f"test ! -e {place}"))).exit_code == 0
    finally:
        if place.exists():
            place.rmdir()
