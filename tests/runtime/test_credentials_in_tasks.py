"""Secrets on a node: kept beside the plan and gone with its end, masked in the log however they are written."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from osmo_ray.objects import keyed
from osmo_ray.runtime import codec, container, work
from osmo_ray.runtime.logs import Log
from osmo_ray.runtime.masking import Masker
from osmo_ray.runtime.spool import Spool
from osmo_ray.spec.attempt import (
    AttemptKey,
    AttemptPlan,
    DataKey,
    FilePlan,
    Observation,
    Phase,
    RegistryLogin,
    Secrets,
)

SECRET = "correct-horse-battery"
KEY = AttemptKey("0" * 32, 0)
SECRETS = Secrets({"TOKEN": SECRET}, (FilePlan("/s/f", SECRET),), (SECRET,), RegistryLogin("r", "u", SECRET))


def plan(secrets: Secrets) -> AttemptPlan:
    return AttemptPlan(KEY, "w-1", "u", "g", "gu", "a", "ann", "n", "i", ("env",), secrets=secrets)


def test_a_plan_on_disk_holds_no_secret_and_gives_them_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    job = codec.Job(plan(SECRETS), "none")
    assert spool.accept(job, Observation(KEY, Phase.ACCEPTED, 1.0)) is not None
    folder = spool.folder(KEY)
    assert [f.name for f in folder.path.iterdir() if SECRET in f.read_text()] == ["secrets.json"]
    assert (folder.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert folder.job() == job
    folder.remove_spent()
    assert not (folder.path / "secrets.json").exists()
    after = folder.job()
    assert after is not None and after.plan.secrets == Secrets()


def test_a_plan_without_secrets_makes_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    assert spool.accept(codec.Job(plan(Secrets()), "none"), Observation(KEY, Phase.ACCEPTED, 1.0)) is not None
    assert not (spool.folder(KEY).path / "secrets.json").exists()


@pytest.mark.parametrize("cut", range(1, len(SECRET)))
def test_a_secret_split_over_two_writes_is_masked(tmp_path: Path, cut: int) -> None:
    log = Log(tmp_path / "log", masker=Masker([SECRET]))
    log.open()
    log.output(f"begin {SECRET[:cut]}".encode())
    log.flush()  # a quiet second
    log.output(f"{SECRET[cut:]} end\n".encode())
    log.ended()
    text = (tmp_path / "log").read_text()
    assert SECRET[:8] not in text and SECRET[-8:] not in text
    assert "[MASKED] end" in text


def test_base64_and_the_platforms_own_lines_are_masked(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", masker=Masker([SECRET]))
    log.open()
    log.output(base64.b64encode(f"user:{SECRET}".encode()) + b"\n")
    log.say(f"the input s3://{SECRET}/x failed")
    log.output(f"unfinished {SECRET[:6]}".encode())
    log.ended()
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert "[MASKED]" in lines[0] and base64.b64encode(SECRET.encode()).decode()[4:-4] not in lines[0]
    assert lines[1:] == ["the input s3://[MASKED]/x failed", f"unfinished {SECRET[:6]}"]


def test_a_registry_login_stands_in_a_file_for_the_pull_alone(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    engine = tmp_path / "podman"
    engine.write_text(
        f'#!/bin/sh\n[ "$1" = image ] && exit 1\necho "$@" > {seen}; cp "$4" {seen}.json; stat -c %a "$4" >> {seen}\n'
    )
    engine.chmod(0o755)
    login = RegistryLogin("nvcr.io", "$oauthtoken", SECRET)
    assert container.pull(str(engine), "nvcr.io/x:1", "", login, tmp_path) is None
    line, mode = seen.read_text().splitlines()
    assert SECRET not in line and line.startswith("pull --quiet --authfile")
    assert mode == "600"
    word = json.loads((tmp_path / "seen.json").read_text())["auths"]["nvcr.io"]["auth"]
    assert base64.b64decode(word).decode() == f"$oauthtoken:{SECRET}"
    assert not (tmp_path / "config.json").exists()


def test_the_key_of_the_longest_endpoint_is_used() -> None:
    keys = (DataKey("s3://b", "one", "k"), DataKey("s3://b/deep", "two", "k", "eu", "http://127.0.0.1:9"))
    assert keyed.store_options(keys, "s3://b/x")["key"] == "one"
    assert keyed.store_options(keys, "s3://b/deep/x") == {
        "key": "two", "secret": "k", "endpoint_url": "http://127.0.0.1:9", "client_kwargs": {"region_name": "eu"},
    }  # fmt: skip
    assert keyed.store_options(keys, "s3://bother/x") == {}
    assert keyed.store_options((DataKey("az://c", "acc", "k"),), "az://c/x") == {
        "account_name": "acc",
        "account_key": "k",
    }


def test_a_store_is_reached_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment names the server or the key: they come from the credential alone."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/robots", method="PUT"), timeout=10).close()
        key = DataKey("s3://robots", "id", "secret", "us-east-1", url)
        store = work.open_store("s3://robots/run", **keyed.store_options([key], "s3://robots/run"))
        store.write("x", b"hello")
        assert store.read("x") == b"hello"
    finally:
        server.stop()
