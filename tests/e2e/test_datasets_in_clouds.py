"""Datasets in buckets of real S3 and Azure servers, from the command line and in workflows, with keys of a profile.

The platform's environment holds no key: users set theirs by `osmo credential set`, for the platform and for themselves.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from osmo_ray.objects import open_store
from tests.e2e.harness import Platform
from tests.objects.faulty_wire import wire
from tests.servers import buckets
from tests.servers.azurite import ACCOUNT, KEY, azurite

pytestmark = pytest.mark.ray

WORK = """workflow:
  name: sort
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c]
    args:
    - |
      ls {{input:0}}/cats; cat {{input:1}}/url.txt; sort {{input:0}}/cats/a.txt > {{output}}/s.txt
    inputs:
    - dataset: cats
    - url: PLACE/raw
    outputs:
    - dataset: {name: 'sorted-{{workflow_id}}:best', regex: '.*\\.txt$'}
    - update_dataset: {name: cats, paths: ['s.txt:sorted']}
    - url: PLACE/out/{{workflow_id}}
  - name: b
    image: ubuntu
    command: [sh, -c, "cat {{input:0}}/s.txt"]
    inputs:
    - task: a
"""


@dataclass
class Cloud:
    """A platform whose default bucket is `place`; `payload` opens it."""

    platform: Platform
    place: str
    payload: list[str]
    folder: Path

    def osmo(self, *words: str, code: int = 0) -> str:
        done = self.platform.cli(*words, check=False)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def told(self, *words: str) -> Any:
        return json.loads(self.platform.cli(*words, "-t", "json").stdout)


def started(place: str, payload: list[str]) -> Iterator[Cloud]:
    home = Path(tempfile.mkdtemp(prefix="osmo-e2e-"))
    buckets = json.dumps({"robots": {"path": f"{place}/data"}, "shelf": {"path": f"{place}/data", "mode": "read-only"}})
    extra = {"OSMO_BUCKETS": buckets, "OSMO_DEFAULT_BUCKET": "robots"}
    hidden = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }
    platform = Platform(home, extra={**extra, **hidden})
    try:
        platform.up()
        yield Cloud(platform, place, payload, home / "files")
    finally:
        platform.down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[Cloud]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # its memory is the whole process's
    keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "very-secret-key", "region_name": "us-east-1"}
    boto3.resource("s3", endpoint_url=url, **keys).Bucket("robots").create()
    values = {
        "endpoint": "s3://robots",
        "access_key_id": "AKID",
        "access_key": "very-secret-key",
        "region": "us-east-1",
    }
    try:
        yield from started("s3://robots", [f"{k}={v}" for k, v in {**values, "override_url": url}.items()])
    finally:
        server.stop()


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    from adlfs import AzureBlobFileSystem

    with azurite(tmp_path_factory.mktemp("azurite")) as url:
        told = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url}"
        AzureBlobFileSystem(connection_string=told).mkdir("robots")
        values = {"endpoint": f"azure://{ACCOUNT}", "access_key_id": ACCOUNT, "access_key": KEY, "override_url": url}
        yield from started(f"azure://{ACCOUNT}/robots", [f"{k}={v}" for k, v in values.items()])


def the_whole_command_line(cloud: Cloud) -> None:
    osmo, told, files = cloud.osmo, cloud.told, cloud.folder
    (files / "in/sub").mkdir(parents=True)
    (files / "in/a.txt").write_text("b\na\n")
    (files / "in/sub/b.png").write_text("picture")
    (files / "raw").mkdir()
    (files / "raw/url.txt").write_text("from a url\n")
    (files / "q").write_text('label.kind = "pets"')
    (files / "m").write_text("metadata.score >= 7")
    osmo("credential", "set", "store", "--type", "DATA", "--payload", *cloud.payload)
    assert stat_mode(cloud.platform.home / "client" / "config.yaml") == 0o600
    assert "robots (default)" in osmo("bucket", "list") and "read-only" in osmo("bucket", "list")
    assert told("dataset", "upload", "cats:first", f"{files}/in/*")["files"] == 2
    (files / "in/new.txt").write_text("more")
    assert told("dataset", "update", "cats", "--add", f"{files}/in/new.txt:deep", "--remove", r"sub/")["version"] == "2"
    osmo("dataset", "download", "cats:first", f"{files}/out")
    assert (files / "out/cats/sub/b.png").read_text() == "picture"
    assert [d["name"] for d in told("dataset", "list", "-b", "robots")["datasets"]] == ["cats"]
    assert [v["version"] for v in told("dataset", "info", "cats")["versions"]] == ["1", "2"]
    assert told("dataset", "tag", "cats:2", "--set", "second")["tags"] == ["second"]
    osmo("dataset", "label", "cats", "--set", "kind:string:pets")
    osmo("dataset", "metadata", "cats:1", "--set", "score:numeric:7")
    assert [d["name"] for d in told("dataset", "query", f"{files}/q")["datasets"]] == ["cats"]
    assert [d["version"] for d in told("dataset", "query", f"{files}/m")["datasets"]] == ["1"]
    osmo("dataset", "upload", "dogs", f"{files}/q")
    osmo("dataset", "collect", "both", "cats:1", "dogs")
    assert told("dataset", "recollect", "both", "--remove", "dogs")["versions"] == [
        {"dataset_name": "cats", "version": "1"}
    ]
    osmo("dataset", "rename", "dogs", "wolves")
    assert {f["relative_path"] for f in told("dataset", "inspect", "cats:2")} == {"a.txt", "deep", "deep/new.txt"}
    assert "- sub/b.png" in osmo("dataset", "diff", "cats", "1", "2")
    assert [v["number"] for v in told("dataset", "log", "cats")] == [2, 1]
    assert told("dataset", "verify") == {"wrong": []}
    assert told("dataset", "verify", "--rebuild-index")["datasets"] == 2
    osmo("dataset", "delete", "wolves", "--all", "--force")
    assert "1 pack condemned" in osmo("dataset", "gc", "--grace", "0")
    assert "read-only" in osmo("dataset", "upload", "shelf/cats", f"{files}/in", code=2)
    assert json.loads(osmo("data", "check", f"{cloud.place}/raw", "-a", "WRITE"))["status"] == "pass"
    assert told("data", "upload", f"{cloud.place}", f"{files}/raw")["files"] == 1
    assert [o["key"] for o in told("data", "list", f"{cloud.place}/raw")] == ["url.txt"]
    assert told("data", "download", f"{cloud.place}/raw", f"{files}/down")["files"] == 1


def workflows_read_and_write(cloud: Cloud) -> None:
    id = cloud.platform.submit(WORK.replace("PLACE", cloud.place))
    assert cloud.platform.wait(id) == "COMPLETED", cloud.osmo("workflow", "logs", id)
    told = cloud.osmo("workflow", "logs", id, "--task", "a")
    assert "a.txt" in told and "from a url" in told, told
    assert "very-secret-key" not in told and KEY not in told
    names = {d["name"]: d["version_id"] for d in cloud.told("dataset", "list", "-a", "-b", "robots")["datasets"]}
    assert names == {"cats": "3", f"sorted-{id}": "1", "both": None}, "what tasks write is in the index"
    assert [f["relative_path"] for f in cloud.told("dataset", "inspect", f"sorted-{id}:best")] == ["s.txt"]
    assert cloud.told("dataset", "lineage", f"sorted-{id}")["made"][0]["inputs"] == [
        "robots/cats:2",
        f"{cloud.place}/raw",
    ]
    assert cloud.told("data", "delete", f"{cloud.place}/out/{id}") == {"deleted": 1}


def without_the_key_nothing_opens(cloud: Cloud) -> None:
    cloud.osmo("credential", "delete", "store")
    told = cloud.osmo("dataset", "inspect", "cats", code=2)
    assert "bucket robots at s3://robots/data does not open" in told and "osmo credential set" in told


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_s3(s3: Cloud) -> None:
    the_whole_command_line(s3)
    workflows_read_and_write(s3)
    without_the_key_nothing_opens(s3)


@pytest.mark.servers
def test_azure(azure: Cloud) -> None:
    the_whole_command_line(azure)
    workflows_read_and_write(azure)


COPY = """workflow:
  name: copy
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c, "cat {{input:0}}/secret/words; cp {{input:0}}/secret/words {{output}}/again"]
    inputs: [{dataset: secret}]
    outputs: [{dataset: copied}]
"""


def test_encrypted_datasets_of_a_bucket(tmp_path: Path) -> None:
    """The key is part of the credential: people and tasks read and write, and the store never sees a word of it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # its memory is the whole process's
    keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "very-secret-key", "region_name": "us-east-1"}
    place = boto3.resource("s3", endpoint_url=url, **keys).Bucket("hidden")
    place.create()
    payload = ["endpoint=s3://hidden", "access_key_id=AKID", "access_key=very-secret-key", f"override_url={url}"]
    sealed = "5e" * 32
    (tmp_path / "words").write_text("nobody may know\n")
    try:
        for cloud in started("s3://hidden", [*payload, "region=us-east-1"]):
            bad = cloud.osmo(
                "credential", "set", "x", "--type", "DATA", "--payload", *payload, "encryption_key=5e", code=2
            )
            assert "encryption_key" in bad
            words = ("credential", "set", "store", "--type", "DATA", "--payload", *cloud.payload)
            cloud.osmo(*words, f"encryption_key={sealed}")
            cloud.osmo("dataset", "upload", "secret", str(tmp_path / "words"))
            id = cloud.platform.submit(COPY)
            assert cloud.platform.wait(id) == "COMPLETED", cloud.osmo("workflow", "logs", id)
            assert "nobody may know" in cloud.osmo("workflow", "logs", id)
            cloud.osmo("dataset", "download", "copied", str(tmp_path / "out"))
            assert (tmp_path / "out/copied/again").read_text() == "nobody may know\n"
            assert {d["name"] for d in cloud.told("dataset", "list", "-a")["datasets"]} == {"secret", "copied"}
            stored = [(one.key, one.get()["Body"].read()) for one in place.objects.all()]
            assert any("/packs/" in key for key, _ in stored)
            assert not any(b"nobody" in data or b"words" in data or b"again" in data for _, data in stored)
            cloud.osmo("credential", "delete", "store")
            cloud.osmo(*words)
            assert "is encrypted; give its key" in cloud.osmo("dataset", "download", "secret", str(tmp_path), code=2)
    finally:
        server.stop()


READ = """workflow:
  name: read
  tasks:
  - {name: a, image: ubuntu, command: [sh, -c, "cat {{input:0}}/many/* | wc -c"], inputs: [{dataset: many}]}
"""


@pytest.mark.servers
def test_the_second_task_of_a_node_asks_the_store_for_no_data(tmp_path: Path) -> None:
    """Counted at the wire of a real server, from the submission to the end."""
    asked: list[str] = []

    def seen(method: str, path: str) -> str:
        asked.append(f"{method} {path}")
        return ""

    with buckets.versitygw(tmp_path / "server") as server, wire(server.port, seen) as between:
        store = open_store("s3://robots", **server.options())
        store._fs.call_s3("create_bucket", Bucket="robots")  # type: ignore[attr-defined]
        values = {"endpoint": "s3://robots", "access_key_id": buckets.KEY, "access_key": buckets.SECRET}
        values |= {"region": "us-east-1", "override_url": between.endpoint, "addressing": "path"}
        for cloud in started("s3://robots", [f"{k}={v}" for k, v in values.items()]):
            cloud.osmo("credential", "set", "store", "--type", "DATA", "--payload", *cloud.payload)
            source = cloud.folder / "in"
            source.mkdir(parents=True)
            for number in range(50):
                (source / str(number)).write_bytes(b"%d" % number * 5_000)
            cloud.osmo("dataset", "upload", "many", f"{source}/*")
            counts = []
            for _ in range(2):
                asked.clear()
                id = cloud.platform.submit(READ)
                assert cloud.platform.wait(id) == "COMPLETED", cloud.osmo("workflow", "logs", id)
                counts.append(
                    len([one for one in asked if one.startswith("GET") and "/packs/" in one and "list" not in one])
                )
            assert counts[0] > 0 and counts[1] == 0, asked
            assert asked, "it was asked what the version is"
