"""From a kubeconfig to a connection: where the API server is, what proves that it is it, and what proves who we are.

Client certificates, tokens, token files, exec plugins (as the clouds use them) and the service account of a pod are
read. Files that a kubeconfig names are read when it is registered, so that what is stored stands by itself.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXEC_LIMIT = 60.0
_TOKEN_FILE_LIFE = 60.0
_EARLY = 60.0
_FILES = {
    "certificate-authority": "certificate-authority-data",
    "client-certificate": "client-certificate-data",
    "client-key": "client-key-data",
}


class KubeconfigError(ValueError):
    """A kubeconfig that cannot be used; the message says which part and what it should be."""


@dataclass(slots=True)
class Access:
    """One cluster as one user. `header()` gives the Authorization header, made anew when it is about to expire."""

    server: str
    namespace: str
    context: ssl.SSLContext | None
    token: str = ""
    token_file: str = ""
    plugin: Mapping[str, Any] = field(default_factory=dict)
    _until: float = 0.0

    def header(self, *, anew: bool = False) -> dict[str, str]:
        """Blocking: an exec plugin is a program, a token file is read again. Raises `KubeconfigError`."""
        if self.plugin and (anew or not self.token or time.time() > self._until):
            self.token, self._until = _run(self.plugin)
        if self.token_file and (anew or time.time() > self._until):
            self.token, self._until = Path(self.token_file).read_text().strip(), time.time() + _TOKEN_FILE_LIFE
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def inlined(text: str, folder: Path) -> str:
    """The same kubeconfig with the files that it names written into it, so that it can be kept elsewhere."""
    config = _load(text)
    for kind in ("clusters", "users"):
        for entry in config.get(kind) or ():
            values = entry.get(kind[:-1]) or {}
            for name, data in _FILES.items():
                if path := values.pop(name, None):
                    values[data] = base64.b64encode(_read(folder / path)).decode()
            if path := values.get("tokenFile"):
                values["tokenFile"] = str((folder / path).resolve())
    return yaml.safe_dump(config, sort_keys=False)


def open_kubeconfig(text: str, context: str = "") -> Access:
    """The access that `context` (default: the current one) describes. Raises `KubeconfigError`."""
    config = _load(text)
    chosen = _named(config, "contexts", context or str(config.get("current-context") or ""))
    cluster = _named(config, "clusters", str(chosen.get("cluster") or ""))
    user = _named(config, "users", str(chosen.get("user") or "")) if chosen.get("user") else {}
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise KubeconfigError(f"server {server!r}: write https://host:port")
    if cluster.get("insecure-skip-tls-verify"):
        raise KubeconfigError("insecure-skip-tls-verify is refused: give certificate-authority-data instead")
    if user.get("username"):
        raise KubeconfigError("user and password are refused by Kubernetes; use a token or a client certificate")
    return Access(
        server.rstrip("/"),
        str(chosen.get("namespace") or "default"),
        _tls(cluster, user) if server.startswith("https:") else None,
        str(user.get("token") or ""),
        str(user.get("tokenFile") or ""),
        user.get("exec") or {},
    )


def in_cluster() -> Access:
    """The access of the pod that this runs in. Raises `KubeconfigError` outside of one."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not _ACCOUNT.exists():
        raise KubeconfigError("this is no pod with a service account; give a kubeconfig")
    context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    shown = f"[{host}]" if ":" in host else host
    namespace = (_ACCOUNT / "namespace").read_text().strip()
    return Access(f"https://{shown}:{port}", namespace, context, token_file=str(_ACCOUNT / "token"))


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


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}") from error


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


def _run(plugin: Mapping[str, Any]) -> tuple[str, float]:
    """A token of an exec plugin and until when it is good."""
    argv = [str(plugin.get("command") or ""), *map(str, plugin.get("args") or ())]
    version = str(plugin.get("apiVersion") or "client.authentication.k8s.io/v1")
    asked = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}})
    given = {str(e["name"]): str(e["value"]) for e in plugin.get("env") or ()}
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **given, "KUBERNETES_EXEC_INFO": asked},
            capture_output=True,
            timeout=_EXEC_LIMIT,
            check=True,
        )
        status = json.loads(done.stdout)["status"]
        token = str(status["token"])
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip()[-300:]
        raise KubeconfigError(f"the plugin {argv[0]} failed: {told}") from error
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise KubeconfigError(f"the plugin {argv[0]} gave no token: {error}") from error
    until = status.get("expirationTimestamp")
    expires = datetime.fromisoformat(str(until).replace("Z", "+00:00")).timestamp() if until else time.time() + 600
    return token, expires - _EARLY
