"""From a kubeconfig to a connection: where the API server is, what proves that it is it, and what proves who we are.

A registered kubeconfig stands by itself: files that it names are written into it where it is handed in, and programs
that it names are refused, since they would run inside the control plane. Certificates and tokens are what is left.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

_INSTEAD = "register the token of a service account of the cluster, as docs/clusters.md shows"
_FILES = ("certificate-authority", "client-certificate", "client-key")


class KubeconfigError(ValueError):
    """A kubeconfig that cannot be used; the message says which part and what it should be."""


@dataclass(frozen=True, slots=True)
class Access:
    """One cluster as one user."""

    server: str
    namespace: str
    context: ssl.SSLContext | None
    token: str = ""
    socket: str = ""
    """Path of a local socket through which the server is reached instead, where an agent stands in between."""

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def open_kubeconfig(text: str, context: str = "") -> Access:
    """The access that `context` (default: the current one) describes. Raises `KubeconfigError`."""
    config = _load(text)
    chosen = _named(config, "contexts", context or str(config.get("current-context") or ""))
    cluster = _named(config, "clusters", str(chosen.get("cluster") or ""))
    user = _named(config, "users", str(chosen.get("user") or "")) if chosen.get("user") else {}
    server = str(cluster.get("server") or "")
    here = server.startswith("http://") and urlsplit(server).hostname in ("localhost", "127.0.0.1", "::1")
    if not here and not server.startswith("https://"):
        raise KubeconfigError(f"server {server!r}: write https://host:port; without TLS only on loopback")
    if cluster.get("insecure-skip-tls-verify"):
        raise KubeconfigError("insecure-skip-tls-verify is refused: give certificate-authority-data instead")
    if user.get("username"):
        raise KubeconfigError("user and password are refused by Kubernetes; use a token or a client certificate")
    for name in ("exec", "auth-provider", "tokenFile", *_FILES):
        if user.get(name) or cluster.get(name):
            raise KubeconfigError(f"{name} names a program or file of another machine; {_INSTEAD}")
    return Access(
        server.rstrip("/"),
        str(chosen.get("namespace") or "default"),
        _tls(cluster, user) if server.startswith("https:") else None,
        str(user.get("token") or ""),
    )


def _load(text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeconfigError(f"the kubeconfig is not YAML: {error}") from error
    if not isinstance(config, dict) or not config.get("clusters"):
        raise KubeconfigError("the kubeconfig has no clusters")
    return config


def _named(config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for entry in config.get(kind) or ():
        if entry.get("name") == name:
            return dict(entry.get(kind[:-1]) or {})
    known = ", ".join(str(e.get("name")) for e in config.get(kind) or ()) or "none"
    raise KubeconfigError(f"the kubeconfig has no {kind[:-1]} {name!r}; it has: {known}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = cluster.get("certificate-authority-data")
    data = base64.b64decode(authority).decode() if authority else None
    context = ssl.create_default_context(cadata=data)
    certificate, key = user.get("client-certificate-data"), user.get("client-key-data")
    if certificate and key:
        # The library reads certificates of our own from files only; this one is gone a moment later.
        with tempfile.NamedTemporaryFile(prefix="osmo-", suffix=".pem") as file:
            file.write(base64.b64decode(certificate) + b"\n" + base64.b64decode(key))
            file.flush()
            context.load_cert_chain(file.name)
    return context
