"""Tasks in containers, by a real podman and an image made here."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosting import Begin, Host, again, shell, wait_for

from osmo_ray.runtime import Options
from osmo_ray.runtime.container import Engine, container_name, find, registry_of
from osmo_ray.spec.attempt import CheckpointPlan, FilePlan, InputPlan, OutputPlan, Phase
from osmo_ray.spec.model import Sandbox

IMAGE = "localhost/osmo-ray-test:1"
NOWHERE = "127.0.0.1:1/not/there:1"


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("ubuntu:22.04", ""),
        ("nvcr.io/nvidia/pytorch:24.01", "nvcr.io"),
        ("localhost:5000/x", "localhost:5000"),
        ("registry.example/library/ubuntu", "registry.example"),
        ("library/ubuntu", ""),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def test_no_engine_says_why() -> None:
    assert find("off") == Engine("", "container engines are switched off by option")
    assert find("an-engine-of-nowhere").why == "an-engine-of-nowhere is not installed"


async def test_a_container_that_cannot_be_had(begin: Begin) -> None:
    host = await begin(Options(engine="off"))
    end = await host.run(shell("true", image=NOWHERE, sandbox=Sandbox.CONTAINER))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (302, "ImagePull")
    assert "switched off" in end.reason.sentence


async def test_a_task_that_does_not_insist_says_why_it_is_a_process(begin: Begin) -> None:
    host = await begin(Options(engine="off"))
    one = shell("true", image=NOWHERE)
    assert (await host.run(one)).exit_code == 0
    accepted = await host.phase(one.key, Phase.ACCEPTED)
    assert accepted.reason is not None
    assert "container engines are switched off" in accepted.reason.sentence


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    podman, busybox = shutil.which("podman"), shutil.which("busybox")
    if podman is None or busybox is None:
        pytest.fail("install podman and busybox-static: this test is for machines that have them")
    file = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for name in ("sh", "cat", "echo", "ls", "sleep", "env", "nc", "head", "hostname", "grep", "touch"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc/only-in-the-image", "tmp/.keep"):
            tar.addfile(tarfile.TarInfo(name))
    subprocess.run([podman, "import", "--quiet", str(file), IMAGE], check=True, capture_output=True)
    yield IMAGE
    subprocess.run([podman, "rmi", "--force", IMAGE], check=False, capture_output=True)


@pytest.fixture
async def contained(begin: Begin, image: str) -> Host:
    return await begin(Options(engine="podman"))


@pytest.mark.container
async def test_files_data_and_environment_in_a_container(contained: Host, image: str) -> None:
    first = shell(
        "ls /etc; cat /tmp/run.sh; echo $SECRET; hostname; echo data > {{output}}/f; exit 4",
        image=image, files=(FilePlan("/tmp/run.sh", "{{output}}\n"),), outputs=(OutputPlan("prefix", "wf/c"),),
        environment={"SECRET": "a b"}, task="Box",
    )  # fmt: skip
    end = await contained.run(first)
    assert end.exit_code == 4
    said = await contained.text(first.key)
    assert "only-in-the-image" in said
    assert said.splitlines()[-3:] == ["/osmo/data/output", "a b", "box"]
    second = shell("cat {{input:0}}/f", image=image, inputs=(InputPlan("prefix", "wf/c"),))
    assert (await contained.run(second)).exit_code == 0
    assert await contained.text(second.key) == "data"
    left = subprocess.run(["podman", "ps", "-aq", "--filter", f"name={container_name(str(first.key))}"],
                          capture_output=True, check=True)  # fmt: skip
    assert left.stdout == b""


@pytest.mark.container
async def test_a_container_and_a_process_of_one_group_talk(contained: Host, image: str) -> None:
    if not contained.engine.joins():
        pytest.skip("only root's podman joins the tasks' network")
    peers = ("a", "b")
    one = shell("echo from the container | nc -l -p 9000", image=image, group="g", task="a", peers=peers)
    await contained.apply(1, [one])
    address = (await contained.phase(one.key, Phase.RUNNING)).address
    loop = "for i in 1 2 3 4 5 6 7 8 9; do nc -w 2 {{host:a}} 9000 </dev/null | grep from && exit; sleep 0.3; done"
    two = shell(loop, group="g", task="b", peers=peers, hosts={"a": address}, sandbox=Sandbox.PROCESS)
    await contained.apply(1, [one, two])
    await contained.end(two.key)
    assert await contained.text(two.key) == "from the container"


@pytest.mark.container
async def test_a_container_is_ended_restarted_and_missing_programs_are_named(contained: Host, image: str) -> None:
    stuck = shell("trap '' TERM; touch /mark; echo up; sleep 1000", image=image)
    again_one = shell("ls /mark 2>/dev/null || { touch /mark; echo up; sleep 1000; }", image=image)
    missing = shell("", image=image)
    missing = again(missing, argv=("nvcc",))
    await contained.apply(1, [stuck, again_one, missing])
    await contained.says(stuck.key, "up")
    await contained.delete(1, [stuck.group_uuid], 0.2)
    assert (await contained.end(stuck.key)).phase is Phase.LOST
    await contained.says(again_one.key, "up")
    await contained.apply(1, [again(again_one, restart=1)])
    assert (await contained.end(again_one.key)).exit_code == 0
    assert (await contained.text(again_one.key)).splitlines()[-1] == "/mark"
    end = await contained.end(missing.key)
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (3003, "CommandNotFound")


@pytest.mark.container
async def test_a_failed_container_stays_and_runs_again_in_place(contained: Host, image: str) -> None:
    """With the file system that the command left, also for another host program; the image is not touched."""
    script = "touch /n$$(ls -d /n* | wc -l); ls -d /n*; [ -e /fixed ] || exit 5"
    one = shell(f"touch /n; {script}", image=image, hold=1000.0)
    await contained.apply(1, [one])
    held = await contained.until(one.key, lambda o: o.reason is not None and o.reason.code == "HeldForInspection")
    assert held.phase is Phase.RUNNING
    name = container_name(str(one.key))
    await wait_for(lambda: podman("inspect", "--format", "{{.State.Running}}", name) == "true", "it does not stay")
    assert podman("exec", name, "ls", "-d", "/n", "/n1").split() == ["/n", "/n1"]
    assert "sleep" not in podman("exec", name, "ls", "/osmo/hold")
    podman("exec", name, "touch", "/fixed")
    await contained.release(one.key, rerun=True)
    end = await contained.end(one.key)
    assert (end.exit_code, end.restart) == (0, 0)
    assert (await contained.text(one.key)).split() == ["/n", "/n1", "/n", "/n1", "/n2"]
    await wait_for(lambda: podman("ps", "-aq", "--filter", f"name={name}") == "", "it is not removed")


@pytest.mark.container
async def test_a_held_container_ends_with_its_group_and_a_missing_program_is_named(contained: Host, image: str) -> None:
    one = shell("exit 5", image=image, hold=1000.0)
    missing = again(shell("", image=image, hold=0.1), argv=("nvcc", "--version"))
    await contained.apply(1, [one, missing])
    await contained.until(one.key, lambda o: o.reason is not None and o.reason.code == "HeldForInspection")
    await contained.delete(1, [one.group_uuid], 0.2)
    assert (await contained.end(one.key)).phase is Phase.LOST
    name = container_name(str(one.key))
    await wait_for(lambda: podman("ps", "-aq", "--filter", f"name={name}") == "", "it is not removed")
    end = await contained.end(missing.key)
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (3003, "CommandNotFound")


def podman(*words: str) -> str:
    return subprocess.run(["podman", *words], capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.container
async def test_a_killed_supervisor_leaves_no_container(contained: Host, image: str) -> None:
    one = shell("echo up; sleep 1000", image=image)
    await contained.apply(1, [one])
    await contained.says(one.key, "up")
    contained.supervisor(one.key).signal(9)
    assert (await contained.end(one.key)).phase is Phase.LOST

    def gone() -> bool:
        left = subprocess.run(["podman", "ps", "-aq", "--filter", f"name={container_name(str(one.key))}"],
                              capture_output=True, check=True)  # fmt: skip
        return left.stdout == b""

    await wait_for(gone, "the container was left")


@pytest.mark.container
async def test_an_image_that_cannot_be_pulled(contained: Host) -> None:
    end = await contained.run(shell("true", image=NOWHERE, sandbox=Sandbox.CONTAINER))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (302, "ImagePull")


@pytest.mark.container
async def test_a_checkpoint_of_a_container_comes_at_its_end(contained: Host, image: str, folder: Path) -> None:
    kept = folder / "kept"
    point = CheckpointPlan("/tmp", kept.as_uri(), 3600.0, "a.*")
    one = shell("echo 1 > /tmp/a; echo 2 > /tmp/b; exit 4", image=image, checkpoints=(point,))
    assert (await contained.run(one)).exit_code == 4
    assert (kept / "a").read_text() == "1\n"
    assert not (kept / "b").exists()


@pytest.mark.container
async def test_a_container_sees_what_the_pool_allows(contained: Host, image: str, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    one = shell(
        "echo 1 > /mnt/made; grep CapEff /proc/self/status", image=image, mounts=(f"{data}:/mnt",), privileged=True
    )
    assert (await contained.run(one)).exit_code == 0
    assert (data / "made").read_text() == "1\n"
    every = int((await contained.text(one.key)).split()[1], 16)
    plain = shell("grep CapEff /proc/self/status", image=image)
    await contained.run(plain)
    assert every > int((await contained.text(plain.key)).split()[1], 16)
