"""What a plan's datasets are: which bucket, which version, by whose key; put in where the plan is sent.

A group reads what it read before: the versions that its references meant when it was first sent are kept by the store.
A dataset that is gone does not hold the group up; the task fails with the sentence that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from osmo_ray.data.errors import DataError, NoSuchDataset
from osmo_ray.data.names import LATEST, Reference, check_tag, parse_reference
from osmo_ray.engine.model import Workflow
from osmo_ray.objects import datasets as stored
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.providers.buckets import Buckets, Place
from osmo_ray.spec.attempt import AttemptPlan, DataKey, DatasetPlan, GroupPlan, InputPlan, OutputPlan, Secrets
from osmo_ray.spec.model import DatasetInput, DatasetOutput, GroupSpec, UpdateDatasetOutput
from osmo_ray.spec.tokens import Tokens, expand
from osmo_ray.store.dataset_nouns import DatasetRead, DatasetWrite
from osmo_ray.store.protocol import Store

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.bucket import Bucket


_PATIENCE = 30.0
"""Seconds for which a bucket that could not be reached is left alone: other groups are sent meanwhile."""


class BucketAway(Exception):
    """A bucket cannot be reached now; the group is sent later."""


def wanted(spec: GroupSpec) -> bool:
    """Whether any task of a group reads or writes a dataset; asks nobody."""
    kinds = (DatasetInput, DatasetOutput, UpdateDatasetOutput)
    return any(isinstance(one, kinds) for task in spec.tasks for one in (*task.inputs, *task.outputs))


def resolve(bucket: Bucket, reference: Reference) -> list[tuple[str, int]]:
    """The datasets and versions that a reference means now: one, or the members of a collection. Raises
    `NoSuchDataset`."""
    found = stored.catalog.lookup(bucket, reference.name)
    if found is not None and found.kind == stored.catalog.COLLECTION:
        return list(stored.catalog.collection(bucket, reference.name).members)
    return [(reference.name, stored.Dataset(bucket, reference.name).version(reference.selector).number)]


@dataclass(slots=True)
class Librarian:
    """Puts datasets into plans. Its verbs block: they ask the store and buckets."""

    store: Store
    buckets: Buckets
    clock: Callable[[], float] = time.time
    _away: dict[str, float] = field(default_factory=dict)

    def fill(self, workflow: Workflow, plan: GroupPlan) -> GroupPlan:
        """The plan with its datasets. Raises `BucketAway`."""
        preferred = self.store.profile(workflow.user).bucket
        pins: dict[str, list[DatasetRead]] = {}
        for one in self.store.pins(plan.uuid):
            pins.setdefault(one.reference, []).append(one)
        filled = tuple(self._attempt(attempt, preferred, pins) for attempt in plan.attempts)
        written = {(o.dataset.bucket, o.dataset.name) for a in filled for o in a.outputs if o.dataset}
        if written:
            self.store.expect_writes([DatasetWrite(workflow.uuid, plan.uuid, *one) for one in sorted(written)])
        return replace(plan, attempts=filled)

    def _attempt(self, plan: AttemptPlan, preferred: str, pins: dict[str, list[DatasetRead]]) -> AttemptPlan:
        inputs = tuple(self._input(plan, i, preferred, pins) if i.kind == "dataset" else i for i in plan.inputs)
        outputs = tuple(self._output(plan, o, preferred) if "dataset" in o.kind else o for o in plan.outputs)
        named = {d.bucket for i in inputs for d in i.datasets} | {o.dataset.bucket for o in outputs if o.dataset}
        return replace(plan, inputs=inputs, outputs=outputs, secrets=self._keys(plan.secrets, sorted(named)))

    def _input(
        self, plan: AttemptPlan, wanted: InputPlan, preferred: str, pins: dict[str, list[DatasetRead]]
    ) -> InputPlan:
        text = _named(wanted.source, plan)
        try:
            if text not in pins:
                pins[text] = self._pin(plan, text, preferred)
            found = [self._plan(self.buckets.place(r.bucket), r.name, version=r.version) for r in pins[text]]
        except DataError as error:
            return replace(wanted, source=text, missing=str(error))
        return replace(wanted, source=text, alias=text, datasets=tuple(found))

    def _pin(self, plan: AttemptPlan, text: str, preferred: str) -> list[DatasetRead]:
        reference = parse_reference(text)
        place = self.buckets.place(reference.bucket, preferred)
        now = self.clock()
        found = [
            DatasetRead(plan.workflow_uuid, plan.group_uuid, text, place.name, name, version, now)
            for name, version in self._resolve(place, plan.secrets.data, reference)
        ]
        if not found:
            raise NoSuchDataset(f"the collection {reference.name!r} is empty")
        return list(self.store.pin(found))

    def _output(self, plan: AttemptPlan, wanted: OutputPlan, preferred: str) -> OutputPlan:
        text = _named(wanted.target, plan)
        try:
            reference = parse_reference(text)
            place = self.buckets.place(reference.bucket, preferred)
            if not place.writable:
                raise DataError(f"the bucket {place.name!r} is {place.mode}; name another one")
            selector = reference.selector if reference.selector != LATEST else ""
            if selector and wanted.kind == "dataset":
                check_tag(selector)
        except DataError as error:
            return replace(wanted, target=text, missing=str(error))
        return replace(wanted, target=text, dataset=self._plan(place, reference.name, selector=selector))

    @staticmethod
    def _plan(place: Place, name: str, *, version: int = 0, selector: str = "") -> DatasetPlan:
        return DatasetPlan(place.name, place.inside or place.path, name, version, selector)

    def _resolve(self, place: Place, keys: Sequence[DataKey], reference: Reference) -> list[tuple[str, int]]:
        if time.monotonic() < self._away.get(place.name, 0.0):
            raise BucketAway(f"the bucket {place.name} could not be reached a moment ago")
        try:
            return resolve(self.buckets.open(place, keys), reference)
        except (ObjectError, OSError) as error:
            self._away[place.name] = time.monotonic() + _PATIENCE
            raise BucketAway(f"the bucket {place.name} cannot be reached: {error}") from error

    def _keys(self, secrets: Secrets, names: Sequence[str]) -> Secrets:
        """The keys of these buckets, for what the user's own do not cover."""
        for name in names:
            place = self.buckets.place(name)
            covered = any(f"{place.path}/".startswith(k.endpoint.rstrip("/") + "/") for k in secrets.data)
            if not covered and (key := place.key()) is not None:
                told = filter(None, (key.access_key, key.encryption_key))
                secrets = replace(
                    secrets, data=(*secrets.data, key), masked=tuple(dict.fromkeys((*secrets.masked, *told)))
                )
        return secrets


def _named(text: str, plan: AttemptPlan) -> str:
    """The name with its tokens filled in; an empty tag is none."""
    return expand(text, Tokens(plan.workflow_id, "{{output}}")).removesuffix(":")
