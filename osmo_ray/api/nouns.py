"""The JSON of everything that is no workflow: version, login, tokens, credentials, apps, profile, pools, nodes.

The rules are those of `shapes.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from osmo_ray.api.shapes import Shape


class Version(Shape):
    """All four are text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"major": "6", "minor": "0", "revision": "0"}]})

    major: str
    minor: str
    revision: str
    hash: str


class LoginInfo(Shape):
    """Where to log in with a provider; all null where there is none."""

    device_endpoint: str | None = None
    device_client_id: str | None = None
    browser_endpoint: str | None = None
    browser_client_id: str | None = None
    token_endpoint: str | None = None
    logout_endpoint: str | None = None


class SignedOut(Shape):
    """The session is over; the provider's own ends at its page, if it has one."""

    provider_logout: str | None = None


class AccessToken(Shape):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"token": "Zm9ydHktdGhyZWUtY2hhcmFjdGVycy1vZi1iYXNlNjQtXw"}]}
    )

    token: str


class PassView(Shape):
    """A JWT and when it ends, in seconds since the epoch."""

    token: str | None
    expires_at: int | None
    error: str | None = None


class TokenEntry(Shape):
    user_name: str
    token_name: str
    expires_at: str | None
    description: str
    roles: list[str]


class TokenRole(Shape):
    role_name: str
    assigned_by: str
    assigned_at: str


class TokenRoles(Shape):
    user_name: str
    token_name: str
    roles: list[TokenRole]


class GenericCredential(Shape):
    credential: dict[str, str]


class RegistryCredential(Shape):
    registry: str
    username: str = ""
    auth: str


class DataCredential(Shape):
    endpoint: str
    access_key_id: str
    access_key: str
    region: str | None = None
    override_url: str | None = None
    addressing: Literal["path", "virtual", "auto"] | None = None
    encryption_key: str | None = Field(
        default=None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="Opens datasets there that are encrypted; 64 hex digits.",
    )


class CredentialBody(Shape):
    """Exactly one of the three."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"generic_credential": {"credential": {"token": "secret"}}}]}
    )

    generic_credential: GenericCredential | None = None
    registry_credential: RegistryCredential | None = None
    data_credential: DataCredential | None = None


class CredentialEntry(Shape):
    """`cred_type` is GENERIC, REGISTRY or DATA; `profile` is null, a registry's host or an endpoint."""

    cred_name: str
    cred_type: str
    profile: str | None


class CredentialList(Shape):
    credentials: list[CredentialEntry]


class AppEntry(Shape):
    uuid: str
    name: str
    description: str
    created_date: str
    owner: str
    latest_version: str


class AppList(Shape):
    apps: list[AppEntry]
    more_entries: bool


class AppVersionEntry(Shape):
    version: int
    created_by: str
    created_date: str
    status: str


class AppView(Shape):
    uuid: str
    name: str
    description: str
    created_date: str
    owner: str
    versions: list[AppVersionEntry]


class Changed(Shape):
    """The version that an update made."""

    uuid: str
    version: int
    name: str
    created_by: str
    created_date: str


class Deleted(Shape):
    versions: list[int]


class ProfileView(Shape):
    username: str
    email_notification: bool
    slack_notification: bool
    bucket: str | None
    pool: str | None


class TokenView(Shape):
    name: str
    expires_at: str | None = None


class ProfileSettings(Shape):
    profile: ProfileView
    roles: list[str]
    pools: list[str]
    token: TokenView | None


class GpuShare(Shape):
    """GPUs of a pool; -1 means no limit."""

    guarantee: float | int
    maximum: float | int
    weight: float | int


class PoolShares(Shape):
    gpu: GpuShare | None


class PlatformView(Shape):
    description: str = ""
    host_network_allowed: bool = False
    privileged_allowed: bool = False
    allowed_mounts: list[str] = Field(default_factory=list)
    default_mounts: list[str] = Field(default_factory=list)


class TopologyKey(Shape):
    key: str
    label: str


class PoolView(Shape):
    """A pool; timeouts are durations as text."""

    name: str
    description: str
    status: str
    download_type: str | None = "download"
    enable_maintenance: bool = False
    backend: str
    default_platform: str | None
    default_exec_timeout: str
    default_queue_timeout: str
    max_exec_timeout: str
    max_queue_timeout: str
    default_exit_actions: dict[str, str] = Field(default_factory=dict)
    resources: PoolShares
    topology_keys: list[TopologyKey] = Field(default_factory=list)
    platforms: dict[str, PlatformView]


class PoolList(Shape):
    pools: dict[str, PoolView]


class Usage(Shape):
    """GPUs, all as text."""

    quota_used: str
    quota_free: str
    quota_limit: str
    total_usage: str
    total_capacity: str
    total_free: str


class PoolWithUsage(PoolView):
    resource_usage: Usage


class NodeSet(Shape):
    """Pools that share nodes."""

    pools: list[PoolWithUsage]


class PoolQuota(Shape):
    node_sets: list[NodeSet]
    resource_sum: Usage


class PlatformConfig(Shape):
    host_network: bool = False
    privileged: bool = False
    default_mounts: list[str] = Field(default_factory=list)
    allowed_mounts: list[str] = Field(default_factory=list)


Amounts = dict[str, str]
ByPlatform = dict[str, dict[str, Amounts]]


class Resource(Shape):
    """A node; amounts are quantities (`8Gi`), by `storage`, `cpu`, `memory` and `gpu`."""

    hostname: str
    exposed_fields: dict[str, str | list[str]]
    taints: list[dict[str, str]] = Field(default_factory=list)
    usage_fields: Amounts
    allocatable_fields: Amounts
    non_workflow_usage_fields: Amounts
    conditions: list[str] | None = None
    platform_allocatable_fields: ByPlatform | None
    platform_available_fields: ByPlatform | None
    platform_workflow_allocatable_fields: ByPlatform | None
    config_fields: dict[str, dict[str, PlatformConfig]] | None
    backend: str
    label_fields: dict[str, str] | None
    pool_platform_labels: dict[str, list[str]]
    resource_type: str


class ResourceList(Shape):
    resources: list[Resource]


class ConcisePool(Shape):
    pool: str
    platform: str
    status: str
    usage_fields: Amounts
    allocatable_fields: Amounts
    backend: str


class ConciseList(Shape):
    pools: list[ConcisePool]


class BucketEntry(Shape):
    path: str
    description: str
    mode: str
    default_cred: bool


class BucketList(Shape):
    default: str | None = None
    buckets: dict[str, BucketEntry]


class BucketLocation(Shape):
    path: str
    region: str


class BucketAccess(Shape):
    """What opens a bucket: its place, or a gateway's address with a token after `#` for it alone; and who asked."""

    name: str
    user: str
    url: str
