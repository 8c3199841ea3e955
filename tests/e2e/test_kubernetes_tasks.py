"""What a task may ask for, in pods: the same files as at home with the same results, credentials, data, checkpoints,
rights on nodes, and what administrators lay over pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.harness import Platform, until
from tests.e2e.kube import completed, objects, one, said
from tests.servers.kube.cluster import HOST_ADDRESS, Cluster

pytestmark = pytest.mark.kubernetes
TUTORIALS = ("hello_world", "template_hello_world", "serial_workflow", "parallel_tasks", "combination_workflow_simple")


@pytest.fixture(scope="module")
def platform(kube_platform: Platform) -> Platform:
    return kube_platform


def test_tutorials_give_the_same_results_as_at_home(platform: Platform, tutorials: Path):
    texts = {name: (tutorials / f"{name}.yaml").read_text() for name in TUTORIALS}
    texts = {name: text.replace("sleep 3", "sleep 0") for name, text in texts.items()}
    begun = {
        name: [platform.submit(text, "--pool", pool) for pool in ("default", "kube")] for name, text in texts.items()
    }
    for name, ids in begun.items():
        for id in ids:
            assert platform.wait(id) == "COMPLETED", (name, platform.cli("workflow", "explain", id).stdout)
        at_home, there = ({task: said(platform, id, task) for task in platform.tasks(id)} for id in ids)
        assert at_home == there and any(at_home.values())
        nodes = {task["node_name"] for task in platform.tasks(ids[1]).values()}
        assert nodes == {"kube/node-1"}


def test_tutorials_with_datasets_run_unchanged(platform: Platform, tutorials: Path):
    completed(platform, (tutorials / "dataset_upload.yaml").read_text())
    id = completed(platform, (tutorials / "dataset_download.yaml").read_text())
    assert "Sample data 1" in said(platform, id)


def test_a_dataset_is_read_and_written_in_a_pod(platform: Platform, tmp_path: Path):
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen/a").write_text("one")
    platform.cli("dataset", "upload", "seen", f"{tmp_path}/seen/*")
    text = one("ubuntu:24.04", "[sh, -c, 'cat {{input:0}}/seen/a >{{output}}/b']")
    text += "    inputs: [{dataset: {name: seen}}]\n    outputs: [{dataset: {name: made}}]\n"
    completed(platform, text)
    platform.cli("dataset", "download", "made", str(tmp_path / "got"))
    assert [p.read_text() for p in (tmp_path / "got").rglob("b")] == ["one"]


SECRET = "horse-battery-staple"


def test_credentials_are_variables_and_files_and_go_with_the_group(platform: Platform, kube: Cluster):
    for name in ("pod-keys", "pod-files"):
        platform.cli("credential", "set", name, "--payload", f"token={SECRET}")
    script = "echo $TOKEN; cat /secrets/here/token | wc -c; until test -e /tmp/go; do sleep 0.1; done"
    more = "credentials:\n  pod-keys: {TOKEN: token}\n  pod-files: /secrets/here\n"
    id = platform.submit(one("ubuntu:24.04", f"[sh, -c, '{script}']", more=more), "--pool", "kube")
    platform.running(id, "only")
    uuid = platform.query(id)["uuid"]
    assert objects(kube, "secrets", uuid)
    assert SECRET not in json.dumps(objects(kube, "pods", uuid))
    platform.cli("workflow", "exec", id, "only", "--", "touch", "/tmp/go")
    assert platform.wait(id) == "COMPLETED"
    assert said(platform, id) == ["[MASKED]", str(len(SECRET))]
    until(lambda: not objects(kube, "secrets", uuid) and not objects(kube, "pods", uuid), 60)


@pytest.fixture
def bucket(platform: Platform) -> Iterator[Any]:
    """`my-bucket` of an S3 server that pods reach, which the user has a key for."""
    server = ThreadedMotoServer(HOST_ADDRESS, 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    made = boto3.resource(
        "s3", endpoint_url=url, aws_access_key_id="AKID", aws_secret_access_key=SECRET, region_name="us-east-1"
    ).Bucket("my-bucket")
    made.create()
    payload = ("endpoint=s3://my-bucket", "access_key_id=AKID", f"access_key={SECRET}", "region=us-east-1")
    platform.cli("credential", "set", "store", "--type", "DATA", "--payload", *payload, f"override_url={url}")
    yield made
    platform.cli("credential", "delete", "store")
    server.stop()


def test_checkpoints_are_of_any_path_and_kept_while_it_runs(platform: Platform, bucket: Any):
    """With the user's own key, which the task does not see."""
    script = (
        "env; mkdir /model; echo one >/model/a.pt; until test -e /tmp/go; do sleep 0.1; done; echo two >/model/b.pt"
    )
    url = "s3://my-bucket/kept/{{workflow_id}}"
    more = f"checkpoint:\n- {{path: /model, url: '{url}', frequency: 1s, regex: '.*[.]pt'}}\n"
    id = platform.submit(one("ubuntu:24.04", f"[sh, -c, '{script}']", more=more), "--pool", "kube")
    until(lambda: kept(bucket, id) == {"a.pt": b"one\n"}, 60)
    platform.cli("workflow", "exec", id, "only", "--", "touch", "/tmp/go")
    assert platform.wait(id) == "COMPLETED"
    assert kept(bucket, id) == {"a.pt": b"one\n", "b.pt": b"two\n"}
    assert not any("AKID" in line or "[MASKED]" in line for line in said(platform, id))


def kept(bucket: Any, id: str) -> dict[str, bytes]:
    prefix = f"kept/{id}/"
    return {o.key.removeprefix(prefix): o.get()["Body"].read() for o in bucket.objects.filter(Prefix=prefix)}


def test_tutorials_of_urls_run_unchanged(platform: Platform, tutorials: Path, bucket: Any):
    bucket.put_object(Key="data/deep/numbers.txt", Body=b"1 2 3")
    id = completed(platform, (tutorials / "data_download.yaml").read_text())
    assert any("deep" in line for line in said(platform, id))
    completed(platform, (tutorials / "data_upload.yaml").read_text())
    assert bucket.Object("models/results/model.pth").get()["Body"].read() == b"Model checkpoint\n"


@contextmanager
def pool(platform: Platform, **more: Any) -> Iterator[None]:
    """Pool `kube` with more, and as it was in the end."""
    before = platform.cli("config", "show", "POOL", "kube", "-t", "json").stdout
    update(platform, "POOL", "kube", more, "--merge")
    try:
        yield
    finally:
        update(platform, "POOL", "kube", json.loads(before))


def update(platform: Platform, kind: str, name: str, value: Any, *options: str) -> None:
    file = platform.home / "config-of-a-test.json"
    file.write_text(json.dumps(value))
    platform.cli("config", "update", kind, name, "--file", str(file), *options)


def test_rights_on_nodes_are_given_only_where_the_platform_allows_them(
    platform: Platform, kube: Cluster, tmp_path: Path
):
    (tmp_path / "shown").write_text("of the node")
    script = "cat /shown/shown; echo; grep CapEff /proc/self/status; ls /sys/class/net"
    more = f"volumeMounts: ['{tmp_path}:/shown']\nprivileged: true\nhostNetwork: true\n"
    text = one("ubuntu:24.04", f"[sh, -c, '{script}']", more=more)
    file = platform.home / "asks.yaml"
    file.write_text(text)
    refused = platform.cli("workflow", "submit", str(file), "--pool", "kube", check=False)
    assert refused.returncode and all(word in refused.stderr for word in (str(tmp_path), "rivileged", "etwork"))
    allowed = {"allowed_mounts": [str(tmp_path)], "privileged_allowed": True, "host_network_allowed": True}
    with pool(platform, platforms={"default": allowed}):
        shown, caps, *nets = said(platform, completed(platform, text))
        assert shown == "of the node" and "node0" in nets
    plain = one("ubuntu:24.04", "[sh, -c, 'grep CapEff /proc/self/status; ls /sys/class/net']")
    usual, *nets = said(platform, completed(platform, plain))
    assert int(usual.split()[1], 16) < int(caps.split()[1], 16) and "node0" not in nets


def test_a_node_that_is_excluded_takes_no_task(platform: Platform):
    text = one("ubuntu:24.04", "['true']").replace("storage: 64Mi", "storage: 64Mi, nodesExcluded: [{}]")
    completed(platform, text.replace("[{}]", "[node-7]"))
    id = platform.submit(text.replace("[{}]", "[node-1]"), "--pool", "kube")
    until(lambda: "excluded" in platform.cli("explain", id).stdout, 30)
    platform.cli("workflow", "cancel", id)
    assert platform.wait(id) == "FAILED_CANCELED"


def test_templates_of_a_pool_are_laid_over_its_next_pods(platform: Platform):
    """What the platform itself says of a pod wins; the controller hears of a change within seconds."""
    user = {"name": "user", "env": [{"name": "TEAM", "value": "robots"}], "image": "localhost/nothing:1"}
    update(platform, "POD_TEMPLATE", "team", {"spec": {"containers": [user]}})
    text = one("ubuntu:24.04", "[sh, -c, 'echo team=$TEAM']")

    def team() -> str:
        return "".join(said(platform, completed(platform, text)))

    with pool(platform, common_pod_template=["team"]):
        until(lambda: team() == "team=robots", 60)
    until(lambda: team() == "team=", 60)
