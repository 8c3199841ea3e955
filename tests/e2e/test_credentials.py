"""A task on the real platform has its secret; its log, its reasons and the platform's files do not."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.e2e.harness import Platform

SECRET = "hunter2-is-not-enough"
WORKFLOW = """workflow:
  name: hidden
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c]
    args:
    - |
      echo "plain $TOKEN"
      printf 'split %s' "$(printf %.7s "$TOKEN")"; sleep 0.3; printf '%s\\n' "${TOKEN#???????}"
      printf %s "user:$TOKEN" | base64
      cat /secrets/here/token | wc -c
      printf %s "$TOKEN" | sha256sum > {{output}}/sum
      echo "$TOKEN" >&2; exit 3
    credentials:
      keys: {TOKEN: token}
      files: /secrets/here
"""


def test_a_task_sees_its_secret_and_nobody_else_does(platform: Platform) -> None:
    refused = platform.cli("workflow", "validate", _file(platform, WORKFLOW), check=False)
    assert refused.returncode == 1 and "you have no credential 'keys'" in refused.stderr and ":17" in refused.stderr
    for name in ("keys", "files"):
        platform.cli("credential", "set", name, "--payload", f"token={SECRET}")
    id = platform.submit(WORKFLOW)
    assert platform.wait(id) == "FAILED"
    log = platform.cli("workflow", "logs", id).stdout
    lines = [line.split("] ", 1)[1] for line in log.splitlines() if "][osmo]" not in line]
    assert lines[:2] == ["plain [MASKED]", "split [MASKED]"]
    assert lines[3:] == [str(len(SECRET)), "[MASKED]"]
    assert "[MASKED]" in lines[2] and base64.b64encode(SECRET.encode()).decode()[4:20] not in log
    told = platform.cli("explain", id).stdout + str(platform.query(id)) + platform.cli("workflow", "spec", id).stdout
    assert "exit code 3" in told and SECRET not in told
    held = [p for p in platform.home.rglob("*") if p.is_file() and not p.name.endswith(".sock") and _holds(p)]
    assert held == []
    assert (platform.home / "secret.key").stat().st_mode & 0o777 == 0o600


def _file(platform: Platform, text: str) -> str:
    path = platform.home / "hidden.yaml"
    path.write_text(text)
    return str(path)


def _holds(path: Path) -> bool:
    try:
        return SECRET.encode() in path.read_bytes()
    except OSError:
        return False
