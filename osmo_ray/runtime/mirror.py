"""A pod's log as its container's own output, so that Kubernetes can hand it on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Mirror:
    """The log on our own output, each line after its offset, so that a follower through Kubernetes knows where it is
    even after the node has thrown an old part away."""

    log: Path
    offset: int = 0
    rest: bytes = b""

    def step(self) -> None:
        """What is new, whole lines only."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.offset)
                data = file.read(1 << 20)
        except FileNotFoundError:
            return
        cut = data.rfind(b"\n") + 1
        out = []
        for line in data[:cut].splitlines(keepends=True):
            out.append(b"%d " % self.offset + line)
            self.offset += len(line)
        if out:
            sys.stdout.buffer.write(b"".join(out))
            sys.stdout.buffer.flush()
