"""What stays in memory all day loads no library that only some platforms need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pyarrow", "httpx", "joserfc", "rich", "aiohttp", "blake3", "boto3", "adlfs")


@pytest.mark.parametrize("module", ["osmo_ray.api.app", "osmo_ray.control.actor", "osmo_ray.backends.ray.agent"])
def test_a_process_of_the_platform_is_light(module: str) -> None:
    """Beside Ray's own: what is there before our module does not count."""
    code = f"import sys, ray\nfrom ray import serve\nbefore = set(sys.modules)\nimport {module}\n"
    code += f"print(sorted(set({HEAVY!r}) & (set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
