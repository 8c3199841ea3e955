"""Who is owed how much: the one door to quotas, and the YAML file that is its embedded form.

A file is edited while the platform runs, so a bad one must never change what is in force: the last good answer stays,
marked stale, with the error beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

UNLIMITED = -1.0
Resource = tuple[float, float, float]
"""Quota, limit, weight; -1 in the first two means unlimited."""

_FREE: Resource = (UNLIMITED, UNLIMITED, 1.0)
_TOP = ("queues", "pools", "shards", "placement")
_RUNTIMES = ("preempt_min_runtime", "reclaim_min_runtime")
_QUEUE = ("name", "parent", "priority", "gpu", "cpu", "memory", *_RUNTIMES, "shard")
_SHARD = ("name", "nodes", "placement")
_PLACEMENT = ("gpu", "cpu")
_RESOURCE = ("quota", "limit", "weight")
_TAG = "tag:yaml.org,2002:"
_MOST_BYTES = 4 << 20


class QuotaError(ValueError):
    """The quotas cannot be used; the message says where, what, and what to do instead."""


@dataclass(frozen=True, slots=True)
class QuotaQueue:
    """One queue: GPUs (fractions allowed), cores, bytes; minimum runtimes in seconds."""

    name: str
    parent: str = ""
    priority: int = 100
    gpu: Resource = _FREE
    cpu: Resource = _FREE
    memory: Resource = _FREE
    preempt_min_runtime: float | None = None
    reclaim_min_runtime: float | None = None
    shard: str = ""
    """The shard whose nodes it divides; a tree of queues is of one shard."""


@dataclass(frozen=True, slots=True)
class QuotaShard:
    """Nodes that are divided on their own: those with all of these labels, which earlier shards did not take. The shard
    without a name has the nodes that are left. `spread` says for nodes with and without GPUs whether work goes to the
    emptiest node rather than to the fullest."""

    name: str
    nodes: Mapping[str, str] = field(default_factory=dict)
    spread: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, slots=True)
class QuotaSnapshot:
    """All queues, in the order of their source, and which queue a pool's work goes into."""

    version: str
    queues: tuple[QuotaQueue, ...]
    pools: Mapping[str, str] = field(default_factory=dict)
    stale: bool = False
    error: str = ""
    """Why the newest answer could not be used, while `stale`."""
    default: str = ""
    """The queue of pools that `pools` does not name; empty: the queue of the pool's name."""
    shards: tuple[QuotaShard, ...] = ()
    """Empty: all nodes are one."""

    def resolve(self, pool: str) -> str:
        """The queue of a pool: what `pools` says, else the default (which may not exist)."""
        return self.pools.get(pool, self.default or pool)


class QuotaProvider(Protocol):
    """Where quotas come from. Asked in each cycle, so an answer must be cheap while nothing has changed."""

    @property
    def error(self) -> str:
        """Why the newest answer could not be used; empty while all is well."""

    def snapshot(self) -> QuotaSnapshot | None:
        """What is in force; None where nobody set quotas. Never raises: the last good answer comes back stale."""


class YamlQuota:
    """A file, read again when its time or size has changed. No file: no quotas."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._good: QuotaSnapshot | None = None
        self.error = ""

    def snapshot(self) -> QuotaSnapshot | None:
        """What the file says; after a bad change what it said before, stale; None without a file or a good answer."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._seen = seen
                text = self._read(stat.st_size)
                self._good, self.error = parse(text, str(self._path), f"{seen[0]}-{seen[1]}"), ""
        except FileNotFoundError:
            self._seen, self._good, self.error = None, None, ""
        except OSError as error:
            self._seen = None
            self._fail(f"{self._path}: cannot be read ({error.strerror}); let the controller's user read it")
        except QuotaError as error:
            self._fail(str(error))
        return self._good

    def _read(self, size: int) -> str:
        if size > _MOST_BYTES:
            raise QuotaError(f"{self._path}: {size} bytes is too much; keep it below {_MOST_BYTES}")
        try:
            return self._path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise QuotaError(f"{self._path}: byte {error.start} is not UTF-8; save it as UTF-8") from None

    def _fail(self, message: str) -> None:
        self.error = message
        if self._good is not None:
            self._good = replace(self._good, stale=True, error=message)


def parse(text: str, where: str, version: str = "") -> QuotaSnapshot:
    """Quotas from YAML text. Raises QuotaError with `where`, line and column."""
    return _Reader(where).read(text, version)


class _Reader:
    """Walks the nodes of the YAML rather than values, so that each error knows its line and column."""

    def __init__(self, where: str) -> None:
        self._where = where

    def read(self, text: str, version: str) -> QuotaSnapshot:
        root = self._compose(text)
        if root is None:
            raise QuotaError(f"{self._where}:1:1: the file is empty; list `queues`, or delete it to have no quotas")
        top = self._fields(root, _TOP, "the file")
        listed = top.get("queues")
        if not isinstance(listed, yaml.SequenceNode) or not listed.value:
            raise self._bad(listed or root, "`queues` must be a list with at least one queue; write `queues: [...]`")
        queues: dict[str, tuple[QuotaQueue, yaml.Node]] = {}
        for node in listed.value:
            queue = self._queue(node)
            if queue.name in queues:
                raise self._bad(node, f"queue {queue.name!r} is there twice; give each its own name")
            queues[queue.name] = queue, node
        shards = self._shards(top.get("shards"), top.get("placement"))
        self._tree(queues)
        queues = self._sharded(queues, {shard.name for shard in shards} | {""})
        parents = {queue.parent for queue, _ in queues.values()}
        pools = self._pools(top.get("pools"), set(queues) - parents)
        return QuotaSnapshot(version, tuple(queue for queue, _ in queues.values()), pools, shards=shards)

    def _compose(self, text: str) -> yaml.Node | None:
        try:
            for token in yaml.scan(text, yaml.SafeLoader):
                if isinstance(token, yaml.AliasToken):
                    raise self._at(token.start_mark, "aliases are not taken here; write the value out")
            return yaml.compose(text, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            problem = error.problem or "unreadable"
            raise self._at(error.problem_mark, f"not valid YAML ({problem}); mend it there") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise QuotaError(f"{self._where}:1:1: not valid YAML ({error}); mend it") from None

    def _queue(self, node: yaml.Node) -> QuotaQueue:
        found = self._fields(node, _QUEUE, "a queue")
        if "name" not in found:
            raise self._bad(node, "a queue has no `name`; give it one")
        return QuotaQueue(
            name=self._text(found["name"], "name"),
            parent=self._text(found["parent"], "parent") if "parent" in found else "",
            priority=self._whole(found["priority"]) if "priority" in found else 100,
            gpu=self._resource(found.get("gpu"), "gpu"),
            cpu=self._resource(found.get("cpu"), "cpu"),
            memory=self._resource(found.get("memory"), "memory"),
            preempt_min_runtime=self._seconds(found, "preempt_min_runtime"),
            reclaim_min_runtime=self._seconds(found, "reclaim_min_runtime"),
            shard=self._text(found["shard"], "shard") if "shard" in found else "",
        )

    def _shards(self, node: yaml.Node | None, rest: yaml.Node | None) -> tuple[QuotaShard, ...]:
        made: dict[str, QuotaShard] = {}
        if node is not None and not isinstance(node, yaml.SequenceNode):
            raise self._bad(node, "`shards` must be a list; write `shards: [...]`")
        for one in node.value if node is not None else ():
            found = self._fields(one, _SHARD, "a shard")
            if "name" not in found or "nodes" not in found:
                raise self._bad(one, "a shard needs a `name`, and `nodes`: the labels of its nodes")
            name = self._text(found["name"], "name")
            if name in made:
                raise self._bad(one, f"shard {name!r} is there twice; give each its own name")
            labels = self._fields(found["nodes"], None, "`nodes`")
            if not labels:
                raise self._bad(found["nodes"], "`nodes` names no label; queues without a shard have all other nodes")
            nodes = {label: self._text(value, f"nodes.{label}") for label, value in labels.items()}
            made[name] = QuotaShard(name, nodes, self._placement(found.get("placement")))
        if not made and rest is None:
            return ()
        return (*made.values(), QuotaShard("", {}, self._placement(rest)))

    def _placement(self, node: yaml.Node | None) -> tuple[bool, bool]:
        found = self._fields(node, _PLACEMENT, "`placement`") if node is not None else {}
        spread = []
        for key in _PLACEMENT:
            word = self._text(found[key], f"placement.{key}") if key in found else "binpack"
            if word not in ("binpack", "spread"):
                raise self._bad(found[key], f"`placement.{key}` is {word!r}; write binpack or spread")
            spread.append(word == "spread")
        return spread[0], spread[1]

    def _sharded(
        self, queues: Mapping[str, tuple[QuotaQueue, yaml.Node]], known: set[str]
    ) -> dict[str, tuple[QuotaQueue, yaml.Node]]:
        """Queues with the shard of their root."""
        found = {}
        for queue, node in queues.values():
            root = queue
            while root.parent:
                root = queues[root.parent][0]
            if root.shard not in known or queue.shard not in ("", root.shard):
                told = ", ".join(sorted(filter(None, known))) or "none"
                what = f"{root.name!r} above it is of {root.shard or 'none'}" if queue.shard != root.shard else "it"
                raise self._bad(node, f"queue {queue.name!r} is of shard {queue.shard!r}: {what}; shards: {told}")
            found[queue.name] = replace(queue, shard=root.shard), node
        return found

    def _resource(self, node: yaml.Node | None, name: str) -> Resource:
        if node is None:
            return _FREE
        found = self._fields(node, _RESOURCE, f"`{name}`")

        def amount(key: str) -> float:
            value = self._number(found[key], f"{name}.{key}") if key in found else UNLIMITED
            if value < 0 and value != UNLIMITED:
                raise self._bad(found[key], f"`{name}.{key}` is {value:g}; give 0 or more, or -1 for unlimited")
            return value

        weight = self._number(found["weight"], f"{name}.weight") if "weight" in found else 1.0
        if weight < 0:
            raise self._bad(found["weight"], f"`{name}.weight` is {weight:g}; give 0 or more")
        return amount("quota"), amount("limit"), weight

    def _tree(self, queues: Mapping[str, tuple[QuotaQueue, yaml.Node]]) -> None:
        for queue, node in queues.values():
            seen, at = {queue.name}, queue.parent
            while at:
                if at not in queues:
                    raise self._bad(node, f"the parent {at!r} of queue {queue.name!r} is no queue; add it to `queues`")
                if at in seen:
                    raise self._bad(node, f"queue {queue.name!r} is below itself; change its `parent`")
                seen.add(at)
                at = queues[at][0].parent

    def _pools(self, node: yaml.Node | None, leaves: set[str]) -> dict[str, str]:
        pools: dict[str, str] = {}
        for pool, value in self._fields(node, None, "`pools`").items() if node is not None else ():
            queue = self._text(value, f"pools.{pool}")
            if queue not in leaves:
                told = ", ".join(sorted(leaves))
                raise self._bad(value, f"pool {pool!r} needs a queue with none below it, not {queue!r}; have: {told}")
            pools[pool] = queue
        return pools

    def _fields(self, node: yaml.Node, known: tuple[str, ...] | None, what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._bad(node, f"{what} must be a mapping; write `key: value` lines")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._text(key, "a key")
            if known is not None and name not in known:
                raise self._bad(key, f"{what} has no field {name!r}; it takes {', '.join(known)}")
            if name in found:
                raise self._bad(key, f"{name!r} is there twice; keep one")
            found[name] = value
        return found

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str" or not node.value:
            raise self._bad(node, f"`{what}` must be text; put it in quotes")
        return str(node.value)

    def _number(self, node: yaml.Node, what: str) -> float:
        if isinstance(node, yaml.ScalarNode) and node.tag in (f"{_TAG}int", f"{_TAG}float"):
            loader: Any = yaml.SafeLoader("")
            value = float(loader.construct_object(node))
            if math.isfinite(value):
                return value
        raise self._bad(node, f"`{what}` must be a finite number; GPUs, cores, bytes or seconds without a unit")

    def _whole(self, node: yaml.Node) -> int:
        value = self._number(node, "priority")
        if value != int(value):
            raise self._bad(node, f"`priority` is {value:g}; give a whole number")
        return int(value)

    def _seconds(self, found: Mapping[str, yaml.Node], key: str) -> float | None:
        if key not in found:
            return None
        value = self._number(found[key], key)
        if value < 0:
            raise self._bad(found[key], f"`{key}` is {value:g}; give seconds, 0 or more")
        return value

    def _bad(self, node: yaml.Node, message: str) -> QuotaError:
        return self._at(node.start_mark, message)

    def _at(self, mark: Any, message: str) -> QuotaError:
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return QuotaError(f"{self._where}:{line}:{column}: {message}")
