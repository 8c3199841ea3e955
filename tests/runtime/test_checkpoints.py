"""Folders of a running task at a URL: again and again, at the end, and never anything but the task's own."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from hosting import Host, shell

from osmo_ray.spec.attempt import CheckpointPlan, Phase


def to(folder: Path, path: str, frequency: float = 3600.0, regex: str = "") -> tuple[CheckpointPlan, ...]:
    return (CheckpointPlan(path, (folder / "kept").as_uri() + "/{{workflow_id}}", frequency, regex),)


async def appears(path: Path, text: str) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if path.exists() and path.read_text() == text:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} never had {text!r}; there is {list(path.parent.parent.rglob('*'))}")


async def test_a_checkpoint_comes_while_the_task_runs(sandboxed: Host, folder: Path) -> None:
    wait = "while [ ! -e {{output}}/go ]; do sleep 0.05; done"
    script = f"mkdir -p /ckpt/deep; echo 1 > /ckpt/deep/a; {wait}; echo 2 > /ckpt/b"
    one = shell(script, checkpoints=to(folder, "ckpt", 0.1))
    await sandboxed.apply(1, [one])
    await sandboxed.phase(one.key, Phase.RUNNING)
    await appears(folder / "kept/wf-1/deep/a", "1\n")
    assert not (folder / "kept/wf-1/b").exists()
    (sandboxed.spool.folder(one.key).data_out / "go").touch()
    assert (await sandboxed.end(one.key)).exit_code == 0
    assert (folder / "kept/wf-1/b").read_text() == "2\n", "the last one, when the command has ended"


async def test_the_last_one_comes_after_a_failure_too_and_takes_what_matches(any_host: Host, folder: Path) -> None:
    where = "{{output}}/c"
    one = shell(f"mkdir {where}; echo x > {where}/a.pt; echo y > {where}/b.txt; exit 3",
                checkpoints=to(folder, where, regex=r".*\.pt"))  # fmt: skip
    assert (await any_host.run(one)).exit_code == 3
    assert sorted(p.name for p in (folder / "kept/wf-1").glob("*.*t")) == ["a.pt"]


async def test_a_task_that_is_told_to_stop_leaves_its_last_state(sandboxed: Host, folder: Path) -> None:
    one = shell("mkdir /c; trap 'echo saved > /c/state; exit 0' TERM; echo up; while :; do sleep 0.05; done",
                checkpoints=to(folder, "/c"))  # fmt: skip
    await sandboxed.apply(1, [one])
    while "up" not in await sandboxed.text(one.key):
        await asyncio.sleep(0.02)
    await sandboxed.delete(1, [one.group_uuid], 10.0)
    assert (await sandboxed.end(one.key)).phase is Phase.LOST
    assert (folder / "kept/wf-1/state").read_text() == "saved\n"


async def test_links_lead_nowhere_but_into_the_task(sandboxed: Host, folder: Path) -> None:
    """A folder that is a link is the task's folder of that name; links inside are not followed."""
    secret = folder / "host-only"
    secret.mkdir()
    (secret / "key").write_text("secret")
    script = f"ln -s {secret} /ckpt; mkdir -p {secret}; echo own > {secret}/key"
    one = shell(script, checkpoints=to(folder, "/ckpt"))
    end = await sandboxed.run(one)
    kept = {str(p.relative_to(folder / "kept")): p.read_text() for p in (folder / "kept").rglob("*") if p.is_file()}
    assert kept in ({"wf-1/key": "own\n"}, {}), "only what the task itself wrote there"
    assert end.phase is Phase.FINISHED
    script = "mkdir /real; echo mine > /real/f; ln -s /etc/passwd /real/g; mkfifo /real/p"
    two = shell(script, checkpoints=to(folder, "/real"))
    assert (await sandboxed.run(two)).exit_code == 0
    assert not (folder / "kept/wf-1/g").exists()
    assert (folder / "kept/wf-1/f").read_text() == "mine\n"


async def test_what_cannot_be_kept_is_no_success(any_host: Host, folder: Path) -> None:
    one = shell("true", checkpoints=to(folder, "/nowhere/at/all"))
    end = await any_host.run(one)
    assert end.exit_code == 2012
    assert end.reason is not None
    assert end.reason.code == "CheckpointFailed"
    assert "/nowhere/at/all" in end.reason.sentence


async def test_what_has_not_changed_is_not_sent_again(sandboxed: Host, folder: Path) -> None:
    script = "mkdir /c; echo 1 > /c/a; while [ ! -e {{output}}/go ]; do sleep 0.05; done; echo 2 > /c/b"
    one = shell(script, checkpoints=to(folder, "/c", 0.1))
    await sandboxed.apply(1, [one])
    await appears(folder / "kept/wf-1/a", "1\n")
    os.truncate(folder / "kept/wf-1/a", 0)
    (sandboxed.spool.folder(one.key).data_out / "go").touch()
    await sandboxed.end(one.key)
    assert (folder / "kept/wf-1/a").read_text() == ""
    assert (folder / "kept/wf-1/b").read_text() == "2\n"
