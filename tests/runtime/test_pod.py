"""The programs at both ends of a task in a pod, in a folder of this machine; on a real node see tests/backends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.objects.datasets.bucket import open_bucket
from osmo_ray.objects.datasets.dataset import About, Dataset, Source
from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.runtime import transfer
from osmo_ray.runtime.codec import Job, Orders, orders_to_json
from osmo_ray.runtime.logs import Log, stored_log
from osmo_ray.runtime.mirror import Mirror
from osmo_ray.runtime.pod import before as init
from osmo_ray.runtime.pod import beside as ctrl
from osmo_ray.runtime.pod import job as told
from osmo_ray.runtime.pod import names, patience
from osmo_ray.runtime.pod.shared import Words
from osmo_ray.runtime.pod.telling import judge, tell
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, DatasetPlan, FilePlan, InputPlan, OutputPlan, Secrets
from osmo_ray.spec.tokens import Tokens

KEY = AttemptKey("a" * 32, 1)
PLAN = AttemptPlan(KEY, "w-1", "u" * 32, "g", "b" * 32, "t", "ann", "n1", "image:1", ("run", "{{output}}", "$(WORD)"))
ZERO = {"exit": 0, "began": 1.0, "ended": 2.0, "cpu": 0.5, "peak": 7}


class World:
    """A shared folder as a pod has it, a store, and what the program would tell Kubernetes."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.orders, self.hosts = folder / "osmo", folder / "orders", folder / "hosts"
        self.root.mkdir()
        self.orders.mkdir()
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.storage = folder / "storage"
        self.message = folder / "message"
        launcher = folder / "launcher"
        launcher.write_text("program")
        patch.setenv("OSMO_LAUNCHER", str(launcher))
        write_hosts = ctrl.write_hosts
        for module in (init, ctrl):
            patch.setattr(module, "tell", lambda result: tell(result, self.message))
        patch.setattr(ctrl, "write_hosts", lambda plan, hosts: write_hosts(plan, hosts, self.hosts))
        patch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))

    def job(self, plan: AttemptPlan) -> Job:
        return Job(plan, "pod", storage_url=self.storage.as_uri())

    def read(self, name: str) -> Any:
        return json.loads((self.root / name).read_text())

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.message.read_text()))

    def give_orders(self, orders: Orders) -> None:
        (self.orders / "orders").write_text(json.dumps(orders_to_json(orders)))

    def end(self, value: dict[str, Any] | None) -> None:
        """The launcher has run and gone."""
        if value is not None:
            (self.root / "run/end.json").write_text(json.dumps(value))
        (self.root / "run/began").touch()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The init container sets its umask; this process gets its own back."""
    before = os.umask(0o22)
    yield World(tmp_path, monkeypatch)
    os.umask(before)


def test_before_the_command_all_is_there(world: World):
    plan = replace(
        PLAN,
        environment={"WORD": "of {{workflow_id}}"},
        files=(FilePlan("/etc/a", "in {{output}}"), FilePlan("{{output}}/b", "aGk=", base64=True)),
    )
    assert init.before(world.job(plan), world.root) == 0
    start = world.read("run/start.json")
    assert start["argv"] == ["run", "/osmo/data/output", "of w-1"] and start["barrier"] is False
    assert start["env"]["OSMO_ATTEMPT"] == str(KEY) and "PATH" not in start["env"]
    assert (world.root / "run/files/0").read_text() == "in /osmo/data/output"
    assert (world.root / "data/output/b").read_text() == "hi"
    assert (world.root / "bin/launcher").stat().st_mode & 0o777 == 0o755
    assert (world.root / "run/log").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"inputs": (InputPlan("prefix", "nothing"),)}, 2010),
        ({"files": (FilePlan("relative", ""),)}, 2032),
        ({"files": (FilePlan("/osmo/bin/launcher", ""),)}, 2032),
        ({"argv": ()}, 2031),
    ],
)
def test_what_cannot_be_had_is_told_with_its_code(world: World, change: dict[str, Any], code: int):
    assert init.before(world.job(replace(PLAN, **change)), world.root) == 1
    assert world.told["exit_code"] == code and world.told["reason"]["sentence"]
    log = stored_log(LocalStore(world.storage), PLAN.workflow_uuid, KEY, 0, 1 << 16)
    assert log.end and world.told["reason"]["sentence"].encode() in log.data


def test_after_the_command_its_output_and_log_are_kept(world: World):
    job = world.job(replace(PLAN, outputs=(OutputPlan("prefix", "out/1"),)))
    init.before(job, world.root)
    (world.root / "data/output/x").write_text("made")
    with (world.root / "run/log").open("ab") as log:
        log.write(b"1 O hello\n")
    world.end(ZERO)
    assert ctrl.beside(job, world.root, world.orders) == 0
    assert (world.told["exit_code"], world.told["output"], world.told["usage"]["memory_peak"]) == (0, "out/1", 7.0)
    assert LocalStore(world.storage).read("out/1/x") == b"made"
    kept = stored_log(LocalStore(world.storage), PLAN.workflow_uuid, KEY, 0, 1 << 16)
    assert kept.end and b"1 O hello\n" in kept.data and b"output: 1 file" in kept.data


@pytest.mark.parametrize("where", ["run/log", "run", "data/output", "data", "run/end.json"])
def test_links_that_the_task_makes_lead_nowhere(world: World, where: str, capfdbinary: pytest.CaptureFixture[bytes]):
    """This program reads what the task must not: its job with the keys of the storage."""
    job = world.job(replace(PLAN, outputs=(OutputPlan("prefix", "out/1"),)))
    init.before(job, world.root)
    secret = world.root / "hidden"
    (secret / "output").mkdir(parents=True)
    for name in ("log", "job.json", "end.json", "output/job.json"):
        (secret / name).write_text('{"exit": 0, "began": 0, "ended": 1, "token": "very-secret"}\n')
    beside = ctrl.Beside(job, world.root, world.orders)
    (world.root / "data/output/made").write_text("by the task")
    world.end(ZERO)
    target = world.root / where
    target.rename(world.root / "aside")
    target.symlink_to(secret / "job.json" if where in ("run/log", "run/end.json") else secret)
    if where == "run":
        (secret / "began").touch()
        (secret / "lock").touch()
        with pytest.raises(OSError, match="run"):
            beside.run()
    else:
        assert beside.run() == 0
        assert world.told["exit_code"] == {"run/end.json": None}.get(where, 0)
        assert (world.storage / "out/1/made").exists() is (where != "run/end.json")
    kept = b"".join(f.read_bytes() for f in world.storage.rglob("*") if f.is_file())
    assert b"very-secret" not in kept + capfdbinary.readouterr().out


@pytest.mark.parametrize("where", ["run/log", "run", "data/output"])
def test_links_that_were_there_before_are_refused(world: World, where: str):
    job = world.job(PLAN)
    init.before(job, world.root)
    (world.root / where).rename(world.root / "aside")
    (world.root / where).symlink_to(world.root / "aside")
    with pytest.raises(OSError):
        ctrl.Beside(job, world.root, world.orders)


@pytest.mark.parametrize("word", ["go", "release", "kept"])
def test_words_to_the_launcher_are_written_through_no_link(world: World, tmp_path: Path, word: str):
    """A file of ours elsewhere is neither made nor touched, nor is one removed."""
    init.before(world.job(PLAN), world.root)
    words = Words(world.root)
    (world.root / "run" / word).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        words.say(word)
    words.take_back(word)
    assert word not in words and not (tmp_path / "elsewhere").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / word).touch()
    (world.root / "run").rename(tmp_path / "aside")
    (world.root / "run").symlink_to(tmp_path / "other")
    for act in (words.say, words.take_back, words.__contains__):
        with pytest.raises(OSError):
            act(word)
    assert (tmp_path / "other" / word).exists()


def test_a_launcher_that_was_killed_leaves_the_code_to_kubernetes(world: World):
    job = world.job(replace(PLAN, outputs=(OutputPlan("prefix", "out/1"),)))
    init.before(job, world.root)
    world.end(None)
    assert ctrl.beside(job, world.root, world.orders) == 0
    assert (world.told["exit_code"], world.told["output"]) == (None, "")


def test_an_output_that_cannot_be_kept_fails_the_attempt(world: World, monkeypatch: pytest.MonkeyPatch):
    job = replace(world.job(replace(PLAN, outputs=(OutputPlan("url", "gopher://x"),))))
    init.before(job, world.root)
    world.end(ZERO)
    assert ctrl.beside(job, world.root, world.orders) == 1
    assert world.told["exit_code"] == 2012 and "gopher" in world.told["reason"]["sentence"]


def test_the_barrier_opens_for_its_generation_with_the_siblings_names(world: World):
    """It is opened only once the launcher lives, for Kubernetes writes the hosts file anew at its start."""
    plan = replace(PLAN, barrier=True, go=False, restart=2, peers=("t", "other"))
    init.before(world.job(plan), world.root)
    assert world.read("run/start.json")["barrier"] is True
    world.give_orders(Orders(restart=2, go=2, hosts={"other": "10.0.0.2"}))
    (world.root / "run/lock").touch()
    with (world.root / "run/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        beside = ctrl.Beside(world.job(plan), world.root, world.orders)
        beside._read_orders()
        assert not (world.root / "run/go").exists()
        (world.root / "run/began").touch()
        world.give_orders(Orders(restart=1, go=1))
        beside._read_orders()
        assert not (world.root / "run/go").exists()
        world.give_orders(Orders(restart=2, go=2, hosts={"other": "10.0.0.2"}))
        beside._read_orders()
    assert (world.root / "run/go").exists()
    assert "10.0.0.2 other.w-1.osmo other" in world.hosts.read_text()
    assert world.hosts.read_text().startswith("127.0.0.1 localhost\n")


def test_new_names_replace_the_old_ones(world: World):
    for address in ("10.0.0.2", "10.0.0.3"):
        ctrl.write_hosts(PLAN, {"other": address})
    assert world.hosts.read_text().count("other.w-1.osmo") == 1 and "10.0.0.3" in world.hosts.read_text()


def test_it_waits_as_long_as_the_launcher_lives(world: World):
    job = world.job(PLAN)
    init.before(job, world.root)
    done = threading.Event()
    with (world.root / "run/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world.end(ZERO)
        beside = ctrl.Beside(job, world.root, world.orders)
        waiting = threading.Thread(target=lambda: (beside._until_end(), done.set()))
        waiting.start()
        assert not done.wait(0.3)
    assert done.wait(10)
    waiting.join()


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        ({"error": "missing", "message": "prog"}, 3003, "CommandNotFound"),
        ({"error": "exec", "message": "prog: permission denied"}, 3003, "StartError"),
        ({"signal": 9, "began": 0.0, "ended": 1.0}, 137, "CommandFailed"),
        ({"exit": 3, "began": 0.0, "ended": 1.0}, 3, "CommandFailed"),
        ({"exit": 0, "began": 0.0, "ended": 1.0}, 0, ""),
        ({}, None, ""),
    ],
)
def test_what_an_end_means(tmp_path: Path, end: dict[str, Any], code: int | None, reason: str):
    log = Log(tmp_path / "log")
    log.open()
    found, why = judge(PLAN, end, log)
    assert (found, why.code if why else "") == (code, reason)


@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f680"])
def test_a_long_reason_fits_into_the_message(tmp_path: Path, letter: str):
    reason = {"code": "C", "sentence": letter * 5000, "evidence": {f"e{n}": letter * 2000 for n in range(9)}}
    tell({"exit_code": 1, "reason": {**reason, "next_command": ""}, "at": 1.0}, tmp_path / "m")
    text = (tmp_path / "m").read_text()
    assert len(text) < 4096 and json.loads(text)["reason"]["code"] == "C"


def test_the_mirror_says_where_each_line_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out))
    mirror = Mirror(tmp_path / "log")
    mirror.step()
    (tmp_path / "log").write_bytes(b"1 O a\n2 O b\nhalf")
    mirror.step()
    (tmp_path / "log").write_bytes(b"1 O a\n2 O b\nhalf done\n")
    mirror.step()
    assert out.getvalue() == b"0 1 O a\n6 2 O b\n12 half done\n"


def test_large_files_wait_in_the_storage(world: World):
    plan = replace(PLAN, files=(FilePlan("/big", "x"), FilePlan("/b", "aGk=", base64=True)))
    LocalStore(world.storage).write("files", told.files_to_json(plan.files))
    text = told.job_to_json(plan, world.storage.as_uri(), "files")
    assert told.job_from_json(text, with_files=True).plan.files == plan.files
    assert told.job_from_json(text, with_files=False).plan.files == ()
    assert told.job_from_json(told.job_to_json(plan, "", ""), with_files=True).plan.files == plan.files


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/etc/x", ("mount", "/etc/x")),
        ("/etc/../y", ("mount", "/y")),
        ("{{output}}/a/b", ("output", "a/b")),
        ("/osmo/data/output/../../run/start.json", ("refused", "")),
        ("/osmo/data/input/0/x", ("refused", "")),
        ("x", ("refused", "")),
        ("/", ("refused", "")),
        ("/a:b", ("refused", "")),
    ],
)
def test_where_files_may_go(path: str, found: tuple[str, str]):
    kind, target = names.file_target(path, Tokens("w", "/osmo/data/output"))
    assert kind == found[0] and (kind == "refused" or target == found[1])


SECRETS = Secrets({"TOKEN": "correct horse"}, (FilePlan("/etc/key", "battery staple"),), ("correct horse",))


def test_of_credentials_only_names_are_written_down(world: World):
    """The launcher has the values from its environment, which Kubernetes fills."""
    plan = replace(PLAN, argv=("run", "--token=$(TOKEN)", "$$(TOKEN)"), secrets=SECRETS)
    text = told.job_to_json(plan, world.storage.as_uri(), "")
    job = told.job_from_json(text, with_files=True)
    assert job.plan.secrets == Secrets({"TOKEN": ""}, (), ("correct horse",))
    assert init.before(job, world.root) == 0
    assert world.read("run/start.json")["argv"] == ["run", "--token=\0TOKEN\0", "$(TOKEN)"]
    kept = b"".join(path.read_bytes() for path in world.root.rglob("*") if path.is_file())
    assert b"correct horse" not in kept and b"battery staple" not in kept


def test_a_credential_that_is_gone_fails_the_start_in_words_without_secrets(world: World):
    gone = Secrets(missing="the credential 'correct horse' is not there any more", masked=("correct horse",))
    assert init.before(world.job(replace(PLAN, secrets=gone)), world.root) == 1
    assert world.told["exit_code"] == 3003
    assert "[MASKED]" in world.told["reason"]["sentence"] and "horse" not in json.dumps(world.told)
    assert "horse" not in (world.root / "run/log").read_text()


def test_datasets_of_a_pod_need_no_folder_of_a_node(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In and out, by a bucket below the platform's storage."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = Dataset(open_bucket(LocalStore(world.storage / "datasets")), "d", create=True)
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen/a").write_text("one")
    dataset.upload([Source(tmp_path / "seen")], About(created_by="ann"))
    wanted = InputPlan("dataset", "d", "d", datasets=(DatasetPlan("b", "datasets", "d", 1),))
    out = OutputPlan("dataset", "", dataset=DatasetPlan("b", "datasets", "made"))
    plan = replace(PLAN, inputs=(wanted,), outputs=(out,))
    assert init.before(world.job(plan), world.root) == 0
    assert (world.root / "data/input/0/d/a").read_text() == "one"
    (world.root / "data/output/b").write_text("two")
    world.end(ZERO)
    assert ctrl.beside(world.job(plan), world.root, world.orders) == 0
    assert Dataset(open_bucket(LocalStore(world.storage / "datasets")), "made").version("latest").files == 1


class Away:
    """Someone's storage, for the first few calls that change it away."""

    def __init__(self, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.waited = calls, 0
        for name in ("write", "upload"):
            monkeypatch.setattr(LocalStore, name, self._failing(getattr(LocalStore, name)))
        monkeypatch.setattr(patience.time, "sleep", self._wait)
        monkeypatch.setattr(transfer, "_TRIES", 1)

    def _failing(self, real: Any) -> Any:
        def act(*args: Any) -> Any:
            self.left -= 1
            if self.left >= 0:
                raise ObjectError("connection refused", permanent=False)
            return real(*args)

        return act

    def _wait(self, seconds: float) -> None:
        self.waited += 1


@pytest.mark.parametrize("outputs", [(), (OutputPlan("prefix", "out/1"),)])
def test_a_storage_that_is_away_at_the_end_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, outputs: tuple[OutputPlan, ...]
):
    job = world.job(replace(PLAN, outputs=outputs))
    init.before(job, world.root)
    (world.root / "data/output/x").write_text("made")
    world.end(ZERO)
    away = Away(3, monkeypatch)
    assert ctrl.beside(job, world.root, world.orders) == 0
    assert away.waited >= 3 and world.told["exit_code"] == 0
    assert stored_log(LocalStore(world.storage), PLAN.workflow_uuid, KEY, 0, 1 << 16).end
    assert (world.storage / "out/1/x").exists() is bool(outputs)


def test_patience_with_a_storage_ends(world: World, monkeypatch: pytest.MonkeyPatch):
    job = world.job(replace(PLAN, outputs=(OutputPlan("prefix", "out/1"),)))
    init.before(job, world.root)
    world.end(ZERO)
    monkeypatch.setattr(ctrl, "AFTER", -1.0)
    Away(1 << 30, monkeypatch)
    assert ctrl.beside(job, world.root, world.orders) == 1
    assert world.told["exit_code"] == 2012 and "connection refused" in world.told["reason"]["sentence"]


def test_inputs_are_fetched_anew_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch):
    transfer.upload(LocalStore(world.storage), "in", _folder(world.root.parent / "made", a="one", b="two"))
    real, failed = LocalStore.download, []

    def once(self: LocalStore, key: str, target: Path) -> None:
        if key.endswith("/b") and not failed:
            failed.append(key)
            raise ObjectError("connection refused", permanent=False)
        real(self, key, target)

    monkeypatch.setattr(LocalStore, "download", once)
    monkeypatch.setattr(transfer, "_TRIES", 1)
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    job = world.job(replace(PLAN, inputs=(InputPlan("prefix", "in"),)))
    assert init.before(job, world.root) == 0 and failed
    assert sorted(path.name for path in (world.root / "data/input/0").iterdir()) == ["a", "b"]


def _folder(root: Path, **files: str) -> Path:
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    return root
