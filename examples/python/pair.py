"""Two tasks that start together: a server, and a client that asks it. The group ends with its lead, the client.

osmo run examples/python/pair.py --question 6
"""

from __future__ import annotations

import socket
import time

import osmo_ray as osmo

PORT = 17123


@osmo.task(memory="256Mi")
def serve() -> None:
    """Answer each number with its square, for as long as somebody is there."""
    with socket.create_server(("0.0.0.0", PORT)) as server:
        while True:
            link, _ = server.accept()
            with link:
                number = int(link.recv(100))
                link.sendall(str(number * number).encode())


@osmo.task(memory="256Mi")
def ask(address: str, question: int) -> int:
    """The server's answer; it may need a moment to come up."""
    for _ in range(100):
        try:
            with socket.create_connection((address, PORT), timeout=5) as link:
                link.sendall(str(question).encode())
                return int(link.recv(100))
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody answers at {address}:{PORT}")


@osmo.workflow
def pair(question: int = 6):
    with osmo.group("talk"):
        answer = ask(osmo.host(serve), question)
        serve()
    return answer
