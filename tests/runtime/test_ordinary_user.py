"""The same as an ordinary user, when the suite itself runs as root: user namespaces, no cgroup, pasta."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hosting import is_root

_PROGRAM = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from hosting import Host, shell
    from osmo_ray.runtime import Options
    from osmo_ray.spec.attempt import FilePlan, InputPlan, OutputPlan, Phase

    async def main():
        host = await Host.begin(Path(sys.argv[1]))
        print("mode", host.report().sandbox.split(":")[0])
        peers = ("a", "b")
        out = (OutputPlan("prefix", "wf/a"),)
        files = (FilePlan("/tmp/run.sh", "echo from the file"), FilePlan("/opt/x/y", "deep"))
        one = shell("id -u; sh /tmp/run.sh; cat /opt/x/y; echo; echo x > /etc/new; echo data > {{output}}/f;"
                    " touch /data; echo hello | nc -l -p 9000", task="a", group="g", peers=peers,
                    outputs=out, files=files)
        await host.apply(1, [one])
        address = (await host.phase(one.key, Phase.RUNNING)).address
        loop = "for i in 1 2 3 4 5; do nc -w 2 {{host:a}} 9000 </dev/null | grep hello && exit; sleep 0.2; done"
        two = shell(loop, task="b", group="g", peers=peers, hosts={"a": address})
        await host.apply(1, [one, two])
        print("ends", (await host.end(two.key)).exit_code, (await host.end(one.key)).exit_code)
        print(await host.text(one.key))
        print(await host.text(two.key))
        inputs = (InputPlan("prefix", "wf/a"),)
        three = shell("cat {{input:0}}/f; kill -9 1 2>/dev/null; ls /root; echo done", inputs=inputs)
        await host.run(three)
        print(await host.text(three.key))
        stuck = shell("trap '' TERM; (setsid sleep 1000 &); echo up; sleep 1000")
        await host.apply(1, [stuck])
        await host.says(stuck.key, "up")
        host.supervisor(stuck.key).signal(9)
        print("stuck", (await host.end(stuck.key)).phase.value)
        eat = shell("python3 -c 'import time; x = b\\"x\\" * (200 << 20); time.sleep(60)'", memory=64 << 20)
        print("eaten", (await host.run(eat)).exit_code)
        await host.settle([one.key, two.key, three.key, stuck.key, eat.key])
        print("left", len(list((Path(sys.argv[1]) / "spool/attempts").iterdir())))
        await host.shutdown(0.2)

    asyncio.run(main())
""")
_EXPECTED = """\
mode namespaces
ends 0 0
0
from the file
deep
hello
data
done
stuck lost
eaten 3004
left 0
"""


def _python() -> str | None:
    """An interpreter that any user may start."""
    for name in (sys.executable, "/usr/bin/python3"):
        probe = [name, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if shutil.which(name) and subprocess.run(_as_nobody(probe), capture_output=True, check=False).returncode == 0:
            return name
    return None


def _as_nobody(argv: list[str]) -> list[str]:
    return ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "env", "HOME=/nonexistent", *argv]


@pytest.mark.skipif(not is_root(), reason="the whole suite already runs as an ordinary user")
async def test_everything_works_in_user_namespaces(folder: Path) -> None:
    python = _python()
    if python is None:
        pytest.skip("no Python 3.11 on this machine that another user may start")
    if subprocess.run(_as_nobody(["unshare", "-Urn", "true"]), capture_output=True, check=False).returncode:
        pytest.skip("this machine forbids user namespaces to ordinary users")
    os.chown(folder, 54321, 54321)
    path = os.pathsep.join([str(Path(__file__).parent), *(entry for entry in sys.path if "site-packages" in entry)])
    path = os.pathsep.join([path, *(entry for entry in sys.path if (Path(entry) / "osmo_ray").is_dir())])
    done = subprocess.run(
        _as_nobody([f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", python, "-c", _PROGRAM, str(folder)]),
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr.decode() == ""
    assert done.stdout.decode() == _EXPECTED
