"""Notices against real servers of this test: one that speaks SMTP, one that takes webhooks."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from osmo_ray.providers.notify import Mail, Notice, NotSent, Webhook

NOTICE = Notice("abc123", "train-7", "FAILED", "http://h/workflows/train-7", "fit ended with exit code 3")


class Smtp(socketserver.ThreadingTCPServer):
    """A mail server that keeps what it gets, and refuses whom it is told to."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SmtpTalk)
        self.mails: list[tuple[str, bytes]] = []
        self.answers: dict[str, str] = {}
        self.logins: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class SmtpTalk(socketserver.StreamRequestHandler):
    server: Smtp

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self) -> None:
        self.say("220 test")
        to = ""
        while line := self.rfile.readline().decode().strip():
            verb = line.split(":")[0].split()[0].upper()
            if verb in self.server.answers:
                self.say(self.server.answers[verb])
            elif verb == "EHLO":
                self.say("250-test")
                self.say("250 AUTH PLAIN")
            elif verb == "AUTH":
                self.server.logins.append(line)
                self.say("235 ok")
            elif verb == "DATA":
                self.say("354 go on")
                data = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    data += part
                self.server.mails.append((to, data))
                self.say("250 kept")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                to = line.partition(":")[2].strip("<>") if line.upper().startswith("RCPT") else to
                self.say("250 ok")


@pytest.fixture
def smtp() -> Iterator[Smtp]:
    server = Smtp()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_mail_says_what_happened(smtp: Smtp) -> None:
    Mail("127.0.0.1", smtp.port, "osmo@example.org", security="none").send(NOTICE, "ann@example.org")
    ((to, data),) = smtp.mails
    mail = message_from_bytes(data, policy=default)
    assert to == "ann@example.org" and mail["Subject"] == "train-7 FAILED" and mail["Message-ID"] == "<abc123@osmo>"
    text = mail.get_content().replace("\r\n", "\n")
    assert "Workflow train-7 ended FAILED.\n" in text and "fit ended with exit code 3." in text
    assert "http://h/workflows/train-7" in text


def test_a_login_stays_on_this_host_without_tls(smtp: Smtp) -> None:
    Mail("127.0.0.1", smtp.port, "o@e.org", "ann", "secret", "none").send(NOTICE, "ann@example.org")
    assert len(smtp.logins) == 1 and "secret" not in repr(Mail("h", user="ann", password="secret"))


@pytest.mark.parametrize(
    ("verb", "answer", "permanent"),
    [("RCPT", "550 nobody", True), ("RCPT", "451 later", False), ("MAIL", "554 no", True), ("DATA", "452 full", False)],
)
def test_a_refusal_says_whether_to_try_again(smtp: Smtp, verb: str, answer: str, permanent: bool) -> None:
    smtp.answers[verb] = answer
    with pytest.raises(NotSent) as caught:
        Mail("127.0.0.1", smtp.port, security="none").send(NOTICE, "ann@example.org")
    assert caught.value.permanent is permanent and not smtp.mails


def test_a_server_without_tls_gets_nothing(smtp: Smtp) -> None:
    with pytest.raises(NotSent) as caught:
        Mail("127.0.0.1", smtp.port).send(NOTICE, "ann@example.org")
    assert caught.value.permanent and not smtp.mails


def test_nobody_there_is_no_end(smtp: Smtp) -> None:
    smtp.server_close()
    with pytest.raises(NotSent) as caught:
        Mail("127.0.0.1", smtp.port, security="none").send(NOTICE, "ann@example.org")
    assert not caught.value.permanent


@pytest.mark.parametrize("to", ["a@b.org\r\nBcc: c@d.org", "a@b.org\nX: y"])
def test_an_address_cannot_add_a_header(smtp: Smtp, to: str) -> None:
    with pytest.raises(NotSent) as caught:
        Mail("127.0.0.1", smtp.port, security="none").send(NOTICE, to)
    assert caught.value.permanent and not smtp.mails


class Hook(BaseHTTPRequestHandler):
    got: ClassVar[list[tuple[str, dict[str, Any], str]]] = []
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Hook.got.append((self.path, body, self.headers["idempotency-key"]))
        self.send_response(Hook.status)
        self.send_header("location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"told")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hook() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Hook.got, Hook.status = [], 200
    yield f"http://127.0.0.1:{server.server_address[1]}/hook?k=1"
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_the_text(hook: str) -> None:
    Webhook(allow_http=True, allow_private=True).send(NOTICE, hook)
    ((path, body, key),) = Hook.got
    assert path == "/hook?k=1" and key == "abc123"
    assert body == {"text": f"train-7 FAILED\n{NOTICE.text}"}


@pytest.mark.parametrize(("status", "permanent"), [(404, True), (410, True), (302, True), (429, False), (503, False)])
def test_an_answer_says_whether_to_try_again(hook: str, status: int, permanent: bool) -> None:
    Hook.status = status
    with pytest.raises(NotSent, match=f"answered {status} told") as caught:
        Webhook(allow_http=True, allow_private=True).send(NOTICE, hook)
    assert caught.value.permanent is permanent and len(Hook.got) == 1


@pytest.mark.parametrize(
    ("channel", "url"),
    [(Webhook(), "http://example.org/x"), (Webhook(), "file:///etc/passwd"), (Webhook(allow_http=True), None),
     (Webhook(), "https:///x"), (Webhook(), "https://169.254.169.254/latest"), (Webhook(), "https://[::1]/x")],
)  # fmt: skip
def test_what_a_user_names_reaches_nothing_within(hook: str, channel: Webhook, url: str | None) -> None:
    with pytest.raises(NotSent) as caught:
        channel.send(NOTICE, url or hook)
    assert caught.value.permanent and not Hook.got
