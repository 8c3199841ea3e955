"""What an agent lets through: requests to the API server that the backend makes, in its own namespace, and no others.

The account that the agent runs under is what really limits it. This is a second fence, in the cluster, which the
platform cannot move: whoever holds the platform gets no further than what stands here, even where an administrator
gave the account more. Pure.

A request is read strictly and written anew, with the agent's own credentials, so that the API server and we can not
understand two different things by the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_HEAD = 32 << 10
MOST_BODY = 8 << 20
_END = b"\r\n\r\n"
_TARGET = re.compile(r"(/[A-Za-z0-9._:-]+)+")
_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e\t]*")
_KEPT = frozenset({"accept", "content-type", "content-length"})
_SOCKET = frozenset({"upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"})

READ = frozenset({"GET"})
_OWNED = frozenset({"GET", "POST", "PATCH", "DELETE"})
OWN: Mapping[tuple[str, str], frozenset[str]] = {
    ("", "pods"): _OWNED,
    ("", "pods/log"): READ,
    ("", "pods/exec"): READ,
    ("", "secrets"): frozenset({"POST", "PATCH"}),  # deleted with the pod that owns them, and never read
    ("", "configmaps"): frozenset({"GET", "POST", "PUT"}),
    ("", "events"): READ,
    ("metrics.k8s.io", "pods"): READ,
    ("ray.io", "rayjobs"): _OWNED,
    ("ray.io", "rayclusters"): READ,
    ("scheduling.run.ai", "podgroups"): _OWNED,
}
"""In the agent's namespace, by API group and resource. `account.yaml` of the chart gives the same rights."""
WIDE: Mapping[tuple[str, str], frozenset[str]] = {
    ("", "nodes"): READ,
    ("", "pods"): READ,
    ("scheduling.run.ai", "queues"): frozenset({"GET", "POST", "PATCH"}),
    ("kai.scheduler", "topologies"): _OWNED,
    ("kueue.x-k8s.io", "clusterqueues"): READ,
    ("kueue.x-k8s.io", "cohorts"): READ,
    ("kueue.x-k8s.io", "resourceflavors"): READ,
}
"""Of the whole cluster."""
SESSIONS = frozenset({"pods/exec"})
"""What a websocket is for."""


class BadRequest(ValueError):
    """What came is no request that is let through."""


@dataclass(frozen=True, slots=True)
class Request:
    """The head of one request. `target` has its query."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @property
    def upgrades(self) -> bool:
        return "upgrade" in self.headers


def parse(head: bytes) -> Request:
    """A head up to and with its empty line. Raises `BadRequest`."""
    try:
        first, *lines = head.removesuffix(_END).decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise BadRequest("a head is ASCII") from None
    words = first.split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1":
        raise BadRequest("the first line is not METHOD TARGET HTTP/1.1")
    path, _, query = words[1].partition("?")
    if not _TARGET.fullmatch(path) or not _QUERY.fullmatch(query) or {".", ".."} & set(path.split("/")):
        raise BadRequest("the target is not a plain path")
    headers = dict(_header(line) for line in lines)
    if len(headers) != len(lines) or "transfer-encoding" in headers:
        raise BadRequest("a header stands twice, or the length is not told beforehand")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BODY:
        raise BadRequest(f"a body has at most {MOST_BODY} bytes")
    return Request(words[0], words[1], headers)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise BadRequest("a header that is none")
    return name.lower(), value.strip()


def refusal(request: Request, namespace: str) -> str:
    """Why this request is not let through; empty when it is."""
    path = request.target.partition("?")[0]
    if path == "/version" and request.method == "GET" and not request.upgrades:
        return ""
    place = _place(path.split("/")[1:])
    if place is None:
        return f"{path} is nothing that a backend asks for"
    within, group, resource = place
    if within is not None and within != namespace:
        return f"this agent serves the namespace {namespace}, not {within}"
    table = WIDE if within is None else OWN
    if request.method not in table.get((group, resource), frozenset()):
        return f"{request.method} of {resource} is nothing that a backend asks for" + ("" if within else " out there")
    if request.upgrades != (resource in SESSIONS):
        return f"{resource}: a websocket is for {', '.join(sorted(SESSIONS))}, and nothing else is for these"
    return ""


def _place(parts: Sequence[str]) -> tuple[str | None, str, str] | None:
    """Namespace (None: of the whole cluster), API group, resource with its subresource."""
    match parts:
        case ["api", "v1", *rest]:
            group = ""
        case ["apis", group, _, *rest]:
            pass
        case _:
            return None
    within: str | None = None
    if len(rest) > 2 and rest[0] == "namespaces":
        within, rest = rest[1], rest[2:]
    match rest:
        case [resource] | [resource, _]:
            return within, group, resource
        case [resource, _, part]:
            return within, group, f"{resource}/{part}"
    return None


def written(request: Request, host: str, token: str) -> bytes:
    """The head for the API server, with the agent's own credentials."""
    kept = _KEPT | (_SOCKET if request.upgrades else frozenset())
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name in kept]
    if request.upgrades:
        lines.append("Connection: Upgrade")
    return "\r\n".join([*lines, "", ""]).encode("ascii")
