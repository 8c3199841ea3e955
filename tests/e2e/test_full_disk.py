"""A disk that is really full: new work is refused, and what runs loses nothing."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Platform, until
from tests.e2e.test_operations import WORD as PLAIN

pytestmark = [pytest.mark.ray, pytest.mark.root]

RESERVE = 16 << 20
# The disk is smaller than what a task asks for by default.
WORD = PLAIN.replace("  tasks:\n", "  resources: {default: {storage: 1Mi, memory: 64Mi}}\n  tasks:\n")


@pytest.fixture
def cramped() -> Iterator[Platform]:
    """A platform whose home is a disk of 64 MiB."""
    home = Path(tempfile.mkdtemp(prefix="osmo-small-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(home)], check=True)
    made = Platform(home, extra={"OSMO_DISK_RESERVE": str(RESERVE)})
    try:
        made.up()
        yield made
    finally:
        made.down()
        subprocess.run(["umount", "-l", str(home)], check=True)
        shutil.rmtree(home, ignore_errors=True)


def fill(file: Path, leave: int) -> None:
    """Write until only `leave` bytes are free."""
    with file.open("ab", buffering=0) as out:
        while (free := shutil.disk_usage(file.parent).free) > leave:
            try:
                out.write(bytes(min(free - leave, 1 << 20)))
            except OSError:
                return


def test_a_full_disk_refuses_new_work_and_loses_none(cramped: Platform, tmp_path: Path):
    go = "while ! test -e {{input:0}}/never && test $i -lt 150; do i=$((i+1)); sleep 0.1; done; echo over"
    id = cramped.submit(f"""
workflow:
  name: long
  resources: {{default: {{storage: 1Mi, memory: 64Mi}}}}
  tasks:
  - {{name: first, image: ubuntu, command: [sh, -c, "echo 1 > {{{{output}}}}/word"]}}
  - name: main
    image: ubuntu
    command: [sh, -c, "i=0; {go}; cat {{{{input:0}}}}/word > {{{{output}}}}/word"]
    inputs: [{{task: first}}]
""")
    cramped.running(id, "main")
    ballast = cramped.home / "ballast"
    fill(ballast, RESERVE // 2)
    (tmp_path / "word.yaml").write_text(WORD)
    refused = cramped.cli("workflow", "submit", str(tmp_path / "word.yaml"), check=False)
    assert refused.returncode == 1, refused.stderr
    assert "reserve of 16.0 MiB" in refused.stderr and "free space" in refused.stderr
    assert [w["name"] for w in cramped.get("/api/workflow?all_users=true&all_pools=true")["workflows"]] == [id]

    fill(ballast, 0)  # not a byte is left while the task goes on, and perhaps ends
    until(lambda: cramped.tasks(id)["main"]["status"] == "RUNNING", 30)
    refused = cramped.cli("workflow", "submit", str(tmp_path / "word.yaml"), check=False)
    assert refused.returncode == 1
    ballast.unlink()
    assert cramped.wait(id) == "COMPLETED", cramped.tails()
    statuses = [t["status"] for g in cramped.query(id)["groups"] for t in g["tasks"]]
    assert statuses == ["COMPLETED", "COMPLETED"], "nothing ran twice"
    cramped.cli("workflow", "download", f"{id}/main", str(tmp_path / "out"))
    assert (tmp_path / "out" / "word").read_text() == "1\n"
    cramped.wait(cramped.submit(WORD))
