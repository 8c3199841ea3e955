"""Datasets that a task mounts instead of downloading: by a real kernel, and whatever dies meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosting import Begin, Host, again, shell, wait_for
from test_container import image  # noqa: F401 - a fixture

from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.runtime import Options, mounts
from osmo_ray.runtime.codec import Job
from osmo_ray.spec.attempt import AttemptPlan, DatasetPlan, InputPlan, Phase

real = [pytest.mark.root, pytest.mark.servers]
"""For tests that mount: `make test-servers`."""


def bucket(folder: Path) -> Bucket:
    return open_bucket(open_store(f"{(folder / 'store').as_uri()}/buckets/default"))


@pytest.fixture
def made(folder: Path) -> Path:
    """Version 1 of `d`: small files and a large one."""
    source = folder / "in"
    (source / "sub").mkdir(parents=True)
    (source / "small.txt").write_text("small\n")
    (source / "sub" / "other.bin").write_bytes(b"other" * 1000)
    (source / "large").write_bytes(os.urandom(12 << 20))
    Dataset(bucket(folder), "d", create=True).upload([source])
    return source


def mounting(regex: str = "") -> InputPlan:
    place = DatasetPlan("default", "buckets/default", "d", 1)
    return InputPlan("dataset", "d", "d", regex, (place,), mount=True)


def reads(script: str, **more: object) -> AttemptPlan:
    return shell(script, inputs=(mounting(),), **more)


async def whole_log(host: Host, plan: AttemptPlan) -> str:
    return (await host.logs(plan.key, 0, 1 << 20, 0)).data.decode()


def mounted(folder: Path) -> list[str]:
    """What is mounted below a folder on this host."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split(" ")[4].startswith(f"{folder}/")]


def server_of(host: Host, plan: AttemptPlan) -> int:
    """The process that serves the mount of an attempt."""
    supervisor = host.supervisor(plan.key).pid
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text() == "osmo-mount\n":
            return int(pid)
    raise AssertionError("no process serves a mount")


@pytest.mark.parametrize(
    ("job", "part"), [({"mode": "pod"}, "a pod"), ({"mode": "container", "engine": "docker"}, "root's podman only")]
)
def test_where_nothing_can_be_mounted_it_says_why(job: dict[str, str], part: str) -> None:
    assert part in mounts.refused(Job(shell("true"), **job))  # type: ignore[arg-type]


async def test_what_cannot_be_mounted_is_downloaded(
    begin: Begin, folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "without").mkdir()
    (folder / "without" / "mfusepy.py").write_text("raise ImportError('not on this host')")
    monkeypatch.syspath_prepend(str(folder / "without"))
    host = await begin()
    one = reads("cat {{input:0}}/d/small.txt")
    assert (await host.run(one)).exit_code == 0
    assert await host.text(one.key) == "small"
    log = await whole_log(host, one)
    assert "default/d:1 cannot be mounted, so it is downloaded: " in log and "3 files" in log


class TestMounted:
    pytestmark = real

    async def test_only_what_is_read_is_fetched(self, any_host: Host, folder: Path, made: Path) -> None:
        one = reads(
            "cat {{input:0}}/d/small.txt; echo x > {{input:0}}/d/new; ls {{input:0}}/d; stat -c %s {{input:0}}/d/large"
        )
        assert (await any_host.run(one)).exit_code == 0
        assert (await any_host.text(one.key)).splitlines()[0] == "small"
        assert (await any_host.text(one.key)).splitlines()[-4:] == ["large", "small.txt", "sub", str(12 << 20)]
        log = await whole_log(any_host, one)
        assert "mounted in" in log and "Read-only file system" in log and "): 6 B of it fetched" in log
        assert mounted(folder) == []

    async def test_a_large_file_is_the_same_and_the_next_task_fetches_nothing(
        self, host: Host, folder: Path, made: Path
    ) -> None:
        for fetched in ("12.0 MiB", "0 B"):
            one = reads("cat {{input:0}}/d/large > {{output}}/x; tail -c 100 {{input:0}}/d/large | cksum")
            assert (await host.run(one)).exit_code == 0, await whole_log(host, one)
            want = subprocess.run(["cksum"], input=made.joinpath("large").read_bytes()[-100:], capture_output=True)
            assert await host.text(one.key) == want.stdout.decode().strip()
            assert f"): {fetched} of it fetched" in await whole_log(host, one)

    async def test_a_regex_chooses(self, host: Host, made: Path) -> None:
        one = shell("cd {{input:0}}/d && find . -type f", inputs=(mounting(r"sub/.*"),))
        assert (await host.run(one)).exit_code == 0
        assert await host.text(one.key) == "./sub/other.bin"

    async def test_a_user_of_the_task_reads_it_too(self, sandboxed: Host, made: Path) -> None:
        one = reads("setpriv --reuid 1234 --regid 1234 --clear-groups cat {{input:0}}/d/small.txt")
        assert (await sandboxed.run(one)).exit_code == 0
        assert await sandboxed.text(one.key) == "small"

    async def test_its_process_dies_and_the_task_is_ended_with_a_reason(
        self, any_host: Host, folder: Path, made: Path
    ) -> None:
        one = reads("echo up; while cat {{input:0}}/d/sub/other.bin > /dev/null || true; do sleep 0.05; done")
        await any_host.apply(1, [one])
        await any_host.says(one.key, "up")
        os.kill(server_of(any_host, one), signal.SIGKILL)
        end = await any_host.end(one.key)
        assert end.reason is not None
        assert (end.phase, end.exit_code, end.reason.code) == (Phase.FINISHED, 2010, "MountDied")
        assert mounted(folder) == []

    async def test_the_supervisor_dies_and_nothing_stays_mounted(
        self, any_host: Host, folder: Path, made: Path
    ) -> None:
        one = reads("echo up; sleep 1000")
        await any_host.apply(1, [one])
        await any_host.says(one.key, "up")
        supervisor, server = any_host.supervisor(one.key).pid, server_of(any_host, one)
        os.kill(server, signal.SIGSTOP)  # it cannot even take its own mount away
        os.kill(supervisor, signal.SIGKILL)
        os.kill(server, signal.SIGKILL)
        assert (await any_host.end(one.key)).phase is Phase.LOST
        assert mounted(folder) == []

    async def test_a_store_that_hangs_holds_no_order_up(self, any_host: Host, folder: Path, made: Path) -> None:
        one = reads("trap '' TERM; echo up; read go < {{output}}/go; echo reading; cat {{input:0}}/d/large > /dev/null")
        await any_host.apply(1, [again(one, argv=("sh", "-c", f"mkfifo {{{{output}}}}/go; {one.argv[2]}"))])
        await any_host.says(one.key, "up")
        for pack in (folder / "store/buckets/default/packs").rglob("*"):
            if pack.is_file():
                pack.unlink()
                os.mkfifo(pack)  # whoever opens it waits
        output = any_host.spool.folder(one.key).data_out
        await wait_for(lambda: (output / "go").exists(), "no pipe")
        (output / "go").write_text("go\n")
        await any_host.says(one.key, "reading")
        await any_host.delete(1, [one.group_uuid], 0.1)
        begun = time.monotonic()
        assert (await any_host.end(one.key)).phase is Phase.LOST
        assert mounted(folder) == []
        assert time.monotonic() - begun < 30, "the order waited for the store"

    async def test_wrong_bytes_are_an_error_that_is_told(self, host: Host, folder: Path, made: Path) -> None:
        for pack in (folder / "store/buckets/default/packs").rglob("*"):
            if pack.is_file():
                data = pack.read_bytes()
                half = len(data) // 2
                pack.chmod(0o600)
                pack.write_bytes(bytes(byte ^ 1 for byte in data[:half]) + data[half:])
        one = reads("cat {{input:0}}/d/large > /dev/null")
        end = await host.run(one)
        assert end.exit_code == 1
        log = await whole_log(host, one)
        assert "Input/output error" in log and "large cannot be read: " in log and "is damaged" in log

    async def test_restarted_in_place_it_is_there_again(self, any_host: Host, made: Path) -> None:
        one = reads("cat {{input:0}}/d/small.txt; [ -e {{output}}/x ] || { touch {{output}}/x; echo up; sleep 1000; }")
        await any_host.apply(1, [one])
        await any_host.says(one.key, "up")
        await any_host.apply(1, [again(one, restart=1)])
        assert (await any_host.end(one.key)).exit_code == 0
        assert (await any_host.text(one.key)).splitlines() == ["small", "up", "small"]

    async def test_what_is_gone_fails_as_a_download_does(self, host: Host, made: Path) -> None:
        place = DatasetPlan("default", "buckets/default", "d", 7)
        end = await host.run(shell("true", inputs=(InputPlan("dataset", "d:7", datasets=(place,), mount=True),)))
        assert end.exit_code == 2010 and end.reason is not None and "has no version 7" in end.reason.sentence

    async def test_as_an_ordinary_user(self, folder: Path, made: Path) -> None:
        python = next(
            (
                p
                for p in (sys.executable, "/usr/bin/python3")
                if shutil.which(p) and _nobody([p, "-c", ""]).returncode == 0
            ),
            None,
        )
        if python is None or _nobody(["unshare", "-Urn", "true"]).returncode:
            pytest.skip("another user of this machine may not start this Python, or no user namespaces")
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, 65534, 65534)
        path = os.pathsep.join([str(Path(__file__).parent), *(p for p in sys.path if p)])
        done = _nobody([f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", python, "-c", _PROGRAM, str(folder)])
        assert done.stderr.decode() == ""
        assert done.stdout.decode() == "0 small\n"
        assert mounted(folder) == []


def _nobody(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    line = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "HOME=/nonexistent", *argv]
    return subprocess.run(line, capture_output=True, check=False, timeout=120)


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from hosting import Host
from test_mounted_datasets import reads, whole_log

async def main():
    host = await Host.begin(Path(sys.argv[1]))
    one = reads("cat {{input:0}}/d/small.txt")
    end = await host.run(one)
    log = await whole_log(host, one)
    assert "mounted in" in log, log
    print(end.exit_code, await host.text(one.key))
    await host.shutdown(grace=0.2)

asyncio.run(main())
"""


@pytest.mark.container
async def test_in_a_container(begin: Begin, made: Path, folder: Path, image: str) -> None:  # noqa: F811
    host = await begin(Options(engine="podman"))
    one = reads("cat {{input:0}}/d/small.txt", image=image)
    assert (await host.run(one)).exit_code == 0, await whole_log(host, one)
    assert await host.text(one.key) == "small"
    if os.geteuid() == 0:
        assert "mounted in" in await whole_log(host, one)
    assert mounted(folder) == []
