"""What one host may do and how: the few knobs of a `NodeHost`, as JSON so that its helpers read the same ones."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds, sizes in bytes, paths absolute."""

    sandbox: str = "auto"
    """`auto`, `process` (never a container), `container` (for every task that has an image) or `none` (no
    namespaces, even where the host has them)."""
    hidden: tuple[str, ...] = ()
    """Paths no task may see, beside the spool itself: the platform's home, Ray's session folder and its token."""
    visible: tuple[str, ...] = ()
    """Paths tasks may read although they lie in a hidden home: a Python environment, for example."""
    network: str = "10.201.0.0/16"
    """Addresses of tasks on this node; private to the node."""
    way_out: bool = True
    """Tasks may reach beyond the node, where this host can give them a way."""
    engine: str = "auto"
    """Container engine: `auto`, `podman`, `docker` or `off`."""
    cpu: float = 0.0
    """Cores for workflows; 0: all of this host."""
    memory: int = 0
    gpu: int = -1
    """Logical GPUs; -1: those that are found."""
    platform: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    lease: float = 60.0
    """How long tasks may run on after the last word from a controller."""
    grace: float = 10.0
    """Between TERM and KILL when the runtime itself ends a task."""
    sample: float = 1.0
    ship_every: float = 10.0
    ship_size: int = 4 << 20
    keep_environments: float = 7 * 86400.0
    """How long a Python environment stays on the node that no task has asked for."""
    dataset_cache: int = 50 << 30
    """Bytes of datasets' files that this host keeps for the next task."""
    cgroup: str = ""
    """A delegated cgroup v2 folder to use; empty: found; `off`: none, limits are watched by sampling."""

    def __post_init__(self) -> None:
        if self.sandbox not in ("auto", "process", "container", "none"):
            raise ValueError(f"sandbox {self.sandbox!r}: write auto, process, container or none")
        if ipaddress.IPv4Network(self.network).prefixlen > 24:
            raise ValueError(f"network {self.network}: write one with at least 254 addresses, such as 10.201.0.0/16")

    def save(self, path: Path) -> None:
        """Leave a copy for the helpers of this host."""
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> Options:
        """What `save` wrote."""
        values = json.loads(path.read_text())
        return Options(**values | {"hidden": tuple(values["hidden"]), "visible": tuple(values["visible"])})
