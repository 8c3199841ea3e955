"""Puts the platform's parts into a running Ray: the controller and the API. Run as a program, safe to repeat.

It is a process of its own, started by the keeper whenever something is missing, so that the keeper itself stays a few
megabytes and needs no connection to Ray.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from osmo_ray import settings as settings_room
from osmo_ray.api.app import build
from osmo_ray.backends.ray import names
from osmo_ray.backends.ray.agent import AgentSettings
from osmo_ray.backends.ray.programs import Cluster
from osmo_ray.control.actor import ActorSettings, RemoteController
from osmo_ray.control.controller import ControlSettings
from osmo_ray.control.notices import NoticeSettings
from osmo_ray.engine.events import Policy
from osmo_ray.engine.exits import PREEMPTED
from osmo_ray.engine.plans import PoolRules
from osmo_ray.objects import scope
from osmo_ray.platform.files import Files
from osmo_ray.platform.head import temp_folder
from osmo_ray.providers import buckets
from osmo_ray.providers.notify import Mail, Webhook
from osmo_ray.providers.quotas import source_of
from osmo_ray.runtime.options import Options
from osmo_ray.settings import Settings, gateway_key
from osmo_ray.spec.model import Sandbox

_TOKEN_LIFE = 400 * 86400.0
_HEAD = {"node:__internal_head__": 0.001}
"""Parts that open an embedded database stay on the head, where its file is."""


def main(argv: list[str] | None = None) -> int:
    """`python -m osmo_ray.platform.bring_up RAY_ADDRESS HEAD_NODE`"""
    address, head = (argv or sys.argv[1:])[:2]
    settings = settings_room.load()
    context = ray.init(address=address, namespace=names.NAMESPACE, log_to_driver=False, logging_level="WARNING")
    cluster = Cluster(f"http://{context.address_info['webui_url']}", address)
    ensure_controller(settings, head, cluster)
    ensure_api(settings)
    return 0


def ensure_controller(settings: Settings, head: str, cluster: Cluster) -> None:
    """The controller's actor, made if it is not there."""
    pinned = _HEAD if settings.database.startswith("sqlite") else {}
    RemoteController.options(
        name=names.CONTROLLER,
        namespace=names.NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        resources=pinned,
    ).remote(actor_settings(settings, head, cluster))


def ensure_api(settings: Settings) -> None:
    """The API on Serve. Its replica listens by itself, so there is no proxy."""
    serve.start(
        proxy_location="Disabled",
        logging_config={"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False},
    )
    # A deployment made again would replace its replica, and cut off whoever follows a log.
    if not _deployed():
        serve.run(
            build({"listen": f"{settings.host}:{settings.port}"}),
            name=names.SERVE_APP,
            route_prefix="/",
            blocking=False,
        )


def _deployed() -> bool:
    """Whether Serve has the application and keeps it up by itself."""
    found = serve.status().applications.get(names.SERVE_APP)
    return found is not None and found.status in (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING)


def remote_storage(settings: Settings) -> str:
    """How nodes that join reach the storage: as everybody, or through the gateway when it is a folder here."""
    if not settings.storage.startswith("file:"):
        return settings.storage
    key = gateway_key(settings)
    if not key:
        return ""
    token = scope.grant(key, scope.ALL, "", time.time() + _TOKEN_LIFE)
    return f"osmo+http://{settings.host}:{settings.port}#{token}"


def pods_storage(settings: Settings) -> str:
    """The same for pods of registered clusters, to whom this host's loopback is another place."""
    url = remote_storage(settings)
    return url if settings.beyond_loopback or not url.startswith("osmo+") else ""


def _shown() -> tuple[str, ...]:
    """What tasks see wherever it lies: the interpreter, its packages, and this package where it was not installed among
    them."""
    prefixes = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
    own = Path(__file__).resolve().parents[1]
    found = prefixes if any(own.is_relative_to(prefix) for prefix in prefixes) else [*prefixes, own]
    return tuple(dict.fromkeys(map(str, found)))


def actor_settings(settings: Settings, head: str, cluster: Cluster) -> ActorSettings:
    """What the controller and its agents are told."""
    files = Files(settings.home)
    options = Options(
        sandbox=settings.sandbox,
        hidden=(str(settings.home), str(temp_folder(files))),
        visible=_shown(),
        cpu=settings.cpu,
        gpu=settings.gpu,
        platform=settings.platform,
        lease=settings.attempt_lease,
        dataset_cache=settings.dataset_cache,
    )
    agents = AgentSettings(
        home=settings.home,
        storage_url=settings.storage,
        remote_storage_url=remote_storage(settings),
        head=head,
        cluster=cluster,
        options=options,
    )
    return ActorSettings(
        database=settings.database,
        storage=settings.storage,
        backend=settings.backend,
        buckets=buckets.load(settings),
        agents=agents,
        control=ControlSettings(
            lease_ttl=settings.lease_ttl,
            attempt_lease=settings.attempt_lease,
            retention=settings.retention,
            platform=settings.platform,
        ),
        policy=Policy(
            task_retries=settings.task_retries,
            platform_retries=settings.platform_retries,
            start_timeout=settings.start_timeout,
            grace=settings.cancel_grace,
            timeouts=settings.timeouts,
            exit_actions={"RESCHEDULE": str(PREEMPTED)},
        ),
        rules=PoolRules(sandbox=Sandbox.AUTO, trusted=settings.ray_programs),
        notify=notice_settings(settings),
        quota=source_of(settings),
        log_level=settings.log_level,
        pods_storage=pods_storage(settings),
    )


def notice_settings(settings: Settings) -> NoticeSettings:
    """Where word of ended workflows goes."""
    password = settings.mail_password_file
    mail = Mail(
        settings.mail_host,
        settings.mail_port,
        settings.mail_sender,
        settings.mail_user,
        Path(password).read_text().strip() if password else "",
        settings.mail_security,
    )
    private = settings.hook_private
    return NoticeSettings(
        url=settings.address,
        mail=mail if settings.mail_host else None,
        mail_domain=settings.mail_domain,
        hook=Webhook(allow_http=private, allow_private=private) if settings.hook_url else None,
        hook_url=settings.hook_url,
    )


if __name__ == "__main__":
    raise SystemExit(main())
