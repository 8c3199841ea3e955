"""Word to people that their workflow has ended: by mail, and by a webhook that understands `{"text": ...}`.

A message is made once, from what is known of the workflow, and says the same everywhere. Delivery is for whoever holds
the outbox: `send` raises `NotSent`, which says whether trying again can help, and the message carries an id that is the
same each time, so that a mail that was sent twice can be told as one.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import smtplib
import socket
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Protocol
from urllib.parse import urlsplit

_TIMEOUT = 20.0
"""Seconds for one step of a delivery."""


class NotSent(Exception):
    """A message was not delivered. `permanent` says that trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Notice:
    """The end of one workflow. `id` is the same for every try; `reason` is one sentence or empty."""

    id: str
    workflow: str
    status: str
    link: str
    reason: str = ""

    @property
    def title(self) -> str:
        return f"{self.workflow} {self.status}"

    @property
    def text(self) -> str:
        """Id, status, reason, link: what a person needs to decide whether to look."""
        lines = [f"Workflow {self.workflow} ended {self.status}."]
        lines += [f"{self.reason}."] if self.reason else []
        return "\n".join([*lines, self.link])


class Channel(Protocol):
    """A way to a person; `to` is what the channel calls them."""

    def send(self, notice: Notice, to: str) -> None:
        """Deliver. Raises `NotSent`."""
        ...


@dataclass(frozen=True, slots=True)
class Mail:
    """SMTP. `security`: `starttls` (default), `tls` from the first byte, or `none`, which a password is never sent
    over, except to this host itself."""

    host: str
    port: int = 587
    sender: str = "osmo@localhost"
    user: str = ""
    password: str = ""
    security: str = "starttls"

    def __repr__(self) -> str:
        return f"Mail({self.host}:{self.port}, {self.security})"

    def send(self, notice: Notice, to: str) -> None:
        message = self.message(notice, to)
        try:
            self._deliver(message)
        except smtplib.SMTPResponseException as error:
            told = (
                error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
            )
            raise NotSent(f"{self.host} said {error.smtp_code} {told}", permanent=error.smtp_code >= 500) from error
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise NotSent(f"{self.host} refuses mail to {to}", permanent=min(codes) >= 500) from error
        except smtplib.SMTPNotSupportedError as error:
            raise NotSent(f"{self.host}: {error}", permanent=True) from error
        except (OSError, smtplib.SMTPException) as error:
            raise NotSent(f"{self.host}:{self.port} cannot be reached: {error}", permanent=False) from error

    def message(self, notice: Notice, to: str) -> EmailMessage:
        """The mail itself. Raises `NotSent` for an address that is none."""
        made = EmailMessage()
        try:
            made["From"], made["To"], made["Subject"] = self.sender, to, notice.title
        except (ValueError, IndexError) as error:
            raise NotSent(f"{to!r} is no address for mail", permanent=True) from error
        made["Date"] = formatdate()
        made["Message-ID"] = f"<{notice.id}@osmo>" if notice.id else make_msgid()
        made["Auto-Submitted"] = "auto-generated"
        made.set_content(notice.text)
        return made

    def _deliver(self, message: EmailMessage) -> None:
        context = ssl.create_default_context()
        link: smtplib.SMTP
        if self.security == "tls":
            link = smtplib.SMTP_SSL(self.host, self.port, timeout=_TIMEOUT, context=context)
        else:
            link = smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT)
        with link:
            if self.security == "starttls":
                link.starttls(context=context)
            if self.user:
                if self.security == "none" and not _is_this_host(self.host):
                    raise NotSent(f"a password is not sent to {self.host} without TLS", permanent=True)
                link.login(self.user, self.password)
            link.send_message(message)


@dataclass(frozen=True, slots=True)
class Webhook:
    """POST of `{"text": ...}` to the address that is `to`. Redirects are not followed. `allow_http` and `allow_private`
    are for hooks within one's own network; without them an address of a user can reach nothing in there."""

    allow_http: bool = False
    allow_private: bool = False

    def send(self, notice: Notice, to: str) -> None:
        parts = urlsplit(to)
        if parts.scheme not in (("https", "http") if self.allow_http else ("https",)) or not parts.hostname:
            raise NotSent("a webhook is an https:// address", permanent=True)
        try:
            address = self._address(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
            status, text = _post(parts.scheme, parts.hostname, address, to, notice)
        except (OSError, http.client.HTTPException) as error:
            raise NotSent(f"{parts.hostname} cannot be reached: {error}", permanent=False) from error
        if status >= 300:
            again = status in (408, 429) or status >= 500
            raise NotSent(f"{parts.hostname} answered {status} {text}", permanent=not again)

    def _address(self, host: str, port: int) -> tuple[str, int]:
        """The address to talk to, looked up once, so that what was checked is what is used."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
        if not self.allow_private and not ipaddress.ip_address(str(found[0]).partition("%")[0]).is_global:
            raise NotSent(f"{host} is an address within a private network", permanent=True)
        return str(found[0]), int(found[1])


def _post(scheme: str, host: str, address: tuple[str, int], url: str, notice: Notice) -> tuple[int, str]:
    parts = urlsplit(url)
    link = http.client.HTTPConnection(host, address[1], timeout=_TIMEOUT)
    raw = socket.create_connection(address, timeout=_TIMEOUT)
    try:
        secure = scheme == "https"
        link.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
        body = json.dumps({"text": f"{notice.title}\n{notice.text}"}).encode()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        link.request("POST", target, body, {"Content-Type": "application/json", "Idempotency-Key": notice.id})
        answer = link.getresponse()
        return answer.status, answer.read(200).decode(errors="replace")
    finally:
        link.close()
        raw.close()


def _is_this_host(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"
