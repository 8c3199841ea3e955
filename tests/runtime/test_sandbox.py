"""What a task sees, and what it cannot reach: private files, network, secrets, limits."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosting import Begin, Host, plan, shell, wait_for

from osmo_ray.runtime import Options
from osmo_ray.spec.attempt import FilePlan, OutputPlan, Phase


@contextmanager
def server(address: str, greeting: bytes) -> Iterator[int]:
    """A host's service that greets whoever connects."""
    listener = socket.create_server((address, 0))

    def serve() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                connection.sendall(greeting)
                connection.close()
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def host_address() -> str:
    """An address of this machine that is not its loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.99", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(probe.getsockname()[0])


async def test_two_tasks_with_the_same_file_and_the_same_port_do_not_meet(sandboxed: Host) -> None:
    script = (
        "/osmo/bin/nc -l -p 7777 & sleep 0.2; cat /tmp/run.sh; cat /tmp/own 2>/dev/null; echo {} > /tmp/own; sleep 0.3"
    )
    first = shell(script.format(1), files=(FilePlan("/tmp/run.sh", "first\n"),))
    second = shell(script.format(2), files=(FilePlan("/tmp/run.sh", "second\n"),))
    await sandboxed.apply(1, [first, second])
    await sandboxed.end(first.key)
    await sandboxed.end(second.key)
    assert await sandboxed.text(first.key) == "first"
    assert await sandboxed.text(second.key) == "second"
    addresses = {o.address for o in sandboxed.seen}
    assert len(addresses) == 2


async def test_two_tasks_of_a_group_talk_by_host_name(sandboxed: Host) -> None:
    peers = ("Server_1", "client")
    one = shell("echo over the bridge | nc -l -p 9000", group="g", task="Server_1", peers=peers)
    await sandboxed.apply(1, [one])
    address = (await sandboxed.phase(one.key, Phase.RUNNING)).address
    loop = "for i in 1 2 3 4 5; do nc -w 2 {{host:Server_1}} 9000 </dev/null | grep bridge && exit; sleep 0.1; done"
    two = shell(loop, group="g", task="client", peers=peers, hosts={"Server_1": address})
    await sandboxed.apply(1, [one, two])
    await sandboxed.end(two.key)
    assert await sandboxed.text(two.key) == "over the bridge"
    three = shell("cat /etc/hosts", peers=("a",), task="a", hosts={"b": "10.201.9.9"})
    await sandboxed.run(three)
    assert "10.201.9.9 b.wf-1.osmo b" in await sandboxed.text(three.key)


async def test_hosts_that_become_known_later_reach_a_running_task(sandboxed: Host) -> None:
    one = shell("until grep -q late.wf-1.osmo /etc/hosts; do sleep 0.02; done; echo found", peers=("late",))
    await sandboxed.apply(1, [one])
    await sandboxed.phase(one.key, Phase.RUNNING)
    from dataclasses import replace

    await sandboxed.apply(1, [replace(one, hosts={"late": "10.201.9.8"})])
    assert (await sandboxed.end(one.key)).exit_code == 0


async def test_files_appear_at_any_absolute_path_read_only(sandboxed: Host) -> None:
    paths = ["/tmp/run.sh", "/opt/x/y.sh", "/etc/foo", "/new/deep/file", "/usr/lib/osmo.txt", "/root/.config/a",
             "/var/tmp/v", "/osmo/data/output/made"]  # fmt: skip
    files = (
        *(FilePlan(path, "{{workflow_id}} {{output}}\n") for path in paths),
        FilePlan("/data/{{workflow_id}}.bin", base64.b64encode(b"\xff{{output}}").decode(), base64=True),
    )
    writes = "; ".join(f"(echo no >> {path}) 2>/dev/null && echo wrote {path}" for path in paths[:-1])
    one = shell(
        f"cat {' '.join(paths)}; {writes}; od -An -tx1 /data/wf-1.bin | head -1; test -x /tmp/run.sh", files=files
    )
    end = await sandboxed.run(one)
    assert end.exit_code == 1, "files are not executable"
    lines = (await sandboxed.text(one.key)).splitlines()
    assert lines[: len(paths)] == ["wf-1 /osmo/data/output"] * len(paths)
    assert lines[len(paths) :] == [" ff 7b 7b 6f 75 74 70 75 74 7d 7d"]


@pytest.mark.parametrize("path", ["/proc/x", "/dev/y", "/osmo/bin/z", "relative"])
async def test_a_path_that_cannot_be_had_is_refused_with_a_sentence(sandboxed: Host, path: str) -> None:
    end = await sandboxed.run(shell("true", files=(FilePlan(path, "x"),)))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (2032, "FileRefused")
    assert path in end.reason.sentence


async def test_the_working_directory_is_the_root_and_writable(sandboxed: Host) -> None:
    one = shell(
        "pwd; echo x > tmp/x; mkdir data; echo y > data/y; cat /tmp/x /data/y; touch /etc/mine /opt/mine && echo ok"
    )
    await sandboxed.run(one)
    assert await sandboxed.text(one.key) == "/\nx\ny\nok"
    assert not Path("/opt/mine").exists()
    assert not Path("/data/y").exists()


async def test_what_is_the_platforms_is_not_seen(begin: Begin, folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    (home / "token").write_text("secret")
    host = await begin(Options(engine="off", hidden=(str(home),)))
    if not host.report().sandbox.startswith("namespaces"):
        pytest.skip("this machine forbids namespaces")
    looks = f"ls {home} {host.root} /root /home /run; cat {home}/token /etc/shadow; ls -A /tmp;"
    looks += " find / -xdev -name host.json"
    one = shell(looks + " 2>/dev/null; true")
    await host.run(one)
    said = await host.text(one.key)
    assert "secret" not in said
    assert "host.json" not in said
    assert re.search("root:.*:", said) is None


async def test_a_hidden_folder_in_a_shown_one_is_empty(begin: Begin) -> None:
    hidden = Path("/usr/share/doc")
    host = await begin(Options(engine="off", hidden=(str(hidden),)))
    if not host.report().sandbox.startswith("namespaces"):
        pytest.skip("this machine forbids namespaces")
    tries = f"touch {hidden}/x || echo fixed; mount -o remount,rw {hidden} || umount {hidden} || echo kept"
    one = shell(f"ls -A {hidden} | wc -l; {tries}")
    await host.run(one)
    said = await host.text(one.key)
    assert said.splitlines()[-1] == "kept"
    assert "fixed" in said
    assert said.splitlines()[0] == "0"
    assert len(list(hidden.iterdir())) > 0


async def test_a_task_sees_no_processes_but_its_own_and_has_few_rights(sandboxed: Host) -> None:
    script = """
    ls /proc | grep -c '^[0-9]'
    grep -E 'CapEff|NoNewPrivs' /proc/self/status
    (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo changed the host
    mknod /tmp/disk b 254 0 2>/dev/null && echo made a device
    hostname
    """
    one = shell(script, task="My_Task")
    await sandboxed.run(one)
    lines = (await sandboxed.text(one.key)).split("\n")
    assert int(lines[0]) <= 5
    effective = int(lines[1].split()[1], 16)
    assert effective & (1 << 21) == 0, "no CAP_SYS_ADMIN"
    assert lines[2].split() == ["NoNewPrivs:", "1"]
    assert lines[3:] == ["my-task"]


async def test_the_hosts_loopback_is_not_reachable(sandboxed: Host) -> None:
    outside = host_address()
    with server("127.0.0.1", b"SECRET") as inner, server(outside, b"PUBLIC") as outer:
        gateways = ["127.0.0.1", "10.201.0.1", "198.18.77.1", "198.18.77.2", "localhost", outside]
        tries = "; ".join(f"nc -w 1 {address} {inner} </dev/null 2>/dev/null" for address in gateways)
        one = shell(f"{tries}; echo tried; nc -w 3 {outside} {outer} </dev/null")
        await sandboxed.run(one)
        said = await sandboxed.text(one.key)
    assert "SECRET" not in said
    has_way_out = not any(reason.code == "NoWayOut" for reason in sandboxed.report().reasons)
    assert ("PUBLIC" in said) == has_way_out


async def test_the_nodes_network_when_a_group_spans_nodes(sandboxed: Host) -> None:
    with server("127.0.0.1", b"SAME") as port:
        one = shell(f"nc -w 2 127.0.0.1 {port} </dev/null", network="node")
        end = await sandboxed.run(one)
        assert await sandboxed.text(one.key) == "SAME"
    assert end.address == "127.0.0.1"


async def test_programs_that_images_usually_have_come_from_busybox(sandboxed: Host) -> None:
    one = shell("PATH=${PATH##*:}; for p in nc vi wget python3; do command -v $p; done")
    await sandboxed.run(one)
    assert (await sandboxed.text(one.key)).split() == [f"/osmo/bin/{p}" for p in ("nc", "vi", "wget", "python3")]


async def test_more_memory_than_allowed_is_an_eviction(any_host: Host) -> None:
    eat = "import time; x = bytearray(200 << 20); x[::4096] = b'x' * len(x[::4096]); time.sleep(60)"
    one = plan("python3", "-c", eat, memory=64 << 20)
    end = await any_host.run(one)
    assert end.exit_code == 3004
    assert end.reason is not None
    assert end.reason.code == "OutOfMemory"
    assert end.reason.evidence["limit"] == "64.0 MiB"


async def test_without_a_cgroup_memory_is_watched_and_labelled_so(begin: Begin) -> None:
    host = await begin(Options(engine="off", cgroup="off", sample=0.05))
    assert any(reason.code == "NoCgroup" for reason in host.report().reasons)
    eat = "import time; x = bytearray(200 << 20); x[::4096] = b'x' * len(x[::4096]); time.sleep(60)"
    end = await host.run(plan("python3", "-c", eat, memory=64 << 20))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (3004, "OutOfMemory")
    assert end.reason.evidence["peak"].endswith("(sampled)")
    quick = await host.run(plan("python3", "-c", "x = b'x' * (80 << 20); import time; time.sleep(0.5)"))
    assert quick.usage["memory_peak"] > 80 << 20


async def test_peaks_are_told(any_host: Host) -> None:
    script = "head -c 3000000 /dev/zero > {{output}}/big; python3 -c 'x = b\"x\" * (50 << 20); sum(range(10**6))'"
    end = await any_host.run(shell(script, outputs=(OutputPlan("prefix", "wf/peaks"),)))
    assert end.usage["disk_peak"] >= 3000000
    assert end.usage["memory_peak"] >= 50 << 20
    assert end.usage["cpu_seconds"] > 0.01


async def test_more_storage_than_allowed_is_an_eviction(any_host: Host) -> None:
    end = await any_host.run(shell("head -c 9000000 /dev/zero > {{output}}/x; sleep 1000", storage=1 << 20))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (3004, "OutOfStorage")


async def test_without_namespaces_files_elsewhere_are_refused(begin: Begin) -> None:
    host = await begin(Options(sandbox="none", engine="off"))
    end = await host.run(shell("true", files=(FilePlan("/tmp/run.sh", "x"),)))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (2032, "NeedsNamespaces")
    fine = shell("cat {{output}}/a/b", files=(FilePlan("{{output}}/a/b", "{{workflow_id}}"),))
    await host.run(fine)
    assert await host.text(fine.key) == "wf-1"
    assert "NoNamespaces" in {reason.code for reason in host.report().reasons}


async def test_addresses_go_round(host: Host) -> None:
    from osmo_ray.runtime.network import free_address

    options = Options(network="10.9.0.0/24")
    first, after = free_address(options, set(), 0)
    second, after = free_address(options, {first}, after)
    assert (first, second) == ("10.9.0.2", "10.9.0.3")
    assert free_address(options, {first, second}, 252)[0] == "10.9.0.254"
    assert free_address(options, {second}, 253)[0] == first
    with pytest.raises(RuntimeError, match="all 253 addresses"):
        free_address(options, {f"10.9.0.{n}" for n in range(2, 255)}, 7)


async def test_a_link_left_by_the_task_leads_nobody_astray(sandboxed: Host, folder: Path) -> None:
    target = folder / "target"
    target.mkdir()
    script = f"rm -rf /tmp; ln -s {target} {{{{output}}}}/link; echo x > {{{{output}}}}/f"
    one = shell(script, outputs=(OutputPlan("prefix", "wf/links"),))
    assert (await sandboxed.run(one)).phase is Phase.FINISHED
    assert list(target.iterdir()) == []
    assert sorted(p.name for p in (folder / "store/wf/links").iterdir()) == [".osmo-manifest.json", "f"]
    await sandboxed.settle([one.key])
    await wait_for(lambda: not any(sandboxed.spool.attempts.iterdir()), "the folder was not removed")


async def test_an_image_of_busybox_gets_its_programs_first(sandboxed: Host) -> None:
    alpine = shell("nc --help 2>&1 | head -n 1", image="alpine:3.18")
    ubuntu = shell("command -v sh", image="ubuntu:24.04")
    assert (await sandboxed.run(alpine)).exit_code == 0
    assert (await sandboxed.run(ubuntu)).exit_code == 0
    assert "BusyBox" in await sandboxed.text(alpine.key)
    assert not (await sandboxed.text(ubuntu.key)).startswith("/osmo/bin")
