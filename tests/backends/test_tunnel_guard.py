"""What an agent lets through to its API server, and what it does not."""

from __future__ import annotations

import pytest

from osmo_ray.backends.kubernetes.tunnel import guard
from osmo_ray.backends.kubernetes.tunnel.guard import BadRequest

POD = "/api/v1/namespaces/osmo/pods"


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: lab", *headers, "", ""]).encode()


def refusal(line: str, *headers: str) -> str:
    return guard.refusal(guard.parse(head(line, *headers)), "osmo")


@pytest.mark.parametrize(
    "line",
    [
        "GET /version",
        f"GET {POD}?labelSelector=a%3Db&watch=true&resourceVersion=7",
        f"PATCH {POD}/osmo-x-0-0?fieldManager=osmo-ray&force=true",
        f"DELETE {POD}?labelSelector=a%20in%20%28b%2Cc%29",
        f"GET {POD}/osmo-x-0-0/log?container=osmo-ctrl&follow=true",
        "PATCH /api/v1/namespaces/osmo/secrets/osmo-x",
        "PUT /api/v1/namespaces/osmo/configmaps/osmo-fence-1",
        "GET /api/v1/namespaces/osmo/events?watch=true",
        "GET /api/v1/nodes?limit=500",
        "GET /api/v1/pods?watch=true",
        "GET /apis/metrics.k8s.io/v1beta1/namespaces/osmo/pods",
        "PATCH /apis/ray.io/v1/namespaces/osmo/rayjobs/one",
        "PATCH /apis/scheduling.run.ai/v2/queues/team",
    ],
)
def test_what_a_backend_asks_for_goes_through(line: str):
    assert refusal(line) == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("GET /api/v1/namespaces/osmo/secrets/osmo-x", "GET of secrets"),
        ("GET /api/v1/secrets", "GET of secrets"),
        ("GET /api/v1/namespaces/kube-system/pods", "serves the namespace osmo, not kube-system"),
        ("DELETE /api/v1/nodes/n1", "DELETE of nodes"),
        ("POST /api/v1/pods", "POST of pods"),
        ("GET /api/v1/namespaces", "GET of namespaces"),
        ("DELETE /api/v1/namespaces/osmo", "DELETE of namespaces"),
        ("POST /apis/rbac.authorization.k8s.io/v1/namespaces/osmo/roles", "POST of roles"),
        ("POST /api/v1/namespaces/osmo/serviceaccounts/default/token", "POST of serviceaccounts/token"),
        (f"PATCH {POD}/x/status", "PATCH of pods/status"),
        (f"POST {POD}/x/eviction", "POST of pods/eviction"),
        (f"GET {POD}/x/proxy", "GET of pods/proxy"),
        ("GET /logs/kubelet.log", "nothing that a backend asks for"),
        ("GET /api/v1/nodes/n1/proxy/run", "nothing that a backend asks for"),
        ("OPTIONS /version", "nothing that a backend asks for"),
        ("POST /version", "nothing that a backend asks for"),
        (f"GET {POD}/x/exec?command=sh", "websocket"),
    ],
)
def test_nothing_else_does(line: str, said: str):
    assert said in refusal(line)


def test_a_websocket_is_for_sessions_alone():
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: abc", "Sec-WebSocket-Version: 13")
    assert refusal(f"GET {POD}/x/exec?command=a&command=b", *upgrade) == ""
    assert "websocket" in refusal(f"GET {POD}", *upgrade)
    assert refusal("GET /version", *upgrade)


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET  /version HTTP/1.1\r\n\r\n",
        b"GET http://elsewhere/version HTTP/1.1\r\n\r\n",
        b"GET /api/../logs HTTP/1.1\r\n\r\n",
        b"GET /api/%2e%2e/logs HTTP/1.1\r\n\r\n",
        b"GET //version HTTP/1.1\r\n\r\n",
        b"GET /version# HTTP/1.1\r\n\r\n",
        b"GET /version?a=\x7f HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        b"GET /version HTTP/1.1\r\n folded\r\n\r\n",
        b"GET /version HTTP/1.1\r\nA : b\r\n\r\n",
        b"POST /version HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /version HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"POST /version HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"POST /version HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /versio\u00f1 HTTP/1.1\r\n\r\n".encode(),
    ],
)
def test_what_could_be_understood_in_two_ways_is_refused(bad: bytes):
    with pytest.raises(BadRequest):
        guard.parse(bad)


def test_the_request_is_written_anew_with_the_agents_own_credentials():
    said = guard.parse(
        head(
            f"PATCH {POD}/x?force=true",
            "Authorization: Bearer stolen",
            "Impersonate-User: admin",
            "Content-Type: application/json",
            "Content-Length: 2",
            "Connection: keep-alive",
        )
    )
    lines = guard.written(said, "10.0.0.1:443", "own").decode().split("\r\n")
    assert lines[:3] == [f"PATCH {POD}/x?force=true HTTP/1.1", "Host: 10.0.0.1:443", "Authorization: Bearer own"]
    assert sorted(lines[3:]) == ["", "", "content-length: 2", "content-type: application/json"]
