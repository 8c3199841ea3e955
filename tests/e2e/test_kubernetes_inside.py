"""Inside tasks of a registered cluster: what holds for our own nodes holds for pods, by the same tests; then what pods
alone have."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import OSMO, ROOT, Platform, until
from tests.e2e.kube import objects, one, said
from tests.e2e.test_inside_editors import get, jupyter
from tests.e2e.test_inside_sessions import (
    FAILS,
    SERVES,
    inside,
    kept,
    test_a_command_has_its_own_streams_and_exit_code,
    test_a_group_answers_line_by_line,
    test_a_terminal_has_a_size_that_changes_signals_and_an_end,
    test_an_upload_goes_on_in_the_background_until_it_is_stopped,
    test_datagrams_go_there_and_back,
    test_files_go_up_and_down_by_rsync,
    test_jupyter_that_is_not_there_is_said,
    test_several_ports_lead_to_the_tasks_own_loopback,
    test_ssh_and_scp_reach_a_task_by_name,
    test_what_a_session_started_ends_with_its_client,
)
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes
__all__ = [
    "test_a_command_has_its_own_streams_and_exit_code",
    "test_a_group_answers_line_by_line",
    "test_a_terminal_has_a_size_that_changes_signals_and_an_end",
    "test_an_upload_goes_on_in_the_background_until_it_is_stopped",
    "test_datagrams_go_there_and_back",
    "test_files_go_up_and_down_by_rsync",
    "test_jupyter_that_is_not_there_is_said",
    "test_several_ports_lead_to_the_tasks_own_loopback",
    "test_ssh_and_scp_reach_a_task_by_name",
    "test_what_a_session_started_ends_with_its_client",
]
SMALL = "  resources:\n    default: {cpu: 0, memory: 512Mi, storage: 256Mi}\n  tasks:"


@pytest.fixture(scope="module")
def platform(kube_platform: Platform) -> Platform:
    return kube_platform


@pytest.fixture(scope="module")
def task(platform: Platform) -> Iterator[str]:
    """The id of a workflow whose task `main` is a pod that answers on two ports."""
    id = platform.submit(SERVES.replace("  tasks:", SMALL), "--pool", "kube")
    platform.running(id, "main")
    yield id
    platform.cli("workflow", "cancel", "--force", id)
    platform.wait(id)


def test_it_is_in_the_tasks_container(platform: Platform, task: str):
    script = 'hostname; echo "$OSMO_WORKFLOW_ID $OSMO_TASK"; cat /tmp/index.html; echo; cat /proc/1/comm; ls /osmo'
    assert inside(platform, task, "sh", "-c", script).stdout.split("\n") == [
        "main", f"{task} main", "from inside", "launcher", "bin", "data", "run", ""]  # fmt: skip


def test_what_ours_find_it_by_cannot_be_replaced(platform: Platform, task: str):
    for path in ("/osmo/run", "/osmo/run/lock", "/osmo/data/output", "/osmo/data/input"):
        assert inside(platform, task, "mv", path, "/osmo/aside", check=False).returncode == 1
    assert inside(platform, task, "touch", "/osmo/bin/launcher", check=False).returncode == 1
    assert "ermission denied" in inside(platform, task, "ls", "-l", "/proc/1/fd", check=False).stderr


def test_a_session_ends_with_its_pod(platform: Platform):
    id = platform.submit(SERVES.replace("  tasks:", SMALL), "--pool", "kube")
    platform.running(id, "main")
    with kept(platform, "workflow", "exec", id, "--", "sh", "-c", "echo up; sleep 600", stdin=subprocess.PIPE) as there:
        assert there.stdout is not None and there.stdout.readline() == "up\n"
        platform.cli("workflow", "cancel", "--force", id)
        assert there.wait(60) != 0
    gone = platform.cli("workflow", "exec", id, "main", "--", "true", check=False)
    assert gone.returncode == 2 and "has finished" in gone.stderr


def test_a_log_is_followed_live_and_kept_with_the_same_bytes(platform: Platform, kube: Cluster):
    script = "echo early; until test -e /tmp/go; do sleep 0.1; done; echo late; printf unfinished"
    id = platform.submit(one("ubuntu:24.04", f"[sh, -c, '{script}']"), "--pool", "kube")
    with kept(platform, "workflow", "logs", id) as follower:
        assert follower.stdout is not None
        heard = ""
        while "] early" not in heard:
            heard += follower.stdout.readline()
        platform.cli("workflow", "exec", id, "only", "--", "touch", "/tmp/go")
        heard += follower.stdout.read()
    assert platform.wait(id) == "COMPLETED"
    until(lambda: not objects(kube, "pods", platform.query(id)["uuid"]), 60)
    assert platform.cli("workflow", "logs", id).stdout == heard
    assert said(platform, id) == ["early", "late", "unfinished"]


def test_a_failed_task_stays_until_it_is_released(platform: Platform):
    id = platform.submit(FAILS.replace("  tasks:", SMALL), "--pool", "kube")
    until(lambda: "stays until" in platform.cli("explain", id).stdout, 60)
    assert platform.tasks(id)["main"]["status"] == "RUNNING"
    assert inside(platform, id, "cat", "/tmp/left").stdout == "evidence\n"
    platform.cli("workflow", "release", id)
    assert platform.wait(id) == "FAILED"
    assert platform.tasks(id)["main"]["exit_code"] == 3


HELD = """
workflow:
  name: held
  resources:
    default: {cpu: 0, memory: 128Mi, storage: 64Mi}
  tasks:
  - name: only
    image: localhost/osmo-runtime:1
    command: [python3, -c]
    args:
    - |
      import os, sys
      if os.environ["TOKEN"] != sys.argv[1]: sys.exit(9)
      if not os.path.exists("/tmp/mended"): sys.exit(7)
      print("mended", os.environ["TOKEN"])
    - $(TOKEN)
    hold: 30
    credentials:
      keys: {TOKEN: token}
"""


def test_a_failed_task_is_looked_into_mended_and_run_again(platform: Platform):
    """In an image without a shell, with a credential whose value is in neither log nor API."""
    platform.cli("credential", "set", "keys", "--payload", "token=hunter2-is-not-enough")
    name = platform.submit(HELD, "--pool", "kube")
    until(lambda: "stays until" in platform.cli("explain", name).stdout, 60)
    script = "import os; print(os.environ['OSMO_TASK'])"
    assert platform.cli("workflow", "exec", name, "only", "--", "python3", "-c", script).stdout == "only\n"
    platform.cli("workflow", "exec", name, "only", "--", "python3", "-c", "open('/tmp/mended', 'w')")
    platform.cli("workflow", "release", name, "only", "--rerun")
    assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
    log = platform.cli("workflow", "logs", name).stdout
    assert "mended [MASKED]" in log and "runs again in place" in log and "hunter2" not in log


@pytest.mark.servers
def test_notebooks_of_a_pod_are_reached_with_their_token_alone(platform: Platform, tmp_path: Path):
    """A real Jupyter, carried into the pod since an environment works only where it was made."""
    tool = jupyter().resolve()
    text = one("ubuntu:24.04", "[sh, -c, 'echo of the task > /tmp/file; sleep 3600']", "768Mi")
    text = text.replace("storage: 64Mi", "storage: 1Gi")
    text += f"    environment: {{PATH: '{tool}/bin:/usr/bin:/bin'}}\n"
    id = platform.submit(text, "--pool", "kube")
    platform.running(id, "only")
    tar = subprocess.Popen(["tar", "c", "-C", "/", str(tool.relative_to("/"))], stdout=subprocess.PIPE)
    line = [*OSMO, "workflow", "exec", id, "--", "tar", "x", "-C", "/"]
    subprocess.run(line, env=platform.environ, cwd=ROOT, stdin=tar.stdout, check=True, timeout=120)
    assert tar.wait() == 0
    line = [*OSMO, "jupyter", f"{id}/only", "--task-port", "8899"]
    environ = {**platform.environ, "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with subprocess.Popen(line, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True) as editor:
        assert editor.stdout is not None
        told = editor.stdout.readline()
        match = re.fullmatch(rf"Jupyter of {id}/only: (http://127\.0\.0\.1:\d+)/\?token=(\S+)\n", told)
        assert match, told
        assert "of the task" in get(f"{match[1]}/api/contents/tmp/file", match[2]).decode()
        editor.send_signal(signal.SIGINT)
        assert editor.wait(60) == 3
    platform.cli("workflow", "cancel", "--force", id)
    platform.wait(id)
