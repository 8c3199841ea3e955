"""Datasets that a submission names, looked at before it is taken: a missing one is told with its place in the file.

What a workflow makes itself need not be there yet, nor what a token names: those are looked up when their group
starts, and so is everything in a bucket that does not answer now.
"""

from __future__ import annotations

from collections.abc import Sequence

from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.control.datasets import resolve
from osmo_ray.data.errors import DataError, NoSuchDataset
from osmo_ray.data.names import LATEST, Reference, check_tag, parse_reference
from osmo_ray.objects import datasets as stored
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.providers.buckets import Buckets, NoSuchBucket, Place
from osmo_ray.providers.template import Prepared
from osmo_ray.spec.attempt import DataKey
from osmo_ray.spec.document import suggest
from osmo_ray.spec.model import DatasetInput, DatasetOutput, TaskSpec, UpdateDatasetOutput, WorkflowSpec
from osmo_ray.spec.reader import refuse_datasets

Troubles = dict[str, tuple[str, str]]


def check(services: Services, user: str, spec: WorkflowSpec, done: Prepared | None, *, validating: bool) -> None:
    """Raises `ApiError` and `SpecError` for datasets that a workflow cannot have."""
    tasks = [t for g in spec.groups for t in g.tasks if _named(t)]
    if not tasks:
        return
    if ray := next((t.name for t in tasks if t.ray is not None), ""):
        raise ApiError(
            f"Task {ray} is a Ray program, which gets no datasets put in place; read osmo://bucket/name@version in it, "
            "or leave out `ray`.",
            "USAGE",
        )
    reads, writes = Look(services, user).at(tasks, validating=validating)
    refuse_datasets(spec, reads, writes, done.file if done else None)


def _named(task: TaskSpec) -> bool:
    kinds = (DatasetInput, DatasetOutput, UpdateDatasetOutput)
    return any(isinstance(one, kinds) for one in (*task.inputs, *task.outputs))


class Look:
    """One look at the buckets, for one user."""

    def __init__(self, services: Services, user: str) -> None:
        self._buckets: Buckets = services.buckets
        self._preferred = services.store.profile(user).bucket
        self._keys: Sequence[DataKey] = services.data_keys(user)

    def at(self, tasks: Sequence[TaskSpec], *, validating: bool) -> tuple[Troubles, Troubles]:
        """What is wrong with names that are read, and with those that are written."""
        reads: Troubles = {}
        writes: Troubles = {}
        made: set[tuple[str, str]] = set()
        outputs = [o for t in tasks for o in t.outputs if isinstance(o, DatasetOutput | UpdateDatasetOutput)]
        for kind in (DatasetOutput, UpdateDatasetOutput):  # an update may be of what another task makes
            for output in outputs:
                if isinstance(output, kind) and (trouble := self._write(output, made)):
                    writes[output.name] = trouble
        for wanted in (i for t in tasks for i in t.inputs if isinstance(i, DatasetInput)):
            if wanted.localpath:
                if not validating:
                    reads[wanted.name] = (
                        f"{wanted.localpath!r} was not uploaded",
                        "submit the file with osmo workflow submit, which uploads what `localpath` names",
                    )
            elif trouble := self._read(wanted.name, made):
                reads[wanted.name] = trouble
        return reads, writes

    def _write(self, output: DatasetOutput | UpdateDatasetOutput, made: set[tuple[str, str]]) -> tuple[str, str] | None:
        try:
            reference, place = self._place(output.name)
            if not place.writable:
                return f"the bucket {place.name!r} is {place.mode}", "name another bucket"
            if isinstance(output, DatasetOutput):
                if reference.selector != LATEST and "{" not in reference.selector:
                    check_tag(reference.selector)
            elif trouble := self._read(output.name, made):
                return trouble
        except NoSuchBucket as error:
            return str(error), self._near(output.name)
        except DataError as error:
            return str(error), ""
        made.add((place.name, reference.name))
        return None

    def _read(self, name: str, made: set[tuple[str, str]]) -> tuple[str, str] | None:
        try:
            reference, place = self._place(name)
            if "{" in f"{reference.name}{reference.selector}" or (place.name, reference.name) in made:
                return None
            bucket = self._buckets.open(place, self._keys)
            resolve(bucket, reference)
        except NoSuchBucket as error:
            return str(error), self._near(name)
        except NoSuchDataset as error:
            known = [one.name for one in stored.catalog.names(bucket)]
            near = "" if reference.name in known else suggest(reference.name, known)
            return str(error), near or f"upload it with: osmo dataset upload {name} FOLDER"
        except DataError as error:
            return str(error), ""
        except (ObjectError, OSError):
            return None
        return None

    def _place(self, name: str) -> tuple[Reference, Place]:
        """Tokens stand for letters here."""
        bucket, _, rest = name.rpartition("/")
        if "{" in name:
            plain, _, selector = rest.removesuffix(":").partition(":")
            reference = Reference(bucket, plain, selector or LATEST)
        else:
            reference = parse_reference(name.removesuffix(":"))
        return reference, self._buckets.place(reference.bucket, self._preferred)

    def _near(self, name: str) -> str:
        return suggest(name.rpartition("/")[0] or self._preferred, self._buckets.places)
