"""The fake passes the contract of the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.spec.attempt import AttemptPlan
from tests.backends.contract import BackendContract
from tests.backends.inside_contract import InsideContract


def script(plan: AttemptPlan) -> Ending:
    if plan.argv == ("sleep", "600"):
        return Ending(float("inf"))
    return Ending(0.0, 7 if plan.argv[-1] == "exit 7" else 0)


class TestFakeBackend(BackendContract, InsideContract):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[FakeBackend]:
        fake = FakeBackend(script=script)
        yield fake
        await fake.close()
