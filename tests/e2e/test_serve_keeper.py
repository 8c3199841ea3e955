"""Under a Ray of somebody else, Serve is the keeper: it brings the whole control plane up, and its controller back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from osmo_ray.platform import head
from osmo_ray.platform.serving import head_of
from tests.e2e.harness import ROOT, until
from tests.e2e.test_serve import SERVE, Cluster

pytestmark = pytest.mark.ray
KILL = """
import ray
ray.init(namespace="osmo", log_to_driver=False)
ray.kill(ray.get_actor("osmo-controller"), no_restart=True)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    home = Path(tempfile.mkdtemp(prefix="osmo-keeper-"))
    made = Cluster(home)
    try:
        made.start()
        yield made
    finally:
        if made.head is not None:
            head.stop(made.head.process, made.files)
        shutil.rmtree(head.temp_folder(made.files), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def controller(cluster: Cluster) -> str:
    """How the API sees it; empty when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.settings.port}/ready", timeout=30) as answer:
            return str(json.load(answer)["parts"]["controller"]["text"])
    except (OSError, KeyError, urllib.error.HTTPError):
        return ""


def test_serve_brings_the_control_plane_up_and_its_controller_back(cluster: Cluster, tmp_path: Path):
    config = yaml.safe_load((ROOT / "serve/config.yaml").read_text())
    config["http_options"]["port"] = cluster.settings.port
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    deploy = [*SERVE, "deploy", str(tmp_path / "config.yaml")]
    subprocess.run(deploy, env=cluster.environ, cwd=tmp_path, check=True, timeout=90, capture_output=True)
    until(lambda: controller(cluster).startswith("leads"), 120)
    before = controller(cluster).rpartition("pid ")[2]
    subprocess.run([sys.executable, "-c", KILL], env=cluster.environ, check=True, timeout=60)
    until(lambda: (found := controller(cluster)).startswith("leads") and not found.endswith(before), 120)


def test_the_head_is_the_living_one_that_ray_calls_so():
    nodes = [
        {"Alive": True, "NodeName": "w", "NodeManagerAddress": "1", "Resources": {}},
        {"Alive": False, "NodeName": "old", "NodeManagerAddress": "2", "Resources": {"node:__internal_head__": 1}},
        {"Alive": True, "NodeName": "", "NodeManagerAddress": "3", "Resources": {"node:__internal_head__": 1}},
    ]
    assert head_of(nodes) == "3"
    with pytest.raises(LookupError):
        head_of(nodes[:2])
