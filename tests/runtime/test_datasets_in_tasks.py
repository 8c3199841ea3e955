"""Datasets beside a task on one host: what comes in, what goes out, and what a task may not reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.runtime.datasets import trim
from osmo_ray.spec.attempt import AttemptPlan, DatasetPlan, InputPlan, OutputPlan
from tests.runtime.hosting import Host, shell

pytestmark = pytest.mark.asyncio


def bucket(folder: Path) -> Bucket:
    return open_bucket(open_store(f"{(folder / 'store').as_uri()}/buckets/default"))


def reading(name: str, version: int, regex: str = "") -> InputPlan:
    return InputPlan("dataset", name, name, regex, (DatasetPlan("default", "buckets/default", name, version),))


def writing(name: str, *paths: str, kind: str = "dataset", **more: object) -> OutputPlan:
    plan = DatasetPlan("default", "buckets/default", name)
    return OutputPlan(kind, name, dataset=plan, paths=paths, **more)  # type: ignore[arg-type]


async def test_versions_come_in_and_the_output_goes_out(host: Host, folder: Path) -> None:
    (folder / "x").write_text("one")
    Dataset(bucket(folder), "a", create=True).upload([folder / "x"])
    plan: AttemptPlan = shell(
        "chmod u+w {{input:0}}/a/x; echo two >> {{input:0}}/a/x; cp {{input:0}}/a/x {{output}}/y",
        inputs=(reading("a", 1),), outputs=(writing("b"),),
    )  # fmt: skip
    end = await host.run(plan)
    assert end.exit_code == 0, await host.text(plan.key)
    made = Dataset(bucket(folder), "b")
    made.download(folder / "out")
    assert (folder / "out" / "y").read_text() == "onetwo\n"
    assert made.version().lineage.inputs == ("default/a:1",)
    again = shell("cat {{input:0}}/a/x", inputs=(reading("a", 1),))
    await host.run(again)
    assert "one" in await host.text(again.key), "what a task does to its copy is its own affair"
    assert b" 0 B of it fetched" in (await host.logs(again.key, 0, 1 << 20, 0)).data


async def test_a_link_out_of_the_output_is_not_followed(host: Host, folder: Path) -> None:
    plan = shell("ln -s /etc {{output}}/out", outputs=(writing("b", "out"),))
    end = await host.run(plan)
    assert end.reason is not None and "leads out of" in end.reason.sentence
    assert not (folder / "store/buckets/default/names/b").exists()


async def test_what_is_missing_fails_the_task_with_its_sentence(host: Host) -> None:
    plan = shell("true", inputs=(InputPlan("dataset", "gone:3", missing="dataset 'gone' has no version 3"),))
    end = await host.run(plan)
    assert end.exit_code == 2010 and end.reason is not None and "has no version 3" in end.reason.sentence


async def test_nothing_to_keep_is_no_version_and_no_failure(host: Host, folder: Path) -> None:
    plan = shell("mkdir {{output}}/empty", outputs=(writing("b"), writing("c", metadata=("absent.yaml",))))
    end = await host.run(plan)
    assert end.exit_code == 0
    assert b"there is nothing to keep" in (await host.logs(plan.key, 0, 1 << 20, 0)).data
    assert not (folder / "store/buckets/default/names/b").exists()


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [id]", "- a", "x: ["])
async def test_labels_that_are_no_mapping_fail_the_upload(host: Host, folder: Path, text: str) -> None:
    plan = shell(f"echo '{text}' > {{{{output}}}}/l.yaml", outputs=(writing("b", labels=("l.yaml",)),))
    end = await host.run(plan)
    assert end.exit_code == 2012 and end.reason is not None
    assert not (folder / "store/buckets/default/names/b").exists()


async def test_two_hosts_of_one_attempt_make_one_version(host: Host, folder: Path) -> None:
    plan = shell("echo 1 > {{output}}/x", outputs=(writing("b"),))
    await host.run(plan)
    retried = shell("echo 1 > {{output}}/x", outputs=(writing("b"),), task_uuid=plan.key.task_uuid, retry=1)
    await host.run(retried)
    assert [v.number for v in Dataset(bucket(folder), "b").versions()] == [1]


async def test_tables_are_trimmed_oldest_first(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x" * 100)
        os.utime(path, (number, number))
    trim(tmp_path, 250)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
