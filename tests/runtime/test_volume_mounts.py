"""Folders of the node in a task, where the pool allows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosting import Begin, Host, shell

from osmo_ray.runtime import Options
from osmo_ray.spec.attempt import FilePlan


async def test_a_folder_of_the_node_is_seen_and_written(sandboxed: Host, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "there").write_text("before")
    for target in ("/mnt/x", "/opt/deep/er/x", "/somewhere"):
        one = shell(f"cat {target}/there; echo after > {target}/made", mounts=(f"{data}:{target}",))
        assert (await sandboxed.run(one)).exit_code == 0, await sandboxed.text(one.key)
        assert await sandboxed.text(one.key) == "before"
        assert (data / "made").read_text() == "after\n"
        (data / "made").unlink()
    assert not Path("/somewhere").exists()
    assert not Path("/opt/deep").exists()


async def test_several_at_once_beside_files_and_what_is_there(sandboxed: Host, folder: Path) -> None:
    (folder / "data").mkdir()
    mounts = (f"{folder}/data:/mnt/a", f"{folder}/data:/mnt/b/c", f"{folder}/data:/srv/d")
    files = (FilePlan("/mnt/f", "text"), FilePlan("/srv/g", "more"))
    one = shell("touch /mnt/a/x; ls /mnt/b/c /srv/d; cat /mnt/f /srv/g", mounts=mounts, files=files)
    assert (await sandboxed.run(one)).exit_code == 0
    assert (await sandboxed.text(one.key)).split() == ["/mnt/b/c:", "x", "/srv/d:", "x", "textmore"]


@pytest.mark.parametrize(
    ("mount", "message"),
    [("/no/such/folder:/mnt/x", "this node has no /no/such/folder"), ("/tmp:/proc/x", "outside /proc"),
     ("/tmp:/osmo/data/input", "belong to the platform"), ("/tmp:x", "absolute path")],
)  # fmt: skip
async def test_what_cannot_be_mounted_says_why(sandboxed: Host, mount: str, message: str) -> None:
    end = await sandboxed.run(shell("true", mounts=(mount,)))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (3003, "MountFailed")
    assert message in end.reason.sentence


async def test_without_namespaces_only_the_same_path_can_be_had(begin: Begin, folder: Path) -> None:
    host = await begin(Options(sandbox="none", engine="off"))
    assert (await host.run(shell(f"touch {folder}/made", mounts=(str(folder),)))).exit_code == 0
    end = await host.run(shell("true", mounts=(f"{folder}:/mnt/x",)))
    assert end.reason is not None
    assert "no namespaces" in end.reason.sentence


async def test_a_privileged_task_is_no_process(sandboxed: Host) -> None:
    end = await sandboxed.run(shell("true", privileged=True))
    assert end.reason is not None
    assert end.exit_code == 3003
    assert "container" in end.reason.sentence
