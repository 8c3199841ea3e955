"""URL inputs and outputs, and checkpoints, on a real S3 server with the user's own key: the tutorials, unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.harness import Platform

pytestmark = pytest.mark.ray

CHECKPOINTS = """workflow:
  name: saves
  tasks:
  - name: train
    image: ubuntu:24.04
    command: [sh, -c, "mkdir /ckpt; echo 1 > /ckpt/step; echo begun; sleep 60"]
    checkpoint:
    - {path: /ckpt, url: "s3://my-bucket/ckpt/{{workflow_id}}", frequency: 200ms}
"""


@pytest.fixture
def bucket(platform: Platform) -> Iterator[object]:
    """`my-bucket`, which the user has a key for."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    made = boto3.resource(
        "s3",
        endpoint_url=url,
        aws_access_key_id="AKID",
        aws_secret_access_key="very-secret-key",
        region_name="us-east-1",
    ).Bucket("my-bucket")
    made.create()
    key = {
        "endpoint": "s3://my-bucket",
        "access_key_id": "AKID",
        "access_key": "very-secret-key",
        "region": "us-east-1",
    }
    payload = [f"{name}={value}" for name, value in {**key, "override_url": url}.items()]
    platform.cli("credential", "set", "store", "--type", "DATA", "--payload", *payload)
    yield made
    platform.cli("credential", "delete", "store")
    server.stop()


@pytest.mark.shared
def test_the_tutorials_of_urls_run_unchanged(platform: Platform, tutorials: Path, bucket):
    bucket.put_object(Key="data/deep/numbers.txt", Body=b"1 2 3")
    down = platform.submit((tutorials / "data_download.yaml").read_text())
    assert platform.wait(down) == "COMPLETED", platform.cli("explain", down).stdout
    assert "deep" in platform.cli("workflow", "logs", down).stdout
    up = platform.submit((tutorials / "data_upload.yaml").read_text())
    assert platform.wait(up) == "COMPLETED", platform.cli("explain", up).stdout
    kept = bucket.Object("models/results/model.pth").get()["Body"].read()
    assert kept == b"Model checkpoint\n"


def test_a_task_that_is_canceled_leaves_its_checkpoint(platform: Platform, bucket):
    id = platform.submit(CHECKPOINTS)
    until = time.monotonic() + 60
    while not list(bucket.objects.filter(Prefix=f"ckpt/{id}/step")) and time.monotonic() < until:
        time.sleep(0.1)
    assert bucket.Object(f"ckpt/{id}/step").get()["Body"].read() == b"1\n"
    bucket.Object(f"ckpt/{id}/step").delete()
    platform.cli("workflow", "cancel", id)
    assert platform.wait(id) == "FAILED_CANCELED"
    assert "checkpoint: 1 file" in platform.cli("workflow", "logs", id).stdout
