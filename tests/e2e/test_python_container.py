"""Python tasks in a container: the image's own Python runs the user's code, with nothing of ours in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Platform

pytestmark = [pytest.mark.ray, pytest.mark.container]

IMAGE = "localhost/osmo-e2e-python:1"
FILE = f'''
from pathlib import Path

import osmo_ray as osmo

IMAGE = "{IMAGE}"


@osmo.task(image=IMAGE, sandbox="container")
def inside(count: int) -> Path:
    folder = osmo.output() / "data"
    folder.mkdir()
    (folder / "where").write_text(f"{{Path('/etc/only-in-the-image').exists()}} {{sum(range(count))}}")
    return folder


@osmo.task(image=IMAGE, sandbox="container")
def broken(data: Path) -> None:
    raise ValueError((data / "where").read_text())


@osmo.task
def outside(data: Path) -> str:
    return (data / "where").read_text()


@osmo.workflow
def boxed(count: int = 4) -> str:
    return outside(inside(count))


@osmo.workflow
def failing() -> None:
    broken(inside(3))
'''


def _libraries(files: list[Path]) -> set[str]:
    """The shared libraries that these programs and modules load."""
    told = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", told, re.MULTILINE))


@pytest.fixture(scope="module")
def python_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image made here of this machine's Python and the libraries that it loads."""
    podman = shutil.which("podman")
    if podman is None:
        pytest.fail("install podman: this test is for machines that have it")
    program = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}").resolve()
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted((library / "lib-dynload").glob("*.so"))
    file = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(program, str(program).lstrip("/"))
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(program)
        if str(program) != "/usr/bin/python3":
            tar.addfile(link)
        tar.add(library, str(library).lstrip("/"), filter=_without_tests)
        for one in sorted(_libraries([program, *modules])):
            tar.add(Path(one).resolve(), one.lstrip("/"))
        for name in ("etc/only-in-the-image", "tmp/.keep"):
            tar.addfile(tarfile.TarInfo(name))
    subprocess.run([podman, "import", "--quiet", str(file), IMAGE], check=True, capture_output=True)
    yield IMAGE
    subprocess.run([podman, "rmi", "--force", IMAGE], check=False, capture_output=True)


def _without_tests(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = set(info.name.split("/"))
    return None if parts & {"test", "tests", "__pycache__", "idlelib", "site-packages", "dist-packages"} else info


def test_a_python_task_runs_in_the_python_of_its_image(platform: Platform, python_image: str, tmp_path: Path):
    file = tmp_path / "boxed.py"
    file.write_text(FILE)
    done = platform.cli("run", f"{file}:boxed", "--count", "5")
    assert "COMPLETED" in done.stdout
    assert "True 10" in done.stdout
    failed = platform.cli("run", f"{file}:failing", check=False)
    assert failed.returncode != 0
    assert "ValueError: True 3" in failed.stdout + failed.stderr, "the user's traceback, not ours"
