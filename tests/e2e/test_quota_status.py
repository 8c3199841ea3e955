"""What a real platform tells of its quotas while `quota.yaml` comes, breaks, is mended and goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import _platform
from tests.e2e.harness import Platform, until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def shared() -> Iterator[Platform]:
    yield from _platform({"OSMO_CPU": "2"})


def test_status_says_what_is_in_force_and_a_bad_file_does_not_end_the_api(shared: Platform) -> None:
    def tells(mark: str) -> None:
        def found() -> str:
            ready = shared.get("/ready")
            text = ready["parts"]["quotas"]
            return str(text) if ready["ready"] and mark in str(text) else ""

        until(found, 20)

    file = shared.home / "quota.yaml"
    tells("none set")
    file.write_text("queues: [")
    tells("NONE IN FORCE")
    assert "quota.yaml:1:10" in shared.cli("status").stdout
    file.write_text("queues:\n  - {name: default}\n")
    tells("1 queues")
    file.write_text("queues: [[")
    tells("STALE, 1 queues stay in force")
    file.unlink()
    tells("none set")
