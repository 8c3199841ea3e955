"""A node on another host, and buckets in clouds: its tasks' data goes through the head's storage gateway, datasets and
URLs straight to S3 and Azure, with the user's key."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.harness import Platform
from tests.e2e.test_joining import HEAD, OTHER, head, joined, other, wire  # noqa: F401 - fixtures
from tests.servers.azurite import ACCOUNT, KEY, azurite

pytestmark = [pytest.mark.ray, pytest.mark.root]


@dataclass(frozen=True)
class Cloud:
    """`place` is a bucket of a server that both hosts reach, `payload` opens it."""

    place: str
    payload: tuple[str, ...]


def s3() -> Iterator[Cloud]:
    server = ThreadedMotoServer(HEAD, 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # its memory is the whole process's
    keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "very-secret-key", "region_name": "us-east-1"}
    boto3.resource("s3", endpoint_url=url, **keys).Bucket("robots").create()
    payload = ("endpoint=s3://robots", "access_key_id=AKID", "access_key=very-secret-key", "region=us-east-1")
    yield Cloud("s3://robots", (*payload, f"override_url={url}"))
    server.stop()


def azure(folder: Path) -> Iterator[Cloud]:
    from adlfs import AzureBlobFileSystem

    with azurite(folder, HEAD) as url:
        AzureBlobFileSystem(connection_string=f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url}").mkdir(
            "robots"
        )
        payload = (
            f"endpoint=azure://{ACCOUNT}",
            f"access_key_id={ACCOUNT}",
            f"access_key={KEY}",
            f"override_url={url}",
        )
        yield Cloud(f"azure://{ACCOUNT}/robots", payload)


@pytest.fixture(params=["s3", pytest.param("azure", marks=pytest.mark.servers)])
def cloud(request: pytest.FixtureRequest, wire: None, tmp_path: Path) -> Iterator[Cloud]:  # noqa: F811
    yield from s3() if request.param == "s3" else azure(tmp_path)


@pytest.fixture
def extra(cloud: Cloud) -> dict[str, str]:
    hidden = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/nowhere")
    return {"OSMO_BUCKETS": json.dumps({"robots": {"path": f"{cloud.place}/data"}}), **hidden}


WORK = """workflow:
  name: across
  resources:
    default: {cpu: 1, nodesExcluded: ["OTHER"]}
    far: {cpu: 1, nodesExcluded: ["HERE"]}
  tasks:
  - name: near
    image: ubuntu:24.04
    command: [sh, -c, "cat {{input:0}}/given/word; echo near > {{output}}/near"]
    inputs: [{dataset: robots/given}]
    outputs: [{dataset: robots/made}, {dataset: default/kept}]
  - name: far
    image: ubuntu:24.04
    resource: far
    command:
    - sh
    - -c
    - cat {{input:0}}/given/word {{input:1}}/near {{input:2}}/mine/word && echo far > {{output}}/far
    inputs: [{dataset: robots/given}, {task: near}, {dataset: default/mine}]
    outputs:
    - update_dataset: {name: robots/made, paths: ['far:more']}
    - update_dataset: {name: kept, paths: [far]}
    - url: PLACE/out
  - name: back
    image: ubuntu:24.04
    command: [cat, "{{input:0}}/made/more/far", "{{input:1}}/far", "{{input:2}}/kept/far", "{{input:3}}/far"]
    inputs: [{dataset: robots/made}, {task: far}, {dataset: default/kept}, {url: PLACE/out}]
"""


def test_datasets_and_data_of_both_hosts(head: Platform, other: Path, cloud: Cloud, tmp_path: Path) -> None:  # noqa: F811
    head.cli("credential", "set", "store", "--type", "DATA", "--payload", *cloud.payload)
    (tmp_path / "word").write_text("given\n")
    head.cli("dataset", "upload", "robots/given", str(tmp_path / "word"))
    head.cli("dataset", "upload", "default/mine", str(tmp_path / "word"))
    here = joined(head)
    text = WORK.replace("PLACE", cloud.place).replace("HERE", here).replace("OTHER", OTHER)
    id = head.submit(text)
    assert head.wait(id) == "COMPLETED", head.cli("workflow", "logs", id).stdout + head.tails()
    assert head.tasks(id)["far"]["node_name"] == OTHER
    logs = head.cli("workflow", "logs", id).stdout
    assert [line.split("] ", 1)[1] for line in logs.splitlines() if "[far] " in line] == ["given", "near", "given"]
    assert [line.split("] ", 1)[1] for line in logs.splitlines() if "[back] " in line] == ["far"] * 4
    assert "very-secret-key" not in logs and KEY not in logs
    found = json.loads(head.cli("dataset", "lineage", "robots/made", "-t", "json").stdout)
    assert [(m["version"], m["task"]) for m in found["made"]] == [("1", "near"), ("2", "far")]
