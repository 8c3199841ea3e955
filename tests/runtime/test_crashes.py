"""kill -9 at whatever there is: attempts are adopted, or proven dead, and nothing runs that nobody knows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hosting import Begin, Host, again, alive, pids_of, plan, shell, wait_for

from osmo_ray.runtime import HostBusy, Options, zygote
from osmo_ray.runtime.network import Network
from osmo_ray.runtime.process import Identity
from osmo_ray.runtime.spool import Spool
from osmo_ray.spec.attempt import AttemptKey, OutputPlan, Phase

_DOOMED = textwrap.dedent("""
    import asyncio, sys
    from hosting import Host, shell
    from osmo_ray.runtime import Options
    from pathlib import Path
    async def main():
        host = await Host.begin(Path(sys.argv[1]), Options(sandbox=sys.argv[2], engine="off"))
        one = shell("echo up; while [ ! -e {{output}}/go ]; do sleep 0.02; done; echo done", task_uuid="survivor")
        await host.apply(7, [one])
        await host.says(one.key, "up")
        print("ready", flush=True)
        await asyncio.sleep(1000)
    asyncio.run(main())
""")


@pytest.mark.parametrize("mode", ["process", "none"])
async def test_the_hosts_process_is_killed_and_the_next_adopts(folder: Path, begin: Begin, mode: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    argv = [sys.executable, "-c", _DOOMED, str(folder), mode]
    doomed = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    assert doomed.stdout is not None
    assert doomed.stdout.readline() == b"ready\n"
    doomed.kill()
    doomed.wait()
    doomed.stdout.close()
    host = await begin(Options(sandbox=mode, engine="off"))
    key = AttemptKey("survivor", 0)
    assert [o.phase for o in await host.attempts()] == [Phase.RUNNING]
    (host.spool.folder(key).data_out / "go").touch()
    assert (await host.end(key)).exit_code == 0
    assert await host.text(key) == "up\ndone"


async def test_the_zygote_is_killed_and_replaced_and_tasks_go_on(any_host: Host) -> None:
    first = shell("echo up; while [ ! -e {{output}}/go ]; do sleep 0.02; done")
    await any_host.apply(1, [first])
    await any_host.says(first.key, "up")
    os.kill(int((any_host.root / zygote.LOCK).read_text()), signal.SIGKILL)
    assert (await any_host.run(shell("true"))).exit_code == 0
    (any_host.spool.folder(first.key).data_out / "go").touch()
    assert (await any_host.end(first.key)).exit_code == 0


async def test_a_new_host_has_a_new_zygote_and_keeps_the_tasks(any_host: Host, begin: Begin) -> None:
    one = shell("echo up; while [ ! -e {{output}}/go ]; do sleep 0.02; done")
    await any_host.apply(1, [one])
    await any_host.says(one.key, "up")
    before = (any_host.root / zygote.LOCK).read_text()
    await any_host.close()
    later = await begin(any_host.options)
    assert (later.root / zygote.LOCK).read_text() != before
    (later.spool.folder(one.key).data_out / "go").touch()
    assert (await later.end(one.key)).exit_code == 0


async def test_a_killed_supervisor_takes_its_task_with_it_and_is_told(any_host: Host) -> None:
    one = shell("(setsid sleep 1000 &); echo up; sleep 1000", outputs=(OutputPlan("prefix", "wf/lost"),))
    await any_host.apply(1, [one])
    await any_host.says(one.key, "up")
    pids = pids_of(one.key)
    assert pids
    any_host.supervisor(one.key).signal(signal.SIGKILL)
    end = await any_host.end(one.key)
    assert end.phase is Phase.LOST
    assert end.reason is not None
    assert end.reason.code == "SupervisorLost"
    assert [pid for pid in pids if alive(pid)] == []


async def test_a_supervisor_that_died_while_no_host_was_there(any_host: Host, begin: Begin) -> None:
    one = shell("echo up; sleep 1000")
    await any_host.apply(1, [one])
    await any_host.says(one.key, "up")
    who = any_host.supervisor(one.key)
    await any_host.close()
    who.signal(signal.SIGKILL)
    later = await begin(any_host.options)
    assert (await later.end(one.key)).phase is Phase.LOST
    assert pids_of(one.key) == []


async def test_another_boot_proves_an_attempt_dead(any_host: Host, begin: Begin) -> None:
    one = shell("true")
    await any_host.run(one)
    await any_host.close()
    folder = any_host.spool.folder(one.key)
    lines = (folder.path / "status").read_text().splitlines(keepends=True)
    (folder.path / "status").write_text("".join(lines[:-1]))
    (folder.path / "claim").write_text('{"pid": 1, "started": 1, "boot": "before"}')
    later = await begin(any_host.options)
    end = await later.end(one.key)
    assert end.reason is not None
    assert end.reason.sentence.startswith("the node was started anew")


async def test_a_pid_that_another_process_has_now_is_not_the_supervisor() -> None:
    mine = Identity.mine()
    assert mine.alive()
    assert not Identity(mine.pid, mine.started + 1, mine.boot).alive()
    assert not Identity(mine.pid, mine.started, "another boot").alive()
    assert not Identity(mine.pid, mine.started + 1, mine.boot).signal(signal.SIGKILL)


async def test_a_folder_that_was_never_accepted_is_removed(any_host: Host, begin: Begin) -> None:
    await any_host.close()
    (any_host.spool.attempts / "half-0").mkdir()
    (any_host.spool.attempts / ".gone-old-0").mkdir()
    later = await begin(any_host.options)
    assert list(later.spool.attempts.iterdir()) == []


async def test_an_accepted_attempt_without_supervisor_is_started_at_the_next_start(
    any_host: Host, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_host, "_spawn", lambda entry: None)
    one = shell("echo late")
    await any_host.apply(1, [one])
    await any_host.close()
    later = await begin(any_host.options)
    assert (await later.end(one.key)).exit_code == 0


async def test_one_folder_has_one_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from osmo_ray.runtime import helpers

    with pytest.raises(HostBusy):
        helpers.only_host(host.root, 0.1)


async def test_an_attempt_has_one_supervisor(any_host: Host) -> None:
    one = shell("echo ran >> {{output}}/runs; sleep 0.3; cat {{output}}/runs")
    await any_host.apply(1, [one])
    for _ in range(3):
        any_host.helpers.ask("attempt", key=str(one.key))
    await any_host.end(one.key)
    assert await any_host.text(one.key) == "ran"


async def test_the_lease_runs_out_and_tasks_end(begin: Begin) -> None:
    host = await begin(Options(engine="off", grace=0.1))
    one = shell("echo up; sleep 1000")
    await host.apply(1, [one])
    await host.says(one.key, "up")
    host.renew(0.0)
    end = await host.end(one.key)
    assert end.phase is Phase.LOST
    assert end.reason is not None
    assert end.reason.code == "LeaseExpired"
    assert pids_of(one.key) == []


async def test_the_lease_also_ends_what_waits_at_the_barrier_or_is_held(begin: Begin) -> None:
    host = await begin(Options(engine="off", grace=0.1))
    waiting = shell("true", barrier=True, go=False)
    held = shell("exit 1", hold=1000.0)
    await host.apply(1, [waiting, held])
    await host.phase(waiting.key, Phase.READY)
    await host.until(held.key, lambda o: o.reason is not None and o.reason.code == "HeldForInspection")
    host.renew(-1.0)
    for one in (waiting, held):
        assert (await host.end(one.key)).phase is Phase.LOST


async def test_the_holder_of_the_network_is_killed_and_tasks_keep_talking(sandboxed: Host) -> None:
    server = shell("echo hello > /srv/x; cd /srv; python3 -m http.server 8000", group="g", task="a", peers=("a", "b"))
    await sandboxed.apply(1, [server])
    accepted = await sandboxed.phase(server.key, Phase.RUNNING)
    net = Network.load(sandboxed.root)
    assert net is not None
    net.holder.signal(signal.SIGKILL)

    def replaced() -> bool:
        now = Network.load(sandboxed.root)
        return now is not None and now.holder != net.holder

    await wait_for(replaced, "nobody replaced the holder")
    fetch = "for i in $(seq 100); do wget -qO- http://{{host:a}}:8000/x && exit; sleep 0.05; done; exit 1"
    client = shell(
        fetch.replace("$(", "$$("), group="g", task="b", peers=("a", "b"), hosts={"a": accepted.address}
    )  # fmt: skip
    await sandboxed.apply(1, [server, client])
    assert (await sandboxed.end(client.key)).exit_code == 0
    assert await sandboxed.text(client.key) == "hello"


async def test_a_log_that_could_not_be_kept_is_kept_before_it_is_forgotten(any_host: Host, folder: Path) -> None:
    (folder / "store").mkdir(exist_ok=True)
    blocked = folder / "store" / "logs"
    blocked.write_text("a file where a folder should be")
    one = shell("echo precious")
    assert (await any_host.run(one)).exit_code == 0
    await any_host.settle([one.key])
    assert await any_host.text(one.key) == "precious", "nothing is forgotten before it is kept"
    blocked.unlink()
    await any_host.settle([one.key])
    assert b"precious" in next(folder.glob("store/logs/**/*-end.log")).read_bytes()
    assert not Spool(any_host.root).folder(one.key).path.exists()


async def test_orders_reach_an_attempt_that_a_new_host_adopted(any_host: Host, begin: Begin) -> None:
    one = plan("echo", "ran", barrier=True, go=False)
    await any_host.apply(1, [one])
    await any_host.phase(one.key, Phase.READY)
    await any_host.close()
    later = await begin(any_host.options)
    await later.apply(2, [again(one, go=True)])
    assert (await later.end(one.key)).exit_code == 0


async def test_an_attempt_that_the_disk_had_no_room_for_can_come_again(
    any_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, real = shell("true"), os.write
    monkeypatch.setattr("osmo_ray.runtime.spool.os.write", lambda fd, data: real(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="the disk is full"):
        await any_host.apply(1, [one])
    monkeypatch.undo()
    assert not any_host.spool.folder(one.key).path.exists()
    assert (await any_host.run(one)).exit_code == 0
