"""Which source of quotas a platform uses, by its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osmo_ray.providers.quota import QuotaError, QuotaProvider, YamlQuota
from osmo_ray.providers.quota_kept import KeptQuotas
from osmo_ray.settings import Settings


@dataclass(frozen=True, slots=True)
class QuotaSource:
    """What a process needs to open the quotas; holds where the secret is, never the secret."""

    home: Path
    kind: str = "file"
    url: str = ""
    client_id: str = ""
    secret_file: str = ""
    cluster: str = ""
    node_pool: str = "default"
    ranks: str = ""
    interval: float = 20.0
    pools: str = ""
    ca_file: str = ""
    kubeconfig: str = ""
    namespace: str = ""
    kube_pools: str = ""
    kube_interval: float = 20.0


def source_of(settings: Settings) -> QuotaSource:
    """What the settings say of quotas."""
    return QuotaSource(
        settings.home,
        settings.quota_source,
        settings.runai_url,
        settings.runai_client_id,
        settings.runai_secret_file,
        settings.runai_cluster,
        settings.runai_node_pool,
        settings.runai_ranks,
        settings.runai_interval,
        settings.runai_pools,
        settings.runai_ca_file,
        settings.quota_kubeconfig,
        settings.quota_namespace,
        settings.quota_pools,
        settings.quota_interval,
    )


def open_quota(source: QuotaSource) -> QuotaProvider:
    """The provider. Raises `QuotaError` for settings that cannot work."""
    if source.kind == "file":
        return YamlQuota(source.home / "quota.yaml")
    if source.kind in ("kai", "kueue"):
        return _of_a_cluster(source)
    if source.kind != "runai":
        raise QuotaError(f"setting quota_source is {source.kind!r}; it takes file, runai, kai or kueue")
    # Here, since the HTTP client is memory that a platform with a file of quotas never needs.
    from osmo_ray.providers.quota_runai import RunaiScope, connect
    from osmo_ray.providers.runai_client import Login

    def secret() -> str:
        return Path(source.secret_file).read_text("utf-8").strip()

    try:
        secret()
    except (OSError, UnicodeDecodeError) as error:
        raise QuotaError(f"setting runai_secret_file {source.secret_file!r} cannot be read: {error}") from None
    pools = _pairs("runai_pools", source.pools, "POOL=PROJECT")
    scope = RunaiScope(source.node_pool, source.cluster, _ranks(source.ranks), max(source.interval, 1.0), pools)
    origin = f"{source.url} cluster={source.cluster} node pool={source.node_pool} ranks={source.ranks}"
    kept = KeptQuotas(source.home / "runai-quota.yaml", " ".join(origin.split()))
    return connect(Login(source.url, source.client_id, secret, ca_file=source.ca_file), scope, kept)


def _of_a_cluster(source: QuotaSource) -> QuotaProvider:
    from osmo_ray.providers.kube_reader import KubeReader, access_of
    from osmo_ray.providers.quota_far import FarQuota
    from osmo_ray.providers.quota_kube import KaiOrigin, KubeScope, KueueOrigin

    scope = KubeScope(source.namespace, _pairs("quota_pools", source.kube_pools, "POOL=QUEUE"))
    kind = KaiOrigin if source.kind == "kai" else KueueOrigin
    origin = f"{source.kind} kubeconfig={source.kubeconfig} namespace={source.namespace}"
    kept = KeptQuotas(source.home / f"{source.kind}-quota.yaml", " ".join(origin.split()))
    return FarQuota(kind(KubeReader(access_of(source.kubeconfig)), scope), max(source.kube_interval, 1.0), kept)


def _ranks(text: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in _pairs("runai_ranks", text, "NAME=NUMBER").items()}
    except ValueError as error:
        if isinstance(error, QuotaError):
            raise
        raise QuotaError(f"setting runai_ranks: {text!r}; write NAME=NUMBER with commas between them") from None


def _pairs(setting: str, text: str, form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = (p.strip() for p in part.partition("="))
        if not name or not value or name in found:
            raise QuotaError(f"setting {setting}: {part!r}; write {form} with commas between them, each name once")
        found[name] = value
    return found
