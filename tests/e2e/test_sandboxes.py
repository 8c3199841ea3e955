"""The other two modes of a task: in a container, and on a host that allows neither containers nor namespaces."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import _platform
from tests.e2e.harness import ROOT, Platform
from tests.e2e.test_platform import one

pytestmark = pytest.mark.ray

IMAGE = "localhost/osmo-e2e-test:1"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image made here, of busybox alone, with a file that only it has."""
    podman, busybox = shutil.which("podman"), shutil.which("busybox")
    if podman is None or busybox is None:
        pytest.fail("install podman and busybox-static: this test is for machines that have them")
    file = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for name in ("sh", "cat", "echo", "ls", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc/only-in-the-image", "tmp/.keep"):
            tar.addfile(tarfile.TarInfo(name))
    subprocess.run([podman, "import", "--quiet", str(file), IMAGE], check=True, capture_output=True)
    yield IMAGE
    subprocess.run([podman, "rmi", "--force", IMAGE], check=False, capture_output=True)


@pytest.mark.container
def test_an_image_that_is_there_is_what_the_task_runs_in(platform: Platform, image: str, tmp_path: Path):
    text = one("ls /etc; echo from the box > {{output}}/word", name="boxed").replace("ubuntu:24.04", image)
    text += """
  - name: reader
    image: ubuntu:24.04
    command: [cat, "{{input:0}}/word"]
    inputs: [{task: main}]
"""
    file = tmp_path / "boxed.yaml"
    file.write_text(text)
    done = platform.cli("run", str(file))
    assert "COMPLETED" in done.stdout
    assert f"runs in a container of {image}: podman has the image" in done.stdout, "the plan says where, and why"
    (id,) = [w for w in done.stdout.replace(":", " ").split() if w.startswith("boxed-")][:1]
    told = platform.cli("workflow", "logs", id).stdout
    assert "only-in-the-image" in told and "[reader] from the box" in told


@pytest.mark.container
def test_an_image_that_cannot_be_had_ends_the_task_that_insists(platform: Platform, image: str):
    text = one("true", name="nowhere").replace("ubuntu:24.04", "127.0.0.1:1/not/there:1")
    id = platform.submit(text.replace("    command:", "    sandbox: container\n    command:"))
    assert platform.wait(id) == "FAILED"
    task = platform.tasks(id)["main"]
    assert task["status"] == "FAILED_IMAGE_PULL" and task["exit_code"] == 302
    assert "127.0.0.1:1/not/there:1" in platform.cli("explain", id).stdout


@pytest.fixture(scope="module")
def bare() -> Iterator[Platform]:
    """A platform that is forbidden namespaces and containers."""
    yield from _platform({"OSMO_SANDBOX": "none"})


def test_without_namespaces_a_pipeline_runs_all_the_same(bare: Platform, tmp_path: Path):
    id_file = tmp_path / "id"
    done = bare.cli("run", str(ROOT / "examples/quickstart/workflow.yaml"), "--id-file", str(id_file))
    assert "COMPLETED" in done.stdout and "none" in done.stdout, "the plan says in which mode"
    bare.cli("workflow", "download", f"{id_file.read_text().strip()}/report", str(tmp_path / "out"))
    assert "250500" in (tmp_path / "out" / "report.txt").read_text()


def test_without_namespaces_an_absolute_path_is_refused_with_a_reason(bare: Platform):
    id = bare.submit(
        one("cat /etc/mine", name="absolute", extra="    files:\n    - path: /etc/mine\n      contents: x\n")
    )
    assert bare.wait(id).startswith("FAILED")
    reason = bare.get(f"/api/x/workflow/{id}/explain")["tasks"][0]["reason"]
    assert "/etc/mine" in reason["sentence"], reason
    assert not Path("/etc/mine").exists()
