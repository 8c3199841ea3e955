"""Environments of a node, with wheels made here: no index is asked."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from osmo_ray.runtime import Options, pyenv
from osmo_ray.runtime.errors import RuntimeFailure
from tests.runtime.hosting import Begin, Host, plan


def wheel(folder: Path, name: str, version: str, source: str) -> None:
    """A pure wheel of one module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    for prefix in ("UV", "PIP"):
        monkeypatch.setenv(f"{prefix}_NO_INDEX", "1")
        monkeypatch.setenv(f"{prefix}_FIND_LINKS", str(folder))
    wheel(folder, "osmo_probe", "1.2", "ANSWER = 42\n")
    return folder


def test_an_environment_is_built_once(tmp_path: Path, wheels: Path) -> None:
    assert pyenv.make(tmp_path, ["osmo_probe>=1"]) is True
    assert pyenv.make(tmp_path, ["osmo_probe>=1"]) is False
    assert pyenv.folder(tmp_path, ["a", "b"]) == pyenv.folder(tmp_path, ["b", "a"]) != pyenv.folder(tmp_path, ["a"])


def test_what_nobody_wanted_for_long_goes(tmp_path: Path, wheels: Path) -> None:
    asked, used, old = ["osmo_probe"], ["osmo_probe>=1"], ["osmo_probe==1.2"]
    for one in (asked, used, old):
        pyenv.make(tmp_path, one)
        os.utime(pyenv.folder(tmp_path, one), (1.0, 1.0))
    assert pyenv.make(tmp_path, asked) is False
    assert pyenv.clean(tmp_path, {pyenv.name(used)}, 60.0) == 1
    assert [pyenv.folder(tmp_path, one).exists() for one in (asked, used, old)] == [True, True, False]
    assert pyenv.make(tmp_path, old) is True


def test_what_cannot_be_installed_is_named_and_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        pyenv.make(tmp_path, ["osmo_absent"])
    assert "osmo_absent" in caught.value.reason.sentence and caught.value.reason.code == "RequirementsFailed"
    assert not pyenv.folder(tmp_path, ["osmo_absent"]).exists()


@pytest.mark.parametrize("sandbox", ["process", "none"])
async def test_a_task_finds_its_packages_and_cannot_change_them(wheels: Path, begin: Begin, sandbox: str) -> None:
    host = await begin(Options(sandbox=sandbox, engine="off"))
    script = (
        "import osmo_probe, pathlib; print('answer', osmo_probe.ANSWER)\n"
        "try: pathlib.Path(osmo_probe.__file__).write_text('ANSWER = 0')\n"
        "except OSError: print('kept')"
    )
    one = plan("python3", "-c", script, requirements=("osmo_probe==1.2",))
    ended = await host.run(one)
    text = await host.text(one.key)
    assert ended.exit_code == 0, (ended.reason, text)
    assert "answer 42" in text
    assert "kept" in text or not host.report().sandbox.startswith("namespaces")


async def test_a_task_whose_packages_cannot_be_had_says_so(wheels: Path, host: Host) -> None:
    ended = await host.run(plan("true", requirements=("osmo_absent",)))
    assert ended.exit_code == 3003 and ended.reason is not None
    assert ended.reason.code == "RequirementsFailed"
