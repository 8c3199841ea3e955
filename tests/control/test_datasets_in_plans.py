"""Which version a plan names: the one of the first time, whatever came since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osmo_ray.control.datasets import BucketAway, Librarian
from osmo_ray.engine.model import Workflow
from osmo_ray.objects.datasets import Dataset, catalog
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.providers import buckets
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, GroupPlan, InputPlan, OutputPlan
from tests.api.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def librarian(world: World, **settings: str) -> Librarian:
    return Librarian(world.store, buckets.load(Settings(home=world.folder, **settings)))  # type: ignore[arg-type]


def upload(world: World, name: str, text: str) -> Dataset:
    shelves = librarian(world).buckets
    dataset = Dataset(shelves.open(shelves.place()), name, create=True)
    file = world.folder / "x"
    file.write_text(text)
    dataset.upload([file])
    return dataset


def plan(workflow: Workflow, *inputs: str, outputs: tuple[OutputPlan, ...] = ()) -> GroupPlan:
    group = workflow.groups[0]
    attempt = AttemptPlan(
        AttemptKey(group.tasks[0].uuid, 0), workflow.id, workflow.uuid, group.name, group.uuid, "a", "ann", "n1", "",
        ("x",), inputs=tuple(InputPlan("dataset", name, name) for name in inputs), outputs=outputs,
    )  # fmt: skip
    return GroupPlan(group.uuid, workflow.id, group.name, (attempt,))


def begun(world: World) -> Workflow:
    found = world.store.find(world.submit())
    assert found is not None
    return found


def versions(found: GroupPlan) -> list[list[str]]:
    return [[str(one) for one in i.datasets] for i in found.attempts[0].inputs]


def test_a_plan_that_is_sent_again_names_the_same_versions(world: World) -> None:
    upload(world, "cats", "1")
    dogs = upload(world, "dogs", "1")
    catalog.collect(dogs.bucket, "both", [("cats", 1), ("dogs", 1)])
    workflow = begun(world)
    wanted = [["default/cats:1"], ["default/cats:1", "default/dogs:1"]]
    assert versions(librarian(world).fill(workflow, plan(workflow, "cats", "both"))) == wanted
    upload(world, "cats", "2")
    catalog.collect(dogs.bucket, "both", [], ["dogs"])
    assert versions(librarian(world).fill(workflow, plan(workflow, "cats", "both"))) == wanted, "by another controller"
    newer = begun(world)
    assert versions(librarian(world).fill(newer, plan(newer, "cats", "both"))) == [
        ["default/cats:2"],
        ["default/cats:1"],
    ]


def test_what_is_missing_is_told_by_the_plan(world: World) -> None:
    workflow = begun(world)
    output = OutputPlan("dataset", "nowhere/x-{{workflow_id}}:")
    found = librarian(world).fill(workflow, plan(workflow, "gone:3", outputs=(output,))).attempts[0]
    assert "no dataset 'gone'" in found.inputs[0].missing and "no bucket 'nowhere'" in found.outputs[0].missing
    assert found.outputs[0].target == f"nowhere/x-{workflow.id}"


def test_a_bucket_that_is_away_holds_the_group_up_and_pins_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(world, "cats", "1")
    workflow = begun(world)

    def away(*_: object) -> None:
        raise ObjectError("connection refused", permanent=False)

    one = librarian(world)
    monkeypatch.setattr(one.buckets.__class__, "open", away)
    with pytest.raises(BucketAway, match="connection refused"):
        one.fill(workflow, plan(workflow, "cats"))
    assert list(world.store.pins(workflow.groups[0].uuid)) == []


def test_keys_of_a_bucket_are_for_what_the_users_do_not_open(world: World, tmp_path: Path) -> None:
    key = tmp_path / "key.yaml"
    key.write_text("access_key_id: id\naccess_key: sesame\noverride_url: http://127.0.0.1:9\n")
    one = librarian(world, buckets=f"s: {{path: s3://robots/data, credential_file: {key}}}")
    workflow = begun(world)
    found = one.fill(workflow, plan(workflow, outputs=(OutputPlan("dataset", "s/x"),))).attempts[0]
    assert [(k.endpoint, k.access_key_id) for k in found.secrets.data] == [("s3://robots/data", "id")]
    assert found.secrets.masked == ("sesame",), "and it never stands in a log"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]", "mapping of names"), ("a: {}", "needs a name"), ("a: {path: s3://b, colour: red}", "unknown key"),
        ("a: {path: s3://b, mode: write-only}", "read-write or read-only"), ("a: [", "not YAML"),
    ],
)  # fmt: skip
def test_buckets_that_cannot_be_meant(world: World, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        librarian(world, buckets=text)
