"""Reading an API server of Kubernetes in a thread: lists and versions, nothing else."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from osmo_ray.backends.kubernetes.kubeconfig import Access, KubeconfigError, open_kubeconfig
from osmo_ray.providers.quota import QuotaError

_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PAGE = 500
_MOST = 100_000
_TIMEOUT = httpx.Timeout(15.0, connect=5.0)


class KubeReader:
    """`quota_kube.Cluster` over HTTP. `access` is asked for each reading: tokens in files change."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access

    def list(self, path: str) -> Sequence[Any]:
        found: list[Any] = []
        query = {"limit": str(_PAGE)}
        with self._client() as client:
            while True:
                answer = self._get(client, path, query)
                if answer is None:
                    return ()
                found += answer.get("items") or ()
                more = (answer.get("metadata") or {}).get("continue")
                if not more:
                    return found
                if len(found) > _MOST:
                    raise QuotaError(f"{path}: more than {_MOST} objects")
                query["continue"] = str(more)

    def version(self, group: str) -> str:
        with self._client() as client:
            answer = self._get(client, f"/apis/{group}", {})
        return str(answer["preferredVersion"]["version"]) if answer else ""

    def close(self) -> None:
        """Nothing stays open between readings."""

    def _client(self) -> httpx.Client:
        try:
            access = self._access()
        except KubeconfigError as error:
            raise QuotaError(f"quota_kubeconfig: {error}") from None
        except OSError as error:
            raise QuotaError(f"quota_kubeconfig: {error.filename}: {error.strerror}") from None
        verify: ssl.SSLContext | bool = access.context if access.context is not None else True
        return httpx.Client(base_url=access.server, headers=access.header, verify=verify, timeout=_TIMEOUT)

    def _get(self, client: httpx.Client, path: str, query: dict[str, str]) -> Any:
        """The answer; None for a kind that the cluster does not have."""
        try:
            answer = client.get(path, params=query)
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                raise QuotaError(f"{client.base_url}: {path} answered {answer.status_code}: {_said(answer)}")
            return answer.json()
        except httpx.HTTPError as error:
            raise QuotaError(f"{client.base_url}: {type(error).__name__} {error}") from None
        except json.JSONDecodeError:
            raise QuotaError(f"{client.base_url}: {path} answered no JSON") from None


def access_of(kubeconfig: str) -> Callable[[], Access]:
    """From a file, or inside a pod from its service account."""
    if kubeconfig:
        return lambda: open_kubeconfig(Path(kubeconfig).read_text("utf-8"))
    return _in_pod


def _in_pod() -> Access:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise QuotaError("quota_kubeconfig is empty, and this is no pod; name a kubeconfig file")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    context = ssl.create_default_context(cafile=str(_POD / "ca.crt"))
    return Access(server, "default", context, (_POD / "token").read_text("utf-8").strip())


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("message") or answer.reason_phrase)
    except (json.JSONDecodeError, AttributeError):
        return answer.reason_phrase
