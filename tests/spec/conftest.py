"""One renderer for all tests of this folder: its workers take a moment to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from osmo_ray.providers.template import ProcessRenderer


@pytest.fixture(scope="session")
def renderer() -> Iterator[ProcessRenderer]:
    made = ProcessRenderer()
    yield made
    made.close()
