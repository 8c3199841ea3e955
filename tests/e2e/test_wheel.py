"""Installed without a clone: the wheel in an environment of its own, used from a folder elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Platform, free_port


@dataclass(frozen=True)
class Installed:
    """A program `osmo` in an environment without the checkout, and a home for it."""

    osmo: Path
    folder: Path
    environ: dict[str, str]

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.osmo), *args], cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def installed(wheel: Path) -> Iterator[Installed]:
    folder = Path(tempfile.mkdtemp(prefix="osmo-wheel-"))
    environment = folder / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = next(environment.glob("lib/python*/site-packages"))
    # The dependencies are borrowed; the checkout, which may be installed there as editable, is not: its .pth file is
    # only read in its own environment.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OSMO_", "PYTHON"))}
    home, port = folder / "home", free_port()
    environ = {
        **kept,
        "OSMO_HOME": str(home),
        "OSMO_URL": f"http://127.0.0.1:{port}",
        "OSMO_PORT": str(port),
        "OSMO_CPU": "2",
        "OSMO_CONFIG_FILE_DIR": str(folder / "client"),
    }
    made = Installed(environment / "bin/osmo", folder, environ)
    try:
        yield made
    finally:
        made.run("down", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_wheel_holds_the_program_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    code = {n for n in names if n.startswith("osmo_ray/")}
    assert all(n.startswith(("osmo_ray/", "osmo_ray-")) for n in names)
    assert {"osmo_ray/py.typed", "osmo_ray/program.py", "osmo_ray/platform/bring_up.py"} <= code
    for source in (ROOT / "osmo_ray").rglob("*.py"):
        assert str(source.relative_to(ROOT)) in code
    assert {f"osmo_ray/runtime/hold/hold.{kind}" for kind in ("x86_64", "aarch64")} <= code
    assert any("migrations" in n for n in code)
    assert not [n for n in names if "test" in n.lower().split("/")[0] or "__pycache__" in n]
    assert any(n.endswith("entry_points.txt") for n in names) and any("LICENSE" in n for n in names)


@pytest.mark.ray
def test_installed_it_runs_a_workflow_from_anywhere(installed: Installed):
    where = subprocess.run(
        [installed.osmo.with_name("python"), "-c", "import osmo_ray; print(osmo_ray.__file__)"],
        cwd=installed.folder,
        env=installed.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(installed.folder)), "the checkout is on the path, so this proves nothing"
    assert "usage: osmo" in installed.run("--help").stdout
    assert "[ ok ] python" in installed.run("doctor").stdout
    assert "osmo is up" in installed.run("up").stdout
    (installed.folder / "w.yaml").write_text(
        "workflow:\n  name: small\n  tasks:\n"
        "  - {name: say, image: ubuntu, command: [sh, -c, 'echo hello > {{output}}/word']}\n"
        "  - {name: hear, image: ubuntu, command: [sh, -c, 'cat {{input:0}}/word'], inputs: [{task: say}]}\n"
    )
    done = installed.run("run", "w.yaml", "--logs")
    assert "[hear] hello" in done.stdout and "COMPLETED" in done.stdout
    assert "osmo is down" in installed.run("down").stdout
    assert not Platform(Path(installed.environ["OSMO_HOME"])).pids("ray")
