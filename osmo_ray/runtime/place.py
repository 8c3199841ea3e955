"""What a task's texts mean where it runs: its tokens, its environment, its files."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.runtime import pyenv, reasons
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.layout import Layout
from osmo_ray.runtime.sandbox import INPUT, OUTPUT, TOOLS
from osmo_ray.runtime.spool import Folder
from osmo_ray.spec.attempt import AttemptPlan, FilePlan
from osmo_ray.spec.tokens import Tokens, expand, host_label, host_name, variables

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_BUSYBOX_IMAGES = ("alpine", "busybox")


def _repository(image: str) -> str:
    """`alpine` for `registry.example/library/alpine:3.18@sha256:...`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one attempt's command will find itself. `tools` is the folder of programs of last resort."""

    folder: Folder
    job: Job
    layout: Layout | None
    tools: str = ""
    packages: str = ""
    """The task's own Python environment on this host, or empty."""

    @property
    def inside(self) -> bool:
        """The task has a file system of its own, so the documented paths hold."""
        return self.job.mode != "none"

    def tokens(self, hosts: Mapping[str, str]) -> Tokens:
        """The meaning of each token; `hosts` are the addresses known so far."""
        plan = self.job.plan
        base = INPUT if self.inside else str(self.folder.data_in)
        inputs = tuple(f"{base}/{number}" for number in range(len(plan.inputs)))
        if self.inside:
            names = {peer: host_name(peer, plan.workflow_id) for peer in plan.peers}
        else:
            names = {peer: hosts.get(peer, self.job.address) for peer in plan.peers}
        output = OUTPUT if self.inside else str(self.folder.data_out)
        aliases = {one.alias: path for one, path in zip(plan.inputs, inputs, strict=True) if one.alias}
        return Tokens(plan.workflow_id, output, inputs, aliases, names)

    def environment(self, tokens: Tokens) -> dict[str, str]:
        """A clean one: the usual names, the plan's, and the platform's own; nothing of the host's."""
        plan, private = self.job.plan, self.folder.private
        gpus = ",".join(map(str, self.job.gpus))
        values = {
            "PATH": self.path(),
            "HOME": "/root" if self.inside else str(private / "home"),
            "USER": "root" if self.inside or os.geteuid() == 0 else "osmo",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "HOSTNAME": self.hostname,
            "TMPDIR": "/tmp" if self.inside else str(private / "tmp"),  # noqa: S108 - the task's own
            "CUDA_VISIBLE_DEVICES": gpus,
            "NVIDIA_VISIBLE_DEVICES": gpus,
        }
        values |= {name: expand(text, tokens) for name, text in plan.environment.items()}
        return values | {
            **plan.secrets.environment,
            "OSMO_WORKFLOW_ID": plan.workflow_id,
            "OSMO_GROUP": plan.group,
            "OSMO_TASK": plan.task,
            "OSMO_RETRY_ID": str(plan.key.retry_id),
            "OSMO_ATTEMPT": str(plan.key),
            "OSMO_OUTPUT": tokens.output,
            **placed_datasets(plan, tokens),
        }

    def path(self) -> str:
        """The host's PATH without what the task cannot see, and the tools last; first for a task whose image would
        have brought these very programs, since those of the host may behave differently (`nc -l -w` for one)."""
        host = (os.environ.get("PATH") or _SYSTEM_PATH).split(":")
        seen = [one for one in host if one.startswith("/") and self._sees(one)]
        seen += [one for one in _SYSTEM_PATH.split(":") if one not in seen]
        tools = TOOLS if self.job.mode == "namespaces" else self.tools
        own = [f"{pyenv.INSIDE if self.inside else self.packages}/bin"] if self.packages else []
        last = [tools] if self.tools else []
        first = last if _repository(self.job.plan.image) in _BUSYBOX_IMAGES else []
        return ":".join(dict.fromkeys([*own, *first, *seen, *last]))

    def _sees(self, path: str) -> bool:
        if self.layout is None:
            return True
        shown = self.layout.entry(path) is not None
        below = any(path.startswith(one + "/") for one in self.layout.hidden)
        return (shown and not below) or any(path.startswith(one + "/") for one in self.layout.visible)

    @property
    def hostname(self) -> str:
        return host_label(self.job.plan.task) if self.inside else socket.gethostname()

    def argv(self, tokens: Tokens, environment: Mapping[str, str]) -> tuple[str, ...]:
        """The command with tokens, then variables."""
        return tuple(variables(expand(text, tokens), environment) for text in self.job.plan.argv)

    def write_hosts(self, hosts: Mapping[str, str]) -> None:
        """The task's hosts file, written in place because it is mounted as it is."""
        plan = self.job.plan
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        own = {plan.task: self.job.address} if self.job.address else {}
        for task, address in sorted({**own, **hosts}.items()):
            lines.append(f"{address} {host_name(task, plan.workflow_id)} {host_label(task)}")
        with (self.folder.path / "hosts").open("r+" if (self.folder.path / "hosts").exists() else "w") as file:
            file.write("\n".join(lines) + "\n")
            file.truncate()

    def write_files(self, tokens: Tokens) -> list[tuple[str, Path]]:
        """The plan's files with tokens expanded, and those of its credentials as they are: (path in the task, source
        in the spool)."""
        made = []
        secret = self.job.plan.secrets.files
        folder = self.folder.path / "files"
        folder.mkdir(mode=0o700, exist_ok=True)
        given = [(expand(f.path, tokens), f, tokens) for f in self.job.plan.files]
        for number, (target, file, tokens_) in enumerate([*given, *((f.path, f, None) for f in secret)]):
            source = folder / str(number)
            if source.exists():
                source.unlink()
            try:
                data = _contents(file, tokens_)
            except ValueError as error:
                raise reasons.bad_file(target, f"its contents are not base64: {error}") from error
            source.write_bytes(data)
            source.chmod(0o444)
            made.append((target, source))
        return made

    def copy_files(self, files: list[tuple[str, Path]]) -> None:
        """Without namespaces: only into the task's own folders."""
        for target, source in files:
            path = Path(os.path.normpath(target))
            if not any(path.is_relative_to(own) for own in (self.folder.data_out, self.folder.data_in)):
                raise reasons.needs_namespaces(target, self.job.why)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
            path.chmod(0o444)


def placed_datasets(plan: AttemptPlan, tokens: Tokens) -> dict[str, str]:
    """`OSMO_DATASETS` for a task that reads any: `bucket/name:number` of each to its folder, for `osmo.data.shards`."""
    at = {
        str(wanted): f"{folder}/{wanted.name}"
        for one, folder in zip(plan.inputs, tokens.inputs, strict=True)
        for wanted in one.datasets
    }
    return {"OSMO_DATASETS": json.dumps(at)} if at else {}


def _contents(file: FilePlan, tokens: Tokens | None) -> bytes:
    if file.base64:
        return base64.b64decode(file.contents)
    return (file.contents if tokens is None else expand(file.contents, tokens)).encode()
