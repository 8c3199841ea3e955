"""`osmo.data`: the same words in a task and outside, the same plan from a bucket and from a task's input."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import osmo_ray as osmo
from osmo_ray.data.names import parse_reference
from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.sdk import data
from osmo_ray.sdk.errors import ClientError


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A platform of one bucket, `default`, of which the client is told."""
    store = (tmp_path / "bucket").as_uri()
    open_bucket(open_store(store))

    def answer(verb: str, path: str, *_: object) -> dict[str, object]:
        return {"default": "default"} if path == "/api/bucket" else {"url": store, "user": "me"}

    monkeypatch.setattr(data, "platform", lambda: SimpleNamespace(http=SimpleNamespace(json=answer)))
    monkeypatch.setenv("OSMO_CONFIG_FILE_DIR", str(tmp_path / "config"))
    monkeypatch.delenv(data.PLACED, raising=False)
    yield tmp_path / "bucket"


@pytest.fixture
def feed(bucket: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "feed"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        place = folder / ("sub" if number % 2 else "") / f"{number}.parquet"
        pq.write_table(pa.table({"x": range(number * 100, number * 100 + 100)}), place)
    (folder / "sub.txt").write_text("sorts between sub and sub/1")
    Dataset(open_bucket(open_store(str(bucket))), "feed", create=True).upload([folder])
    return folder


def rows(**how: object) -> list[int]:
    return [x for _, b in osmo.data.shards("feed@1", regex=".*parquet", rows=30, **how) for x in b["x"].to_pylist()]


def test_the_ranks_read_every_row_once_and_go_on_from_a_cursor(feed: Path) -> None:
    assert sorted(rows(rank=0, world=2) + rows(rank=1, world=2)) == list(range(600))
    whole = list(osmo.data.shards("default/feed", rank=1, world=2, regex=".*parquet", rows=30))
    cursor = whole[3][0]
    assert rows(rank=1, world=2, cursor=cursor) == [x for _, b in whole[4:] for x in b["x"].to_pylist()]


def test_a_tasks_input_is_read_in_the_same_order_without_a_platform(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = rows(rank=1, world=2, epoch=3, seed=5)
    named = [name for _, name, _ in osmo.data.files("feed", world=2)]
    dataset = osmo.data.dataset("feed")
    place = tmp_path / "input" / "0" / "feed"
    dataset.download(place)
    place.with_name(".feed.osmo").write_text(json.dumps({"checksum": dataset.version().checksum}))
    monkeypatch.setenv(data.PLACED, json.dumps({"default/feed:1": str(place)}))
    monkeypatch.setattr(data, "platform", lambda: pytest.fail("a task has no platform to ask"))
    assert rows(rank=1, world=2, epoch=3, seed=5) == outside
    found = list(osmo.data.files("osmo://default/feed@1", world=2))
    assert [name for _, name, _ in found] == named and all(path.is_relative_to(place) for _, _, path in found)
    with osmo.data.open("osmo://default/feed/sub.txt") as file:
        assert file.read(5) == b"sorts"
    again = osmo.data.files("feed", world=2, cursor=found[0][0])
    assert [name for _, name, _ in again] == named[1:]


def test_a_task_reads_the_version_that_it_got() -> None:
    inputs = {data.PLACED: json.dumps({"b/one:3": "/in/0/one", "b/two:1": "/in/1/two", "c/two:2": "/in/2/two"})}
    for text, want in (("one", "/in/0/one"), ("b/one@3", "/in/0/one"), ("b/two", "/in/1/two"), ("two:2", "/in/2/two")):
        assert data.placed(parse_reference(text), inputs) == Path(want)
    assert data.placed(parse_reference("three"), inputs) is None
    assert data.placed(parse_reference("one"), {}) is None
    for wrong in ("one@4", "two"):
        with pytest.raises(ClientError, match="inputs of this task"):
            data.placed(parse_reference(wrong), inputs)


def test_files_are_opened_in_place(feed: Path) -> None:
    with osmo.data.open("osmo://default/feed@1/sub.txt") as file:
        assert file.read(5) == b"sorts"
    assert osmo.data.filesystem().isfile("default/feed/sub/1.parquet")


def test_fsspec_knows_the_scheme_by_the_entry_point(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "osmo", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"].known_implementations, "osmo", raising=False)
    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    name = told["project"]["entry-points"]["fsspec.specs"]["osmo"].replace(":", ".")
    fsspec.register_implementation("osmo", name, clobber=True)  # what fsspec does with an entry point
    with fsspec.open("osmo://default/feed@1/sub.txt") as file:
        assert file.read(6) == b"sorts "
    assert pq.read_table("default/feed@1/0.parquet", filesystem=osmo.data.filesystem()).num_rows == 100


def test_workers_append_one_version(bucket: Path) -> None:
    for rank in (0, 1, 1, 2):
        with osmo.data.appending("grown", "run-7", writer=rank, writers=3, message="grown") as folder:
            (folder / f"{rank}.bin").write_bytes(b"%d" % rank)
    with pytest.raises(ZeroDivisionError), osmo.data.appending("grown", "run-8", writer=0, writers=1) as folder:
        (folder / "half").write_bytes(b"h")
        print(1 // 0)
    version = osmo.data.dataset("grown").version()
    assert (version.number, version.files, version.message, version.created_by) == (1, 3, "grown", "me")


@pytest.mark.parametrize("first", ["", "import osmo_ray.data.manifest;", "import osmo_ray.objects.datasets.feeding;"])
def test_the_name_works_whatever_was_imported_before(first: str) -> None:
    script = f"{first}import osmo_ray as osmo; print(osmo.data.shards.__module__, osmo.data.Cursor(1).epoch)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["osmo_ray.sdk.data", "1"]


def test_no_module_of_the_core_hides_a_verb() -> None:
    modules = {path.stem for path in Path(osmo.data.__path__[0]).iterdir()}
    assert not modules & set(osmo._DATA) and set(osmo._DATA) == set(data.__all__)


def test_the_core_stays_what_it_is() -> None:
    script = "import osmo_ray.data, sys; print('osmo_ray.sdk' in sys.modules, hasattr(osmo_ray.data, 'nothing'))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False"]
