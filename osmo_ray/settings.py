"""Process settings: one YAML file, every key overridable by environment.

`OSMO_HOME/config.yaml` is read once at start; `OSMO_<KEY>` in upper case wins over it. `docs/configuration.md` lists
every key.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


class SettingsError(ValueError):
    """A key that does not exist, or a value of the wrong kind; the message names both."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one platform needs to know to start. Times are seconds, sizes bytes."""

    home: Path = Path.home() / ".osmo"
    """Where the platform of this host keeps everything; only from the environment."""
    database_url: str = ""
    """Empty: SQLite in `home`."""
    storage_url: str = ""
    """Where intermediate data and finished logs go; empty: a folder in `home`."""
    port: int = 8000
    """Of the API and console."""
    host: str = "127.0.0.1"
    """Address that API and Ray listen on; beyond loopback everybody has to show a token."""
    backend: str = "local"
    """The name of this cluster."""
    pool: str = "default"
    """The name of the pool that workflows are submitted to."""
    platform: str = "local"
    """The name of the kind of hardware that its nodes are."""
    lease_ttl: float = 10.0
    """How long a controller may be silent before another takes over."""
    attempt_lease: float = 60.0
    """How long a task may run on without any word from a controller."""
    platform_retries: int = 3
    """How often work lost with a part of the platform is run again, beside the user's own retries."""
    task_retries: int = 0
    """The user's retry budget per task (`exitActions: RESCHEDULE`)."""
    max_tasks: int = 2000
    """Tasks per workflow."""
    max_user_workflows: int = 0
    """Workflows of one user that have not finished; 0: any number."""
    max_user_tasks: int = 0
    """Tasks in them; 0: any number."""
    start_timeout: float = 1800.0
    """How long a group may take from its placement to its first instruction."""
    cancel_grace: float = 30.0
    """How long work that is ended may go on after TERM, before KILL."""
    timeouts: str = "per-workflow"
    """What `timeout` of a workflow limits: the whole (`per-workflow`), or each of its groups (`per-group`)."""
    exec_timeout: float = 60 * 86400.0
    """How long a workflow may run, at most."""
    queue_timeout: float = 60 * 86400.0
    """How long a workflow may wait in the queue, at most."""
    retention: float = 30 * 86400.0
    """Finished workflows, their logs and intermediate data are removed after this long."""
    disk_reserve: int = 512 << 20
    """Below this much free space in `home`, new work is refused."""
    buckets: str = ""
    """More buckets for datasets beside the built-in one: a mapping of names to `path` and more (docs/datasets.md); as
    JSON where it is a variable."""
    default_bucket: str = "default"
    """The bucket of datasets that are named without one."""
    dataset_cache: int = 50 << 30
    """How much of a node's disk files of datasets may take, kept for the next task that reads them."""
    storage_gateway: bool = False
    """Serve a local storage folder to nodes that join, by signed URLs."""
    log_level: str = "INFO"
    """Of the platform's own logs: DEBUG, INFO, WARNING or ERROR."""
    sandbox: str = "auto"
    """`auto`, `process`, `container` or `none` for tasks that do not say."""
    ray_programs: bool = True
    """Whether the pool trusts Ray programs: their workers run outside the sandbox and hold the cluster's token."""
    tags: str = ""
    """Tags that workflows may get, with commas between them; empty: any."""
    latest_client: str = "6.0.0"
    """Clients of the original that are older are told so."""
    min_client: str = ""
    """Clients of the original that are older are refused; empty: none."""
    mail_host: str = ""
    """Server that takes mail about the ends of workflows; empty: none is sent."""
    mail_port: int = 587
    """Of that server."""
    mail_security: str = "starttls"
    """`starttls`, `tls` from the first byte, or `none`."""
    mail_sender: str = "osmo@localhost"
    """Who the mails are from."""
    prove_credentials: bool = True
    """Whether registry and data credentials are tried when they are set; off for platforms that reach no such place."""
    mail_user: str = ""
    """Login at that server; empty: without."""
    mail_password_file: str = ""
    """A file that holds the password."""
    mail_domain: str = ""
    """Mail of users whose names are no addresses goes to `user@mail_domain`; empty: to nobody."""
    hook_url: str = ""
    """Slack-style webhook that is told of the ends of workflows; empty: none."""
    hook_private: bool = False
    """Whether that webhook may be plain http and in a private network."""
    public_url: str = ""
    """The platform's address in messages and for logins; empty: what `host` and `port` say."""
    quota_source: str = "file"
    """Where quotas come from: `file` (`quota.yaml` in `home`), `runai` (Run:AI's REST API), `kai` or `kueue` (objects
    of a Kubernetes cluster)."""
    quota_kubeconfig: str = ""
    """For `kai` and `kueue`: a kubeconfig file that may list queues; empty: the service account of this pod."""
    quota_namespace: str = ""
    """For `kueue` the namespace whose LocalQueues are pools (empty: all); for `kai` the one in names such as
    `osmo-pool-NAMESPACE-POOL`."""
    quota_pools: str = ""
    """For `kai` and `kueue`: which queue a pool's work goes into, as `POOL=QUEUE` with commas between them."""
    quota_interval: float = 20.0
    """For `kai` and `kueue`: seconds between two readings, at least 1."""
    runai_url: str = ""
    """The address of Run:AI's control plane, https."""
    runai_client_id: str = ""
    """An application there that may read projects and departments."""
    runai_secret_file: str = ""
    """A file that holds the application's secret."""
    runai_ca_file: str = ""
    """Certificates that a Run:AI of one's own is trusted by; empty: the system's."""
    runai_cluster: str = ""
    """The id of this cluster in Run:AI; empty: projects of all clusters, whose names must then differ."""
    runai_node_pool: str = "default"
    """The node pool whose quotas count here."""
    runai_ranks: str = ""
    """Priorities of Run:AI's ranks, as `NAME=NUMBER` with commas between them; those not listed are 100."""
    runai_pools: str = ""
    """Which project a pool's work belongs to, as `POOL=PROJECT` with commas between them; empty: each project is a
    pool of its own name."""
    runai_interval: float = 20.0
    """Seconds between two readings of Run:AI, at least 1."""
    oidc_issuer: str = ""
    """Address of an OpenID Connect provider; then everybody logs in, also on loopback. Empty: none."""
    oidc_client_id: str = ""
    """This platform's client at the provider, for browsers."""
    oidc_client_secret_file: str = ""
    """A file that holds that client's secret; empty: a public client."""
    oidc_device_client_id: str = ""
    """A public client for `osmo login` (device code, password); empty: the same client."""
    oidc_audience: str = ""
    """One more audience of which tokens are accepted, for access tokens of other programs."""
    oidc_scopes: str = "openid profile email offline_access"
    """What logins ask for."""
    oidc_user_claim: str = "preferred_username"
    """The claim that names the user; `email` counts only when the provider has verified it."""
    oidc_roles_claim: str = "roles"
    """The claim that lists roles or groups; a path may have dots (`realm_access.roles`)."""
    oidc_role_map: str = ""
    """Roles by names of that claim: `robot-admins=osmo-admin, *=osmo-user`, where `*` is everybody."""
    oidc_session: float = 12 * 3600.0
    """Seconds after which a browser signs in again."""
    cpu: float = 0.0
    """Cores that workflows may use on this node; 0: what Ray found."""
    gpu: int = -1
    """Logical GPUs of this node; -1: what is found."""

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'osmo.db'}"

    @property
    def storage(self) -> str:
        return self.storage_url or (self.home / "storage").as_uri()

    @property
    def beyond_loopback(self) -> bool:
        """Whether other hosts can reach this platform, so that everybody has to show a token."""
        return not (self.host.startswith("127.") or self.host in ("localhost", "::1"))

    @property
    def authenticated(self) -> bool:
        """Whether everybody has to show who they are; else this is development mode."""
        return self.beyond_loopback or bool(self.oidc_issuer)

    @property
    def address(self) -> str:
        """Where browsers find this platform, without a slash at the end."""
        return self.public_url.rstrip("/") or f"http://{self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """These settings as variables, so that a process started from here loads the same ones."""
        return {f"OSMO_{f.name.upper()}": str(getattr(self, f.name)) for f in fields(self)}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Defaults, then `config.yaml`, then the environment. Raises `SettingsError`."""
    env = os.environ if environ is None else environ
    home = Path(env.get("OSMO_HOME") or Path.home() / ".osmo").expanduser().resolve()
    values = _file(home / "config.yaml")
    known = {f.name for f in fields(Settings)}
    for name in values:
        if name not in known:
            raise SettingsError(f"{home / 'config.yaml'}: unknown key {name!r}; known keys: {', '.join(sorted(known))}")
    for name in known:
        if (text := env.get(f"OSMO_{name.upper()}")) is not None and name != "home":
            values[name] = text
    values["home"] = home
    base = Settings()
    changes: dict[str, Any] = {name: _convert(name, getattr(base, name), value) for name, value in values.items()}
    made = replace(base, **changes)
    for name, choices in _CHOICES.items():
        if getattr(made, name) not in choices:
            told = f"setting {name!r}: {getattr(made, name)!r} is none of {', '.join(choices)}"
            raise SettingsError(told)
    return made


_CHOICES = {"timeouts": ("per-workflow", "per-group")}


def _file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import yaml

    loaded = yaml.safe_load(path.read_text())
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path}: must be a mapping of settings")
    return dict(loaded)


def _convert(name: str, like: object, value: object) -> object:
    try:
        if isinstance(like, Path):
            return Path(str(value))
        if name == "buckets" and isinstance(value, dict):
            return json.dumps(value)
        if isinstance(like, bool):
            return str(value).lower() in ("1", "true", "yes", "on")
        return type(like)(value)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise SettingsError(f"setting {name!r}: {value!r} is not a {type(like).__name__}") from error


def gateway_key(settings: Settings) -> bytes:
    """The secret of the storage gateway, made at the first call; empty when the gateway is off."""
    if not settings.storage_gateway:
        return b""
    path = settings.home / "gateway.key"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    return path.read_bytes()


def without_password(url: str) -> str:
    """A database URL that may be shown."""
    scheme, separator, rest = url.partition("://")
    if "@" not in rest:
        return url
    login, _, place = rest.rpartition("@")
    return f"{scheme}{separator}{login.partition(':')[0]}:***@{place}"
