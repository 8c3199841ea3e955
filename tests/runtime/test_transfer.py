"""Folders to the store and back: what was written is what is read, and no name leads out of its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osmo_ray.objects import open_store
from osmo_ray.objects.protocol import NoSuchObject, ObjectError
from osmo_ray.runtime import transfer
from osmo_ray.runtime.transfer import FileEntry, Tree


def seen(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", path.stat().st_mode)
        else:
            found[name] = (path.stat().st_mode, path.read_bytes())
    return found


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/empty").mkdir(parents=True)
    (source / "a/empty").chmod(0o500)
    (source / "a/data").write_bytes(b"x" * 100_000)
    (source / "a/run.sh").write_text("#!/bin/sh\n")
    (source / "a/run.sh").chmod(0o755)
    (source / "a/link").symlink_to("data")
    (source / "out").symlink_to("/etc")
    (source / "odd..name").write_text("dots")
    (source / "new\nline").write_text("newline")
    (source / "ünï köde %41").write_text("unicode")
    Path(os.fsdecode(os.fsencode(source) + b"/b\xff\xfe")).write_text("bytes")
    store = open_store((tmp_path / "store").as_uri())
    transfer.upload(store, "p/q", source)
    transfer.download(store, "p/q", tmp_path / "target")
    assert seen(tmp_path / "target") == seen(source)
    (source / "a/empty").chmod(0o700)


def test_sockets_and_pipes_are_named_not_kept(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    os.mkfifo(tmp_path / "f/pipe")
    tree, left = transfer.scan(tmp_path / "f")
    assert (tree.files, left) == ([], ["pipe"])


def test_a_prefix_without_manifest_is_not_trusted(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.write("p/half", b"x")
    with pytest.raises(NoSuchObject):
        transfer.download(store, "p", tmp_path / "target")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a//b"])
def test_a_manifest_cannot_lead_out(tmp_path: Path, name: str) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.write("p/k", b"x")
    tree = Tree([FileEntry(name, 1, 0o644, "k")])
    store.write("p/" + transfer.MANIFEST, tree.to_json().encode())
    with pytest.raises(ObjectError, match="leads out"):
        transfer.download(store, "p", tmp_path / "deep/er/target")


def test_a_link_in_a_manifest_cannot_lead_a_file_out(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.write("p/k", b"x")
    tree = Tree([FileEntry("a/evil", 1, 0o644, "k")], links=[("a", str(tmp_path))])
    store.write("p/" + transfer.MANIFEST, tree.to_json().encode())
    with pytest.raises(FileExistsError):
        transfer.download(store, "p", tmp_path / "target")
    assert not (tmp_path / "evil").exists()


def test_passing_errors_are_tried_again_and_lasting_ones_not() -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise ObjectError("busy", permanent=False)
        return "done"

    def broken() -> str:
        tries.append(1)
        raise ObjectError("denied", permanent=True)

    assert transfer.retrying(flaky, pause=0.0) == "done"
    tries.clear()
    with pytest.raises(ObjectError):
        transfer.retrying(broken, pause=0.0)
    assert len(tries) == 1


def test_a_url_may_name_a_folder_or_one_object(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    for name in ("d/x", "d/e/y"):
        store.write(name, name.encode())
    transfer.download_plain(store, "d", tmp_path / "all")
    assert sorted(n for n, v in seen(tmp_path / "all").items() if isinstance(v, tuple) and v[0] != "folder") == [
        "e/y",
        "x",
    ]
    transfer.download_plain(store, "d/e/y", tmp_path / "one")
    assert (tmp_path / "one/y").read_text() == "d/e/y"
