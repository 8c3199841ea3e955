"""Word of ended workflows, through a real mail server and a real webhook server of this test."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller as MailServer

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.control.notices import NoticeSettings
from osmo_ray.providers.notify import Mail, Webhook
from osmo_ray.store.protocol import Profile
from tests.control.conftest import FAST, ended, spec, submit

QUICK = replace(FAST, notices=0.05)
URL = "http://osmo.example"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Box:
    """Mails that a server took; with `away` it takes none for now."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.away = False
        self.tries = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.tries += 1
        if self.away:
            return "451 come again"
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=default)))
        return "250 taken"


@pytest.fixture
def box() -> Iterator[tuple[Box, int]]:
    made = Box()
    server = MailServer(made, hostname="127.0.0.1", port=free_port())
    server.start()
    yield made, server.port
    server.stop()


@pytest.fixture
def hook() -> Iterator[tuple[list[Any], str]]:
    told: list[Any] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told, f"http://127.0.0.1:{server.server_address[1]}/services/x"
    server.shutdown()
    server.server_close()


def mail(port: int) -> NoticeSettings:
    return NoticeSettings(URL, mail=Mail("127.0.0.1", port, security="none"), mail_domain="example.org")


async def true(check: Any, what: str) -> None:
    for _ in range(400):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(what)


async def test_the_end_is_told_once_to_who_asked(store, start, box):
    taken, port = box
    store.save_profile(Profile("ann", email_notification=True))
    store.save_profile(Profile("c@d.org", email_notification=True))
    store.save_profile(Profile("bob", slack_notification=True))
    backend = FakeBackend(script=lambda plan: Ending(0.0, 3))
    controller = start(backend, notify=mail(port), settings=QUICK)
    names = [submit(store, spec(("a", ())), user).id for user in ("ann", "bob", "c@d.org")]
    for name in names:
        await ended(store, name)
    await true(lambda: len(taken.mails) == 2, "two mails")
    await true(lambda: store.unannounced("mail", 0.0) == [], "nothing is left to tell")
    await controller.stop()
    start(FakeBackend(), holder="two", notify=mail(port), settings=QUICK)  # a new leader tells nobody again
    await ended(store, submit(store, spec(("b", ())), "ann").id)
    await true(lambda: len(taken.mails) == 3, "the third")
    assert [to for to, _ in taken.mails] == [["ann@example.org"], ["c@d.org"], ["ann@example.org"]]
    message = taken.mails[0][1]
    assert message["Subject"] == f"{names[0]} FAILED"
    assert f"{URL}/workflows/{names[0]}" in message.get_content()
    assert len({m["Message-ID"] for _, m in taken.mails}) == 3


async def test_a_server_that_is_away_is_asked_again(store, start, box):
    taken, port = box
    taken.away = True
    store.save_profile(Profile("ann", email_notification=True))
    start(FakeBackend(), notify=mail(port), settings=QUICK)
    await ended(store, submit(store, spec(("a", ())), "ann").id)
    await true(lambda: taken.tries >= 2, "it is tried again")
    assert taken.mails == []
    taken.away = False
    await true(lambda: len(taken.mails) == 1, "it arrives")


async def test_a_webhook_gets_text(store, start, hook):
    told, url = hook
    store.save_profile(Profile("ann", slack_notification=True))
    settings = NoticeSettings(URL, hook=Webhook(allow_http=True, allow_private=True), hook_url=url)
    start(FakeBackend(), notify=settings, settings=QUICK)
    name = submit(store, spec(("a", ())), "ann").id
    await ended(store, name)
    await true(lambda: told, "the webhook is called")
    assert f"{name} COMPLETED" in told[0]["text"] and URL in told[0]["text"]


async def test_what_ended_before_it_was_wanted_is_not_told(store, start, box):
    taken, port = box
    start(FakeBackend(), notify=mail(port), settings=QUICK)
    await ended(store, submit(store, spec(("a", ())), "ann").id)
    store.mute("ann", "mail", 0.0)
    store.save_profile(Profile("ann", email_notification=True))
    later = submit(store, spec(("b", ())), "ann").id
    await ended(store, later)
    await true(lambda: taken.mails, "the later one is told")
    assert [m["Subject"] for _, m in taken.mails] == [f"{later} COMPLETED"]
