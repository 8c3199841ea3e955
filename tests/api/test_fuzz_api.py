"""Whatever is submitted, the answer is an answer: never a 500, never later than its limit allows."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.api.world import HELLO, World

POST = "/api/pool/default/workflow"
PIECES = st.sampled_from(
    ["workflow:", "\n", "  ", "name: x", "tasks:", "- {name: a, image: i, command: [c]}", "groups:", "default-values:",
     "{{", "}}", "{%", "%}", "{#", "{{output}}", "{{ a }}", "{% for i in range(9) %}", "{% endfor %}", "[", "]", "{",
     "}", "&a", "*a", "<<: *a", "!!python/name:os", "\x00", "\ud800", "é", ": ", "- ", "|", "'", '"', "a: 0x", "1e999",
     "timeout:"]
)  # fmt: skip
texts = (
    st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60).map(lambda t: HELLO + t) | st.text(max_size=40)
)
mutated = st.tuples(st.integers(0, len(HELLO)), st.integers(0, 12), st.text(max_size=6)).map(
    lambda m: HELLO[: m[0]] + m[2] + HELLO[m[0] + m[1] :]
)
settings_ = st.lists(st.text(max_size=8) | st.sampled_from(["a=1", "a", "=", "a=", "a=1=2"]), max_size=3)
bodies = st.fixed_dictionaries(
    {"file": texts | mutated},
    optional={"set_variables": settings_, "set_string_variables": settings_, "uploaded_templated_spec": texts},
)
queries = st.fixed_dictionaries(
    {},
    optional={
        "dry_run": st.booleans(), "validation_only": st.booleans(), "env_vars": settings_,
        "priority": st.sampled_from(["HIGH", "low", "x", ""]),
    },
)  # fmt: skip


def encodable(value: Any) -> bool:
    """HTTP carries no lone surrogates in queries; in JSON they are escaped, and so may come."""
    try:
        repr(value).encode()
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return all(encodable(one) for one in value) if isinstance(value, list) else True


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(bodies, queries)
def test_a_submission_is_always_answered(
    world: World, client: TestClient, body: dict[str, Any], query: dict[str, Any]
) -> None:
    query = {k: v for k, v in query.items() if encodable(v)}
    reply = client.post(
        POST, params=query, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert reply.status_code in (200, 400, 422), (reply.status_code, reply.text)
    assert reply.json()
