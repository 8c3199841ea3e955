"""The application against its own description: no 500, and no answer that the description does not name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.wire import HEADERS, Wire, serve
from tests.api.world import HELLO, World

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12
NAMES = {"pool": "default", "workflow_id": "hello-1", "task": "a", "path": "x", "cred_name": "keys", "token_name": "ci"}
"""What is there, so that not every case ends at an unknown name."""


def _more(path: str) -> dict[str, str]:
    if path.startswith("/api/x/workflow/{name}") and path.endswith("{name}"):
        return {"name": "spare-1"}  # which may be deleted
    return {"name": "app" if "/app/" in path else "n1" if "/resources/" in path else "hello-1"}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    world = World(tmp_path_factory.mktemp("world"))
    name = world.submit()
    world.finish(name, world.start(name, "a")[0], 3, {"x": b"1"})
    world.submit(HELLO.replace("hello", "spare"))
    with serve(world) as made:
        made.post("/api/app/user/app", ("description", ""), body=HELLO)
        made.post("/api/credentials/keys", body={"generic_credential": {"credential": {"a": "b"}}})
        made.post("/api/auth/access_token/ci", ("expires_at", "2027-02-01"))
        yield made
    world.close()


def description(wire: Wire) -> Any:
    return wire.get("/api/openapi.json")


def _told(error: BaseException) -> str:
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
    return " | ".join(f"{type(p).__name__} {str(p)[:300]!r}" for p in parts)


def keeps(operation: Any) -> None:
    """Try one operation. Raises what is wrong with it."""
    known = {**NAMES, **_more(operation.path)}
    checks = CHECKS
    if operation.method.upper() == "HEAD" or operation.path.endswith("/spec"):
        checks = CHECKS[:2]  # no body; and YAML, which the description can only call text

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(), real=st.booleans())
    def holds(case: Any, real: bool) -> None:
        if real and known.keys() >= case.path_parameters.keys():
            case.path_parameters = {k: known[k] for k in case.path_parameters}
        sent = {k: v for k, v in HEADERS.items() if k != "Content-Type"}
        case.call_and_validate(headers={**sent, "x-osmo-user": "ann"}, checks=checks, timeout=20)

    holds()


def test_the_application_keeps_to_its_description(wire: Wire) -> None:
    schema = schemathesis.openapi.from_dict(description(wire))
    schema.config.update(base_url=f"http://127.0.0.1:{wire.port}")
    failures: list[str] = []
    count = 0
    for found in schema.get_all_operations():
        count += 1
        try:
            keeps(found.ok())
        except (Exception, BaseExceptionGroup) as error:
            failures.append(f"{found.ok().label}: {_told(error)}")
    assert count > 50
    assert not failures, "\n".join(failures)


def test_every_route_is_described_with_a_summary_tag_and_refusals(wire: Wire) -> None:
    for path, verbs in description(wire)["paths"].items():
        for verb, told in verbs.items():
            assert told.get("tags"), (verb, path)
            assert told.get("summary"), (verb, path)
            assert "400" in told["responses"], (verb, path)


def test_the_bodies_of_requests_have_examples(wire: Wire) -> None:
    described = description(wire)
    shapes = described["components"]["schemas"]
    for path, verbs in described["paths"].items():
        for verb, told in verbs.items():
            for media in told.get("requestBody", {}).get("content", {}).values():
                shape = media["schema"]
                names = [s["$ref"].rpartition("/")[2] for s in [shape, *shape.get("anyOf", ())] if "$ref" in s]
                has = "examples" in media or "examples" in shape or any("examples" in shapes[n] for n in names)
                assert has, (verb, path)


def test_the_page_names_every_route(wire: Wire) -> None:
    page = (Path(__file__).parents[2] / "docs/api.md").read_text()
    missing = [path for path in description(wire)["paths"] if f"`{path}`" not in page]
    assert missing == []
