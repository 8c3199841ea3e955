"""Word to users that their workflows have ended, for those who asked for it in their profile.

It goes its own way beside the other loops: it asks the store what ended and was not told, so that neither a crash nor
a mail server that is away for hours loses a message. A crash between sending and writing that down sends a message
twice, with the same id. After a day nobody wants to hear of it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.explain import explain
from osmo_ray.engine.model import Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.providers.notify import Channel, Mail, Notice, NotSent, Webhook
from osmo_ray.store.protocol import Ended

log = logging.getLogger(__name__)
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """Where messages go. Channels by name (`mail`, `hook`); `hook_url` is one for all users."""

    url: str
    mail: Mail | None = None
    mail_domain: str = ""
    hook: Webhook | None = None
    hook_url: str = ""

    @property
    def channels(self) -> Mapping[str, Channel]:
        found: dict[str, Channel | None] = {"mail": self.mail, "hook": self.hook}
        return {name: channel for name, channel in found.items() if channel is not None}

    def address(self, ended: Ended) -> str:
        """What the channel calls this user; empty for nobody."""
        if ended.channel == "hook":
            return self.hook_url
        if "@" in ended.user:
            return ended.user
        return f"{ended.user}@{self.mail_domain}" if self.mail_domain else ""


@dataclass(frozen=True, slots=True)
class Round:
    """How many messages went out, and whether a server was away, so that some wait."""

    sent: int
    away: bool


async def step(ledger: Ledger, settings: NoticeSettings) -> Round:
    """Send what is to be sent now. What fails for a while is tried again by a later step."""
    sent, away = 0, False
    for name, channel in settings.channels.items():
        since = ledger.clock() - _DAY
        for ended in await ledger.db(ledger.store.unannounced, name, since):
            error = ""
            try:
                if not settings.address(ended):
                    raise NotSent(f"no address is known for {ended.user} (setting mail_domain)", permanent=True)
                notice = await _notice(ledger, settings, ended)
                await asyncio.to_thread(channel.send, notice, settings.address(ended))
                sent += 1
            except NotSent as failed:
                log.warning("word of %s by %s: %s", ended.id, name, failed)
                if not failed.permanent:
                    away = True
                    break  # the server is away: the others wait, too
                error = str(failed)
            await ledger.db(ledger.store.announced, ended.uuid, name, ledger.clock(), error)
    return Round(sent, away)


async def _notice(ledger: Ledger, settings: NoticeSettings, ended: Ended) -> Notice:
    found = await ledger.db(ledger.store.load, [ended.uuid])
    reason = _reason(found[0]) if found else ""
    return Notice(
        f"{ended.uuid}.{ended.channel}", ended.id, ended.status, f"{settings.url}/workflows/{ended.id}", reason
    )


def _reason(workflow: Workflow) -> str:
    """One sentence on the first task that failed by itself, else on the workflow."""
    failed = [
        (g, t)
        for g in workflow.groups
        for t in g.tasks
        if t.status.failed and t.status is not TaskStatus.FAILED_UPSTREAM
    ]
    for group, task in sorted(failed, key=lambda found: found[1].times.ended):
        why = explain(workflow, group, task)
        if why is not None:
            return f"{task.name}: {why.sentence}"
    return workflow.reason.sentence if workflow.reason else ""
