"""Every verb against the real API: what is printed, what is stored, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.program import VERBS, WORKFLOW, main
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError, Unreachable
from osmo_ray.spec.attempt import AttemptKey
from osmo_ray.spec.reason import Reason
from tests.api.world import HELLO, World
from tests.cli.conftest import Site

Capture = pytest.CaptureFixture[str]
ONE = "workflow:\n  name: one\n  tasks:\n  - {name: a, image: i, command: [c]}\n"


def osmo(capsys: Capture, *words: str, code: int = 0) -> str:
    """Run a verb; its output, both streams. The exit code must be `code`."""
    capsys.readouterr()
    try:
        got = main(words)
    except SystemExit as exit:
        got = int(exit.code or 0)
    told = capsys.readouterr()
    assert got == code, told.out + told.err
    return told.out + told.err


def file(text: str = HELLO, name: str = "w.yaml") -> str:
    Path(name).write_text(text)
    return name


def in_background(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def mine(world: World, text: str = "", **more: Any) -> str:
    """A workflow of whoever runs the tests."""
    from osmo_ray.api.middleware import system_user

    return world.submit(text or ONE, user=system_user(), **more)


def test_submit_prints_what_scripts_look_for(site: Site, capsys: Capture) -> None:
    assert osmo(capsys, "workflow", "submit", file()).splitlines() == [
        "Workflow submit successful.",
        "Workflow ID        - hello-1",
        f"Workflow Overview  - {site.url}/workflows/hello-1",
    ]
    told = json.loads(osmo(capsys, "workflow", "submit", "hello-1", "--format-type", "json"))
    assert told["name"] == "hello-2"


def test_settings_reach_the_file(site: Site, world: World, capsys: Capture) -> None:
    text = HELLO.replace("hello]", '"{{a}}{{b}}"]')
    osmo(
        capsys,
        "workflow",
        "submit",
        file(text),
        "--set",
        "a=1",
        "b=2",
        "--set-string",
        "b=02",
        "--set-env",
        "X=y",
        "Z=0",
    )
    workflow = world.store.find("hello-1")
    assert workflow is not None
    assert workflow.spec.task("a").command == ("echo", "102")
    assert workflow.spec.task("b").environment == {"X": "y", "Z": "0"}
    assert "102" in osmo(capsys, "workflow", "submit", file(text), "--dry-run", "--set", "a=10", "b=2")


def test_local_files_are_put_in_and_lines_keep_their_numbers(site: Site, world: World, capsys: Capture) -> None:
    Path("sub").mkdir()
    Path("sub/run.py").write_text('print("ü \\\\ {{host:a}}")\n\tx = "\'"\n')
    text = ONE.replace("command: [c]}", "command: [c], files: [{path: /tmp/r, localpath: run.py}]}")
    osmo(capsys, "workflow", "submit", file(text, "sub/w.yaml"))
    workflow = world.store.find("one-1")
    assert workflow is not None
    assert workflow.spec.task("a").files[0].contents == Path("sub/run.py").read_text()
    assert world.store.texts(workflow.uuid).template == text
    wrong = osmo(capsys, "workflow", "validate", file(text + "  nme: x\n", "sub/w.yaml"), code=1)
    assert "sub/w.yaml:5:3" in wrong
    assert "does not exist" in osmo(capsys, "workflow", "validate", file(text), code=1)


def test_a_templated_file_with_local_files(site: Site, world: World, capsys: Capture) -> None:
    Path("r.sh").write_text("echo hi\n")
    text = ONE.replace("command: [c]}", 'command: ["{{x}}"], files: [{path: /tmp/r, localpath: r.sh}]}')
    osmo(capsys, "workflow", "submit", file(text + "default-values: {x: d}\n"), "--set", "x=5")
    workflow = world.store.find("one-1")
    assert workflow is not None
    assert (workflow.spec.task("a").command, workflow.spec.task("a").files[0].contents) == (("5",), "echo hi\n")


def test_a_mistake_is_shown_with_its_line_a_caret_and_a_hint(site: Site, capsys: Capture) -> None:
    told = osmo(capsys, "workflow", "validate", file(HELLO.replace("command: [echo", "comand: [echo")), code=1)
    assert "w.yaml:6:5: workflow.tasks[0].comand: unknown field 'comand'" in told
    assert "     6 |     comand: [echo, hello]\n       |     ^\n  did you mean 'command'?" in told
    assert osmo(capsys, "workflow", "validate", file()) == "Workflow validation succeeded.\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["workflow", "submit", "absent.yaml"], 1, "no such file"),
        (["workflow", "submit", "absent-3"], 2, "Workflow absent-3 not found"),
        (["workflow", "query", "absent-3"], 2, "Workflow absent-3 not found"),
        (["workflow", "submit", "w.yaml", "--pool", "nowhere"], 2, "There is no pool 'nowhere'"),
        (["workflow", "submit", "w.yaml", "--set", "x"], 1, "name=value"),
        (["workflow", "submitt"], 2, "did you mean 'submit'"),
        (["wrokflow"], 2, "did you mean 'workflow'"),
        (["workflow", "list", "--url", "nonsense"], 2, "is not an address"),
        (["profile", "set", "pool", "nowhere"], 2, "There is no pool"),
    ],
)
def test_mistakes_have_the_exit_codes_that_scripts_know(
    site: Site, capsys: Capture, words: list[str], code: int, told: str
) -> None:
    file()
    assert told in osmo(capsys, *words, code=code)


def test_errors_for_programs_are_json(site: Site, capsys: Capture) -> None:
    told = json.loads(osmo(capsys, "workflow", "query", "absent-3", "-t", "json", code=2))
    assert told == {"message": "Workflow absent-3 not found.", "code": 400, "error_code": "DATABASE"}


def test_nothing_answers_is_code_ten_with_a_hint(site: Site, capsys: Capture) -> None:
    told = osmo(capsys, "workflow", "list", "--url", "http://127.0.0.1:9", code=10)
    assert "osmo up" in told


def test_list_query_and_tag(site: Site, world: World, capsys: Capture) -> None:
    first = mine(world)
    world.now += 100
    second = mine(world)
    lines = osmo(capsys, "workflow", "list").splitlines()
    assert lines[0].split()[:4] == ["Workflow", "ID", "User", "Status"]
    assert [line.split()[0] for line in lines[1:]] == [first, second]
    newest = json.loads(osmo(capsys, "workflow", "list", "--order", "desc", "--count", "1", "-t", "json"))
    assert [w["name"] for w in newest["workflows"]] == [second]
    shown = osmo(capsys, "workflow", "query", first)
    assert "PENDING" in shown
    assert "a-group" in shown
    osmo(capsys, "workflow", "tag", first, "--add", "x", "y")
    assert sorted(json.loads(osmo(capsys, "workflow", "query", first, "-t", "json"))["tags"]) == ["x", "y"]
    assert "no workflows" in osmo(capsys, "workflow", "list", "--status", "completed")


def test_cancel_wait_delete(site: Site, world: World, capsys: Capture) -> None:
    names = [mine(world), mine(world)]
    assert osmo(capsys, "workflow", "cancel", *names, "absent-1", "--message", "enough").splitlines()[:2] == [
        f"{names[0]}: canceled",
        f"{names[1]}: canceled",
    ]
    assert osmo(capsys, "workflow", "wait", *names, code=1) == "".join(f"{n}: FAILED_CANCELED\n" for n in names)
    assert "enough" in osmo(capsys, "explain", names[0])
    world.store.settle([c.seq for c in world.store.outgoing()])
    osmo(capsys, "workflow", "delete", *names)
    assert "absent" in osmo(capsys, "workflow", "delete", "absent-1", code=1)
    assert world.store.find(names[0]) is None


def test_restart_says_the_new_id(site: Site, world: World, capsys: Capture) -> None:
    name = mine(world)
    (key,) = world.start(name, "a")
    world.finish(name, key, 1)
    assert "Workflow ID        - one-2" in osmo(capsys, "workflow", "restart", name)
    assert "only failed workflows" in osmo(capsys, "workflow", "restart", "one-2", code=2)


def test_restart_from_a_task_and_by_a_newer_file(site: Site, world: World, capsys: Capture, tmp_path: Path) -> None:
    name = mine(world)
    (key,) = world.start(name, "a")
    world.finish(name, key)
    assert "one-2" in osmo(capsys, "workflow", "restart", name, "--from", "a")
    newer = tmp_path / "newer.yaml"
    newer.write_text("workflow: {name: one, tasks: [{name: a, image: i, command: [newer]}]}\n")
    told = osmo(capsys, "workflow", "restart", name, "--from", "a", "--file", str(newer))
    assert "one-3" in told
    again = world.store.find("one-3")
    assert again is not None
    assert again.spec.task("a").command == ("newer",)
    assert "without --file" in osmo(capsys, "workflow", "restart", name, "--set", "a=1", code=1)


def test_a_sweep_is_a_table_by_its_figures(site: Site, world: World, capsys: Capture) -> None:
    text = 'workflow: {name: one, tasks: [{name: a, image: i, command: ["{{matrix:lr}}"], matrix: {lr: [1, 2, 3]}}]}'
    name = mine(world, text)
    for task, loss in (("a-0", 0.75), ("a-2", 0.25)):
        (key,) = world.start(name, task)
        world.finish(name, key, usage={"kpi.loss": loss})
    told = osmo(capsys, "workflow", "sweep", name, "a", "--sort", "loss").splitlines()
    assert told[0] == "a: 3 tasks (2 COMPLETED, 1 PROCESSING)"
    assert [line.split()[:2] for line in told if line.startswith("a-")] == [["a-2", "3"], ["a-0", "1"], ["a-1", "2"]]
    assert "nothing is named 'x'" in osmo(capsys, "workflow", "sweep", name, "--sort", "x", code=1)
    assert "no sweep 'b'" in osmo(capsys, "workflow", "sweep", name, "b", code=1)
    assert f"{name}: canceled" in osmo(capsys, "workflow", "cancel", name, "--task", "a")


def test_config_is_shown_changed_and_rolled_back(site: Site, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text("description: ours\nmax_exec_timeout: 1h\n")
    osmo(capsys, "config", "update", "pool", "default", "--file", str(file), "-d", "for us", "--tags", "a")
    assert "description: ours" in osmo(capsys, "config", "show", "pool", "default")
    file.write_text("description: theirs\n")
    osmo(capsys, "config", "update", "pool", "default", "--file", str(file), "--merge")
    told = osmo(capsys, "config", "history").splitlines()
    assert [line.split()[:3] for line in told if line.startswith("POOL")] == [
        ["POOL", "2", "default"],
        ["POOL", "1", "default"],
    ]
    assert "-  description: ours" in osmo(capsys, "config", "diff", "pool", "1", "2")
    osmo(capsys, "config", "rollback", "pool", "1")
    shown = json.loads(osmo(capsys, "config", "show", "pool", "--format-type", "json"))
    assert shown["pools"]["default"]["description"] == "ours"
    osmo(capsys, "config", "tag", "pool", "1", "--set", "b", "--delete", "a")
    osmo(capsys, "config", "delete", "pool", "default")
    assert "osmo-admin" in osmo(capsys, "config", "show", "role")


def test_wait_gives_up_when_told(site: Site, world: World, capsys: Capture) -> None:
    assert "still PENDING" in osmo(capsys, "workflow", "wait", mine(world), "--timeout", "0", code=75)


def test_logs_events_and_spec(site: Site, world: World, capsys: Capture) -> None:
    name = mine(world)
    (key,) = world.start(name, "a")
    world.write(key, "one", "two ü", "three")
    world.finish(name, key, 1)
    assert osmo(capsys, "workflow", "logs", name).splitlines()[1] == "2027/01/15 08:00:00 [a] two ü"
    assert osmo(capsys, "workflow", "logs", name, "-t", "a", "-n", "1").endswith("[a] three\n")
    assert osmo(capsys, "workflow", "logs", name, "--task", "a", "--error") == "one\ntwo ü\nthree\n"
    assert "Submitted" in osmo(capsys, "workflow", "events", name)
    assert osmo(capsys, "workflow", "spec", name, "--template") == ONE
    assert "groups:" in osmo(capsys, "workflow", "spec", name)


def test_outputs_and_download(site: Site, world: World, capsys: Capture) -> None:
    name = world.submit()
    (key,) = world.start(name, "a")
    world.finish(name, key, 0, {"report.txt": b"hi", "deep/er/x.bin": b"\x00" * 3000})
    shown = osmo(capsys, "workflow", "outputs", name)
    assert "report.txt" in shown
    assert "2.9 KiB" in shown
    assert "2 files" in osmo(capsys, "workflow", "download", f"{name}/a", "out dir")
    assert Path("out dir/report.txt").read_bytes() == b"hi"
    osmo(capsys, "workflow", "download", name, "all")
    assert Path("all/a/deep/er/x.bin").stat().st_size == 3000
    assert "no output yet" in osmo(capsys, "workflow", "download", f"{name}/b", "x", code=2)


def play(world: World, name: str, code: int) -> None:
    """What the controller and a node would do with a workflow of one task."""
    deadline = time.monotonic() + 20
    while world.store.find(name) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (key,) = world.start(name, "a")
    world.write(key, "working", "no such scene: /data/x.usd")
    time.sleep(0.5)
    reason = Reason("ExitCode", f"the command ended with exit code {code}") if code else None
    world.finish(name, key, code, {"x": b"1"}, reason)


@pytest.mark.parametrize(("code", "verdict"), [(0, "COMPLETED"), (3, "FAILED")])
def test_run_follows_and_ends_with_the_verdict(
    site: Site, world: World, capsys: Capture, code: int, verdict: str
) -> None:
    thread = in_background(lambda: play(world, "one-1", code))
    told = osmo(capsys, "run", file(ONE), "--id-file", "id", code=1 if code else 0)
    thread.join()
    lines = told.splitlines()
    assert Path("id").read_text() == "one-1\n"
    assert lines[0] == "one-1: 1 task in 1 group, pool default"
    assert "  sandbox  namespaces: bubblewrap works here" in lines
    assert any(line.startswith("a-group/a RUNNING on n1") for line in lines)
    assert f"one-1 {verdict}" in lines
    if code:
        failure = lines[lines.index("one-1 FAILED") + 1 :]
        assert len(failure) <= 12
        assert any("no such scene" in line for line in failure)
        assert failure[-1].split()[0] == "next"


def test_run_on_a_terminal_draws_a_tree(site: Site, world: World) -> None:
    import os
    import pty

    path = Path(file(ONE)).resolve()
    thread = in_background(lambda: play(world, "one-1", 0))
    main_end, other = pty.openpty()
    program = "from osmo_ray.program import main; raise SystemExit(main())"
    root = str(Path(__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    child = subprocess.Popen([sys.executable, "-c", program, "run", str(path)], stdout=other, stdin=other, env=environ)
    os.close(other)
    seen = b""
    while True:
        try:
            data = os.read(main_end, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    os.close(main_end)
    thread.join()
    assert child.wait(20) == 0
    text = seen.decode()
    assert "● a  RUNNING" in text
    assert "✓ a  COMPLETED" in text
    assert "\x1b[" in text


def test_explain_a_waiting_workflow(site: Site, world: World, capsys: Capture) -> None:
    told = osmo(capsys, "explain", world.submit())
    assert "in the queue of pool default" in told
    assert "waits for a-group" in told


def test_lists_of_tasks_pools_and_nodes(site: Site, world: World, capsys: Capture) -> None:
    world.start(mine(world), "a")
    assert "RUNNING" in osmo(capsys, "task", "list")
    assert "one-1" in osmo(capsys, "task", "list", "--aggregate-by-workflow")
    assert "ONLINE" in osmo(capsys, "pool", "list")
    assert "1 of 4" in osmo(capsys, "resource", "list")
    for words in (["task", "list"], ["pool", "list"], ["resource", "list"], ["profile", "list"], ["version"]):
        assert json.loads(osmo(capsys, *words, "-t", "json"))


def test_login_is_tried_stored_privately_and_forgotten(
    site: Site, world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OSMO_URL")
    assert f"logged in to {site.url} as eve" in osmo(capsys, "login", site.url + "/", "--username", "eve")
    stored = tmp_path / "client" / "login.yaml"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert "eve" in osmo(capsys, "profile", "list")
    osmo(capsys, "profile", "set", "notifications", "email", "true")
    assert world.store.profile("eve").email_notification
    assert osmo(capsys, "logout") == "logged out\n"
    assert not stored.exists()
    osmo(capsys, "login", "http://127.0.0.1:9", "--username", "eve", code=10)
    assert not stored.exists()
    assert "unknown or has expired" in osmo(capsys, "login", site.url, "--method", "token", "--token", "x", code=2)


def test_a_stored_token_goes_to_its_own_address_only(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from osmo_ray.sdk.login import Login, resolve, write

    write(Login("https://other.example", "", "secret"))
    assert resolve().url == site.url
    assert resolve().token == ""
    monkeypatch.delenv("OSMO_URL")
    assert resolve() == Login("https://other.example", "", "secret")
    assert resolve(site.url).token == ""


def test_a_client_that_hangs_up_ends_its_stream(site: Site, world: World) -> None:
    name = mine(world)
    (key,) = world.start(name, "a")
    world.write(key, "one")
    lines = Client(site.url).logs(name)
    assert next(lines).endswith("[a] one")
    before = world.nodes.calls
    deadline = time.monotonic() + 20
    while world.nodes.calls == before:  # it follows
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines.close()  # type: ignore[attr-defined]
    calls = -1
    while calls != world.nodes.calls:  # and then it does not
        assert time.monotonic() < deadline
        calls = world.nodes.calls
        time.sleep(0.6)


def test_the_python_client(site: Site, world: World, tmp_path: Path) -> None:
    with Client(site.url, user="ann") as client:
        name = client.submit(ONE.replace("[c]", '["{{x}}"]'), set=["x=1"], priority="low")
        assert name == "one-1"
        thread = in_background(lambda: play(world, name, 0))
        lines = list(client.logs(name))
        assert lines[-1].endswith("[a] no such scene: /data/x.usd")
        state = client.wait(name, timeout=20)
        thread.join()
        assert (state.status, state.user, [t.status for t in state.tasks]) == ("COMPLETED", "ann", ["COMPLETED"])
        assert [f.path for f in client.outputs(name)] == ["x"]
        assert client.download(name, tmp_path / "out", "a").files == 1
        assert [w["name"] for w in client.list()] == [name]
        assert client.validate(ONE) == "Workflow validation succeeded."
        with pytest.raises(ClientError) as caught:
            client.submit(ONE.replace("command", "comand"))
        assert caught.value.problems[0]["hint"] == "did you mean 'command'?"
        again = client.resubmit(name)
        client.cancel(again, "enough")
        assert client.wait(again).status == "FAILED_CANCELED"
        world.store.settle([c.seq for c in world.store.outgoing()])
        client.delete(again)
    with pytest.raises(Unreachable), Client("http://127.0.0.1:9") as client:
        client.list()


def test_a_client_that_waits_bears_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from osmo_ray.sdk import http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    name = world.submit(ONE)
    site = Site(world)
    client = Client(site.url)
    calls = 0
    real = client.http._once

    def flaky(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise ConnectionRefusedError
        return real(*args)

    monkeypatch.setattr(client.http, "_once", flaky)
    states = client.follow(name, poll=0.0)
    assert next(states).status == "PENDING"
    (key,) = world.start(name, "a")
    world.finish(name, key)
    assert [s.status for s in states][-1] == "COMPLETED"
    assert calls >= 4
    site.close()


def test_an_archive_cannot_leave_its_folder(site: Site, world: World, tmp_path: Path) -> None:
    name = world.submit(ONE)
    (key,) = world.start(name, "a")
    folder = tmp_path / "platform" / "work" / str(key)
    folder.mkdir(parents=True)
    (folder / "evil").symlink_to("/etc")
    folder.rename(tmp_path / "kept")
    world.finish(name, key, 0, {"x": b"1"})
    from osmo_ray.runtime.transfer import upload

    upload(world.objects, world.task(name, "a").output, tmp_path / "kept")
    done = Client(site.url).download(name, tmp_path / "out", "a")
    assert done.skipped == ("evil",)
    assert not (tmp_path / "out" / "evil").exists()


def test_every_verb_has_help_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom osmo_ray.program import main, VERBS, WORKFLOW\n"
        "main(['--help'])\nmain(['workflow', '--help'])\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('ray', 'fastapi', 'pydantic', 'rich', 'sqlalchemy', 'yaml', 'jinja2', 'httpx', 'argparse')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in (*VERBS, *WORKFLOW):
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize(
    "verb", [["workflow", name] for name in WORKFLOW] + [["run"], ["explain"], ["login"], ["task", "list"]]
)
def test_help_of_each_verb(verb: list[str], capsys: Capture) -> None:
    assert f"usage: osmo {' '.join(verb)}" in osmo(capsys, *verb, "--help")


def test_attempt_keys_are_plain() -> None:
    assert str(AttemptKey.parse("abc-0")) == "abc-0"
