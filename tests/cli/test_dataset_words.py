"""`osmo dataset`, `osmo data` and `osmo bucket`, against the real API and a folder as the bucket."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.cli.datasets.common import bar, glob_regex
from osmo_ray.program import DATASET, main
from tests.cli.conftest import Site

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ann")


def osmo(capsys: Capture, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    try:
        got = main(words)
    except SystemExit as exit:
        got = int(exit.code or 0)
    told = capsys.readouterr()
    assert got == code, told.out + told.err
    return told.out + told.err


def told(capsys: Capture, *words: str) -> Any:
    return json.loads(osmo(capsys, *words, "-t", "json"))


def tree() -> None:
    for name, text in {"a.txt": "one", "sub/b.txt": "two", "sub/c.png": "three"}.items():
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def paths(capsys: Capture, name: str, *more: str) -> list[str]:
    return [f["relative_path"] for f in told(capsys, "dataset", "inspect", name, *more) if f["kind"] == "file"]


def test_up_and_down_again(site: Site, capsys: Capture) -> None:
    tree()
    Path("m.yaml").write_text("robot: arm\n")
    made = told(capsys, "dataset", "upload", "cats:best", "in/*", "--desc", "mine", "-m", "m.yaml", "-l", "m.yaml")
    assert (made["name"], made["version"], made["files"], made["size"]) == ("default/cats", "1", 3, 11)
    assert paths(capsys, "cats") == ["a.txt", "sub/b.txt", "sub/c.png"]
    assert paths(capsys, "cats", "--glob", "*.txt") == ["a.txt", "sub/b.txt"]
    assert paths(capsys, "cats", "-x", r"sub/.*\.png$") == ["sub/c.png"]
    osmo(capsys, "dataset", "download", "cats:best", "out")
    assert Path("out/cats/sub/b.txt").read_text() == "two"
    assert "not empty" in osmo(capsys, "dataset", "download", "cats", "out", code=2)
    Path("out/cats/a.txt").write_text("wrong")
    osmo(capsys, "dataset", "download", "cats", "out", "--resume")
    assert Path("out/cats/a.txt").read_text() == "one"
    info = told(capsys, "dataset", "info", "cats")
    version = info["versions"][0]
    assert info["labels"] == {"robot": "arm"} and version["tags"] == ["best", "latest"]
    assert version["metadata"] == {"robot": "arm", "description": "mine"} and version["created_by"]
    assert "best, latest" in osmo(capsys, "dataset", "info", "cats")


def test_a_folder_keeps_its_name_and_globs_choose(site: Site, capsys: Capture) -> None:
    tree()
    told(capsys, "dataset", "upload", "cats", "in", "--glob", "in/**/*.txt")
    assert paths(capsys, "cats") == ["in/a.txt", "in/sub/b.txt"]
    assert "not both" in osmo(capsys, "dataset", "upload", "cats", "in", "-g", "*", "-x", ".", code=1)
    assert "regular expression" in osmo(capsys, "dataset", "upload", "cats", "in", "-x", "(", code=1)
    assert "no such file" in osmo(capsys, "dataset", "upload", "cats", "nowhere", code=1)


def test_updates_diffs_and_the_log(site: Site, capsys: Capture) -> None:
    tree()
    osmo(capsys, "dataset", "upload", "cats", "in/*")
    Path("new.txt").write_text("four")
    made = told(capsys, "dataset", "update", "cats", "--remove", "sub/c", "--add", "new.txt:sub/deep", "-d", "better")
    assert made["version"] == "2" and paths(capsys, "cats") == ["a.txt", "sub/b.txt", "sub/deep/new.txt"]
    changes = {c["path"]: c["change"] for c in told(capsys, "dataset", "diff", "cats", "1")["changes"]}
    assert changes["sub/c.png"] == "removed" and changes["sub/deep/new.txt"] == "added" and "a.txt" not in changes
    assert "- sub/c.png" in osmo(capsys, "dataset", "diff", "cats", "1", "2")
    assert "nothing to do" in osmo(capsys, "dataset", "update", "cats", code=1)
    lines = osmo(capsys, "dataset", "log", "cats").splitlines()
    assert lines[0].startswith("2  3 files") and lines[0].endswith("on 1  better") and lines[1].startswith("1  ")
    assert [m["version"] for m in told(capsys, "dataset", "lineage", "cats")["made"]] == ["1", "2"]


def test_tags_labels_metadata_names_and_queries(site: Site, capsys: Capture) -> None:
    tree()
    osmo(capsys, "dataset", "upload", "cats", "in/*")
    assert told(capsys, "dataset", "tag", "cats:1", "--set", "a", "b") == {"version_id": "1", "tags": ["a", "b"]}
    assert told(capsys, "dataset", "tag", "cats:a", "--delete", "b")["tags"] == ["a"]
    found = told(capsys, "dataset", "label", "cats", "--set", "a.b:numeric:1,2.5", "c:string:x:y")
    assert found["metadata"] == {"a": {"b": [1, 2.5]}, "c": "x:y"}
    assert "write NAME:VERSION" in osmo(capsys, "dataset", "metadata", "cats", "--set", "a:string:b", code=1)
    assert told(capsys, "dataset", "metadata", "cats:1", "--set", "n:numeric:7")["metadata"] == {"n": 7}
    Path("q").write_text("metadata.n >= 7 # enough\n")
    assert [v["name"] for v in told(capsys, "dataset", "query", "q")["datasets"]] == ["cats"]
    osmo(capsys, "dataset", "rename", "cats", "tigers")
    assert [d["name"] for d in told(capsys, "dataset", "list", "-a")["datasets"]] == ["tigers"]
    assert "tigers" in osmo(capsys, "dataset", "list", "--all-users")
    assert "there is no dataset 'cats'" in osmo(capsys, "dataset", "info", "cats", code=2).lower()


def test_collections_and_deletion(site: Site, capsys: Capture) -> None:
    tree()
    osmo(capsys, "dataset", "upload", "cats", "in/*")
    osmo(capsys, "dataset", "upload", "dogs", "in/a.txt")
    osmo(capsys, "dataset", "collect", "both", "cats:1", "dogs")
    osmo(capsys, "dataset", "download", "both", "out")
    assert Path("out/cats/a.txt").exists() and Path("out/dogs/a.txt").exists()
    assert "COLLECTION" in osmo(capsys, "dataset", "list", "-a")
    assert "collections hold it: both" in osmo(capsys, "dataset", "delete", "cats", code=2)
    assert [v["dataset_name"] for v in told(capsys, "dataset", "recollect", "both", "-r", "cats")["versions"]] == [
        "dogs"
    ]
    assert told(capsys, "dataset", "delete", "cats")["versions"] == ["1"]
    osmo(capsys, "dataset", "delete", "dogs", "--all", "--force")
    assert [d["name"] for d in told(capsys, "dataset", "list", "-a")["datasets"]] == ["cats"]
    assert told(capsys, "dataset", "gc")["waiting"] is not None


def test_a_bucket_is_read_back(site: Site, capsys: Capture) -> None:
    tree()
    osmo(capsys, "dataset", "upload", "cats", "in/*")
    assert "as it was stored" in osmo(capsys, "dataset", "verify")
    pack = next(p for p in (site.world.folder / "storage/buckets/default/packs").rglob("*") if p.is_file())
    pack.chmod(0o644)
    pack.write_bytes(b"\0" + pack.read_bytes()[1:])
    assert told_wrong(capsys)


def told_wrong(capsys: Capture) -> list[str]:
    found = json.loads(osmo(capsys, "dataset", "verify", "-t", "json", code=1))["wrong"]
    return [str(one) for one in found]


def test_the_checksum_is_that_of_osmos_client(capsys: Capture) -> None:
    import hashlib

    folder = Path("sums")
    folder.mkdir(exist_ok=True)
    (folder / "x").write_text("1")
    md5 = hashlib.md5(b"1", usedforsecurity=False).hexdigest()
    whole = hashlib.md5(f"sums/x {md5}".encode(), usedforsecurity=False).hexdigest()
    try:
        assert told(capsys, "dataset", "checksum", "sums") == {"sums": whole}
    finally:
        (folder / "x").unlink()
        folder.rmdir()


def test_pages_and_the_index(site: Site, capsys: Capture) -> None:
    tree()
    for name in ("one", "two", "three"):
        osmo(capsys, "dataset", "upload", name, "in/*")
    pages = [told(capsys, "dataset", "list", "-c", "2", "--offset", at)["datasets"] for at in ("0", "2")]
    assert sorted(d["name"] for page in pages for d in page) == ["one", "three", "two"]
    Path("q").write_text('name CONTAINS "o" ORDER BY name')
    page = told(capsys, "dataset", "query", "q", "-c", "1", "--offset", "1")["datasets"]
    assert [d["name"] for d in page] == ["two"]
    assert "0 names were not as" in osmo(capsys, "dataset", "verify", "--rebuild-index")
    assert told(capsys, "dataset", "verify", "--rebuild-index")["datasets"] == 3


def test_buckets(site: Site, capsys: Capture) -> None:
    assert "default (default)" in osmo(capsys, "bucket", "list")
    assert told(capsys, "bucket", "list")["default"] == "default"


def test_data_at_a_url(site: Site, capsys: Capture, tmp_path: Path) -> None:
    tree()
    url = (tmp_path / "there").as_uri()
    assert told(capsys, "data", "upload", url, "in") == {"files": 3, "size": 11}
    assert [o["key"] for o in told(capsys, "data", "list", url, "-g", "*.txt")] == ["in/a.txt", "in/sub/b.txt"]
    assert told(capsys, "data", "download", url, "out", "-x", "in/sub")["files"] == 2
    assert Path("out/in/sub/b.txt").read_text() == "two"
    assert told(capsys, "data", "download", url, "out", "--resume")["files"] == 1
    assert told(capsys, "data", "delete", url, "-g", "*.png") == {"deleted": 1}
    for kind in ("READ", "WRITE", "DELETE"):
        assert json.loads(osmo(capsys, "data", "check", url, "-a", kind)) == {"status": "pass"}
    (tmp_path / "file").write_text("")
    assert json.loads(osmo(capsys, "data", "check", f"{tmp_path.as_uri()}/file", "-a", "WRITE", code=1))["error"]
    assert "storage URL" in osmo(capsys, "data", "list", "there", code=1)


def test_lists_of_folders_prefixes_and_single_objects(site: Site, capsys: Capture, tmp_path: Path) -> None:
    tree()
    url = (tmp_path / "there").as_uri()
    osmo(capsys, "data", "upload", url, "in/*")
    assert [(o["key"], o["size"]) for o in told(capsys, "data", "list", url)] == [("a.txt", 3), ("sub/", 8)]
    assert [o["key"] for o in told(capsys, "data", "list", url, "-r")] == ["a.txt", "sub/b.txt", "sub/c.png"]
    assert [o["key"] for o in told(capsys, "data", "list", url, "-p", "sub/")] == ["sub/b.txt", "sub/c.png"]
    assert [o["key"] for o in told(capsys, "data", "list", url, "--prefix", "s")] == ["sub/"]
    assert osmo(capsys, "data", "list", url, "--no-pager").splitlines()[-1] == "3 objects, 11 B"
    assert osmo(capsys, "data", "list", url, "list.txt") == "2 lines are in list.txt\n"
    assert Path("list.txt").read_text().split()[:2] == ["3", "a.txt"]
    assert [o["key"] for o in told(capsys, "data", "list", f"{url}/sub/b.txt")] == ["b.txt"]
    assert told(capsys, "data", "download", f"{url}/sub/b.txt", "one") == {"files": 1, "size": 3}
    assert Path("one/b.txt").read_text() == "two"
    assert told(capsys, "data", "delete", f"{url}/sub/b.txt") == {"deleted": 1}
    assert told(capsys, "data", "delete", f"{url}/none") == {"deleted": 0}


def test_what_osmos_client_takes_is_taken(site: Site, capsys: Capture, tmp_path: Path) -> None:
    """How many processes and threads, where to write times, which file of keys."""
    tree()
    url, hard = (tmp_path / "there").as_uri(), ("-p", "4", "-T", "2", "-b", "times")
    osmo(capsys, "data", "upload", url, "in", *hard)
    osmo(capsys, "data", "download", url, "out", *hard)
    osmo(capsys, "dataset", "upload", "cats", "in", "--resume", *hard)
    osmo(capsys, "dataset", "update", "cats", "--add", "in/a.txt", *hard)
    osmo(capsys, "dataset", "download", "cats", "down", *hard)
    times = [json.loads(file.read_text()) for file in Path("times").glob("*_benchmark.json")]
    assert times and all(one["end_time_ms"] >= one["start_time_ms"] for one in times)
    assert all(one["bytes_transferred"] > 0 for one in times)
    keys = tmp_path / "keys.yaml"
    keys.write_text("auth: {data: {'s3://b': {access_key_id: a, access_key: b, override_url: 'http://127.0.0.1:1'}}}")
    wrong = json.loads(osmo(capsys, "data", "check", "s3://b/x", "--config-file", str(keys), code=1))
    assert "127.0.0.1:1" in wrong["error"]
    assert "nowhere: no such file" in osmo(capsys, "data", "check", url, "-c", "nowhere", code=1)


def test_globs_remove_as_regexes_do(site: Site, capsys: Capture) -> None:
    tree()
    osmo(capsys, "dataset", "upload", "cats", "in/*")
    osmo(capsys, "dataset", "update", "cats", "--remove-glob", "*.png", "a.*")
    assert paths(capsys, "cats") == ["sub/b.txt"]
    assert "not both" in osmo(capsys, "dataset", "update", "cats", "--remove-glob", "*", "--remove", ".*", code=1)


def test_what_is_said_is_for_people(site: Site, capsys: Capture) -> None:
    tree()
    assert "matches; no version" in osmo(capsys, "dataset", "upload", "cats", "in", "-g", "*.zip", code=1)
    osmo(capsys, "dataset", "upload", "cats", "in")
    assert osmo(capsys, "dataset", "tag", "cats:1", "--set", "best") == "version 1 has the tags best\n"
    assert "nothing to do" in osmo(capsys, "dataset", "tag", "cats:1", code=1)
    assert osmo(capsys, "dataset", "label", "cats", "--set", "a.b:numeric:1,2", "c:string:x") == "a.b=[1, 2], c=x\n"
    assert "labels: a.b=[1, 2], c=x" in osmo(capsys, "dataset", "info", "cats")
    osmo(capsys, "dataset", "delete", "cats", "--all", "--force")
    assert "1 pack condemned" in osmo(capsys, "dataset", "gc", "--grace", "0")
    assert osmo(capsys, "dataset", "gc", "--grace", "0").startswith("1 pack deleted, 11 B freed")


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*.png", "a.png deep/in/b.png", "a.pngx a.png/c"),
        ("a/*.png", "a/x.png", "a/b/x.png b/a/x.png"),
        ("a/**", "a/x a/b/x", "ab/x"),
        ("a/**/x", "a/x a/b/c/x", "a/bx"),
        ("[!a]?.txt", "bc.txt", "ac.txt b.txt"),
        ("a+b.txt", "a+b.txt", "aab.txt"),
    ],
)
def test_globs(glob: str, yes: str, no: str) -> None:
    match = re.compile(glob_regex(glob)).match
    assert all(match(one) for one in yes.split()) and not any(match(one) for one in no.split())


def test_the_progress_line() -> None:
    assert bar(512 << 20, 1 << 30, 8.0) == "[##########..........]  50%  512.0 MiB of 1.0 GiB  64.0 MiB/s  8.0s left"
    assert bar(0, 0, 0.0).startswith("[....................]   0%")


def test_trees_migrations_checks_and_where_versions_come_from(site: Site, capsys: Capture, tmp_path: Path) -> None:
    tree()
    osmo(capsys, "dataset", "upload", "cats", "in/*")
    assert osmo(capsys, "dataset", "inspect", "cats", "-t", "tree").splitlines() == [
        "default/cats", "├── a.txt", "└── sub", "    ├── b.txt", "    └── c.png",
    ]  # fmt: skip
    assert "needs no migration" in osmo(capsys, "dataset", "migrate", "cats")
    assert told(capsys, "dataset", "migrate", "cats:1")["dataset_versions"] == ["1"]
    for kind in ("READ", "WRITE", "DELETE"):
        assert json.loads(osmo(capsys, "dataset", "check", "cats", "-a", kind)) == {"status": "pass"}
    assert "no bucket 'nowhere'" in json.loads(osmo(capsys, "dataset", "check", "nowhere/cats", code=1))["error"]
    info = told(capsys, "dataset", "info", "cats")
    assert [m["version"] for m in info["lineage"]["made"]] == ["1"] and info["lineage"]["read"] == []
    assert "Made By" in osmo(capsys, "dataset", "info", "cats")


@pytest.mark.parametrize(
    "words",
    [
        *(("dataset", verb) for verb in DATASET),
        *(("data", verb) for verb in ("upload", "download", "list", "delete", "check")),
    ],
)
def test_every_verb_explains_itself(words: tuple[str, str], capsys: Capture) -> None:
    shown = osmo(capsys, *words, "--help")
    assert shown.startswith(f"usage: osmo {' '.join(words)}") and "--format-type" in shown
