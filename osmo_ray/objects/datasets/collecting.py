"""Free what no version reaches: the bytes' side of `osmo_ray.data.garbage`.

The order of steps is what makes it safe beside uploads; each comment says what would break otherwise. A collection that
dies anywhere is simply run again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from osmo_ray.data.chunking import ID_BYTES
from osmo_ray.data.errors import Conflict, DataError
from osmo_ray.data.garbage import condemnable, may_sweep, sweep, wasteful
from osmo_ray.data.index import ChunkIndex, Ids, unique
from osmo_ray.data.manifest import chunk_ids
from osmo_ray.data.versions import load_version
from osmo_ray.objects.datasets import appending, layout
from osmo_ray.objects.datasets.appending import unfinished
from osmo_ray.objects.datasets.bucket import UNANNOUNCED, Bucket
from osmo_ray.objects.datasets.burying import bury
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.sending import Sender
from osmo_ray.objects.datasets.session import Seen, Session, give_up, sessions
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject

_SEGMENTS = 16
_COLLECTORS = "collectors"
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds. A condemned pack is kept for `grace`; an upload that has said nothing for `silent` is given up; packs
    of which less than the share `repack` is needed are written anew; a collection takes at most `longest`."""

    grace: float = DAY
    silent: float = DAY
    repack: float = 0.5
    longest: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Report:
    """Packs deleted now with their bytes, condemned for later, rescued; `waiting` says why verdicts still stand."""

    deleted: int = 0
    freed: int = 0
    condemned: int = 0
    rescued: int = 0
    given_up: int = 0
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is reachable. The uploads were listed before the versions: one that has ended is a version or nothing."""

    seen: tuple[Seen, ...]
    running: frozenset[str]
    reachable: Ids
    manifests: frozenset[str]
    index: ChunkIndex


def collect(bucket: Bucket, policy: Policy = Policy()) -> Report:
    """One round: end silent uploads, sweep verdicts whose time has come, repack, condemn anew, tidy the index. Raises
    `DataError` on a store that ignores conditional writes, `Conflict` while another collection runs."""
    if not bucket.store.conditional:
        raise DataError(f"cannot collect garbage safely: {bucket.promises}")
    with _alone(bucket, policy) as in_time:
        given_up = _end_silent(bucket, policy)
        report = _sweep_all(bucket, policy, in_time)
        _repack(bucket, policy)
        condemned = _condemn(bucket, policy)
        _tidy(bucket, policy, in_time)
        return replace(report, condemned=condemned, given_up=given_up)


@contextmanager
def _alone(bucket: Bucket, policy: Policy) -> Iterator[Callable[[], None]]:
    """One collection at a time. Gives a function that raises once this one has taken too long: then another may have
    begun, and what was marked is no longer true."""
    began = bucket.now()
    number, last = bucket.newest(_COLLECTORS)
    if last and not last.get("done") and began - last["at"] < 2 * policy.longest:
        raise Conflict("another collection of garbage runs here; wait for it, or for its time to run out")
    try:
        bucket.append(_COLLECTORS, number + 1, {"at": began, "by": uuid.uuid4().hex})
    except AlreadyExists:
        raise Conflict("another collection of garbage has just begun here") from None

    def in_time() -> None:
        if bucket.now() - began > policy.longest:
            raise DataError(f"this collection took longer than {policy.longest:.0f} s; run it again")

    try:
        yield in_time
    finally:
        bucket.append(_COLLECTORS, number + 2, {"at": bucket.now(), "done": True})
        old = [n for n in bucket.numbers(_COLLECTORS) if n < number + 2]
        bucket.store.delete(layout.numbered(_COLLECTORS, n) for n in old)


def _end_silent(bucket: Bucket, policy: Policy) -> int:
    """Give up uploads that say nothing, so that they cannot commit any more. One that has named its manifest is
    cleared when its version is there, and buried when it is not."""
    count = 0
    for seen in sessions(bucket):
        if seen.given_up or bucket.now() - seen.at < policy.silent:
            continue
        if not seen.manifests:
            count += give_up(bucket, seen.id)
        elif any(f"/{seen.id}-" in key for key in _manifests(bucket, deleted=True)):
            bucket.store.delete([layout.begun(seen.id), layout.ended(seen.id), layout.void(seen.id)])
        else:
            count += bury(bucket, seen)
    for append in unfinished(bucket):
        if not append.over and bucket.now() - append.at > max(policy.silent, policy.grace):
            appending.give_up(bucket, append.folder)
            count += 1
    return count


def _manifests(bucket: Bucket, *, deleted: bool = False) -> set[str]:
    """The manifests of every version that is not deleted (or of those, too)."""
    found = set()
    keys = [info.key for info in bucket.store.list(layout.DATASETS)]
    gone = {tuple(key.split("/")[1::2]) for key in keys if key.split("/")[2] == "deleted"}
    for key in keys:
        _, dataset, kind, *rest = key.split("/")
        if kind == "versions" and (deleted or (dataset, rest[0]) not in gone):
            found.add(f"{layout.DATASETS}/{dataset}/{load_version(bucket.get(key)).manifest}")
    return found


def _mark(bucket: Bucket, policy: Policy) -> _Mark:
    seen = tuple(sessions(bucket))
    silent = bucket.now() - policy.silent
    running = frozenset(s.id for s in seen if not s.given_up and (s.at > silent or not s.manifests))
    parts_of = {manifest for append in unfinished(bucket) if not append.over for manifest in append.manifests}
    roots = parts_of | _manifests(bucket) | {manifest for s in seen for manifest in s.manifests}
    parts = [unique(chunk_ids(bucket.table(manifest))) for manifest in sorted(roots)]
    reachable = unique(np.concatenate([np.empty((0, ID_BYTES), np.uint8), *parts]))
    return _Mark(seen, running, reachable, frozenset(roots), bucket.index())


def _sweep_all(bucket: Bucket, policy: Policy, in_time: Callable[[], None]) -> Report:
    report = Report()
    for verdict in bucket.condemned():
        if verdict.sessions == (UNANNOUNCED,):
            _announce(bucket, verdict.name)
            report = replace(report, waiting=(*report.waiting, "it has only now been announced"))
            continue
        verdicts = bucket.condemned()
        mark = _mark(bucket, policy)
        if reason := may_sweep(verdict, bucket.now(), policy.grace, mark.running):
            report = replace(report, waiting=(*report.waiting, reason))
            continue
        others = {pack for v in verdicts for pack in v.packs}
        plan = sweep(verdict, others, mark.index, mark.reachable)
        sizes = mark.index.bytes_per_pack()
        in_time()
        bucket.store.delete(layout.pack(name) for name in plan.delete)
        # only now: until the packs are gone, no upload may rely on them
        bucket.store.delete([f"{layout.GARBAGE}/{verdict.name}/sessions", f"{layout.GARBAGE}/{verdict.name}/packs"])
        freed = sum(sizes.get(name, 0) for name in plan.delete)
        report = replace(
            report,
            deleted=report.deleted + len(plan.delete),
            freed=report.freed + freed,
            rescued=report.rescued + len(plan.rescue),
        )
    return report


def _spared(bucket: Bucket, mark: _Mark, policy: Policy) -> set[str]:
    """Packs that are condemned already, or of uploads that run or ended so recently that they may be resumed."""
    condemned = {pack for verdict in bucket.condemned() for pack in verdict.packs}
    young = bucket.now() - policy.grace
    ours = {
        name for name in mark.index.packs if name.split("/")[0] in mark.running or int(name.split("-")[0], 16) > young
    }
    return condemned | ours


def _condemn(bucket: Bucket, policy: Policy) -> int:
    mark = _mark(bucket, policy)
    spared = _spared(bucket, mark, policy)
    doomed = condemnable(mark.index, mark.reachable, spared=spared)
    if doomed:
        name = f"{int(bucket.now()):012x}-{uuid.uuid4().hex[:8]}"
        bucket.append_once(f"{layout.GARBAGE}/{name}/packs", {"at": bucket.now(), "packs": list(doomed)})
        _announce(bucket, name)
    return len(doomed)


def _announce(bucket: Bucket, name: str) -> None:
    """Write down which uploads run, after the verdict can be seen: one that begins later sees the verdict."""
    ids = [seen.id for seen in sessions(bucket) if not seen.given_up]
    try:
        bucket.append_once(f"{layout.GARBAGE}/{name}/sessions", {"sessions": ids})
    except AlreadyExists:
        return


def _repack(bucket: Bucket, policy: Policy) -> None:
    """Copy what is needed of wasteful packs into new ones, as an upload of its own; the old ones lose their chunks'
    home and are condemned like any other."""
    mark = _mark(bucket, policy)
    wanted = wasteful(mark.index, mark.reachable, spared=_spared(bucket, mark, policy), below=policy.repack)
    if not wanted:
        return
    session = Session(bucket)
    with Sender(bucket, session) as sender:
        sender.distrust(wanted)
        sender.carry(mark.reachable, Reader(bucket, mark.index))
        sender.close()
    session.finish()


def _tidy(bucket: Bucket, policy: Policy, in_time: Callable[[], None]) -> None:
    """One index segment instead of many, and no manifests that no version has."""
    segments = [info.key for info in bucket.store.list(layout.INDEX)]
    manifests = [info for info in bucket.store.list(layout.DATASETS) if info.key.split("/")[2] == "manifests"]
    mark = _mark(bucket, policy)
    young = bucket.now() - policy.grace
    orphans = [
        info.key
        for info in manifests
        if info.key not in mark.manifests and _session(info.key) not in mark.running and _age(info.key) < young
    ]
    patience = bucket.now() - max(policy.silent, policy.grace)  # a worker may still come and ask what became of it
    ended = [append.folder for append in unfinished(bucket) if append.over and append.at < patience]
    in_time()
    bucket.store.delete(orphans)
    for folder in ended:
        bucket.store.delete([info.key for info in bucket.store.list(folder)])
    if len(segments) > _SEGMENTS:
        kept = bucket.put_table(layout.INDEX, mark.index.table(), "merged")
        bucket.store.delete(key for key in segments if key != kept)


def _session(key: str) -> str:
    return key.rsplit("/", 1)[1].rsplit("-", 1)[0]


def _age(key: str) -> float:
    return float(int(_session(key).split("-")[0], 16))


def verify(bucket: Bucket, *, share: float = 1.0) -> list[str]:
    """Read back what versions reach: all packs, or a share of them. Returns what is wrong, in sentences."""
    wrong = []
    mark = _mark(bucket, Policy())
    rows = mark.index.find(mark.reachable)
    for at in np.flatnonzero(rows < 0):
        wrong.append(f"chunk {mark.reachable[at].tobytes().hex()} is in no pack")
    packs = sorted({mark.index.packs[mark.index.pack_of[row]] for row in rows[rows >= 0]})
    chosen = set(packs[:: max(1, round(1 / share))]) if share > 0 else set()
    reader = Reader(bucket, mark.index)
    for row, id in zip(rows, mark.reachable, strict=True):
        if row >= 0 and mark.index.packs[mark.index.pack_of[row]] in chosen:
            try:
                reader.chunk(id.tobytes())
            except (DataError, NoSuchObject) as error:
                wrong.append(str(error))
    return wrong
