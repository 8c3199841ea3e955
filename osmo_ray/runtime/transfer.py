"""Inputs from the store into folders, and outputs back, so that what was written is what is read.

Files are objects below the prefix under their own relative names. A manifest, written last, keeps what an object store
has no word for (empty folders, links, modes) and makes the prefix whole: readers trust no prefix without one.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

from osmo_ray.objects.protocol import NoSuchObject, ObjectError, ObjectStore

MANIFEST = ".osmo-manifest.json"
_TRIES, _WIDTH = 5, 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """`key` is relative to the prefix; it differs from `path` only for names that no store can hold."""

    path: str
    size: int
    mode: int
    key: str


@dataclass(slots=True)
class Tree:
    """A folder's contents: paths are relative, `/`-separated."""

    files: list[FileEntry] = field(default_factory=list)
    folders: list[tuple[str, int]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)

    def to_json(self) -> str:
        files = [[f.path, f.size, f.mode, f.key] if f.key != f.path else [f.path, f.size, f.mode] for f in self.files]
        return json.dumps({"version": 1, "files": files, "folders": self.folders, "links": self.links})

    @staticmethod
    def from_json(text: bytes) -> Tree:
        value = json.loads(text)
        if value["version"] != 1:
            raise ObjectError(f"manifest version {value['version']} needs a newer program", permanent=True)
        files = [FileEntry(f[0], f[1], f[2], f[3] if len(f) > 3 else f[0]) for f in value["files"]]
        return Tree(files, [(p, m) for p, m in value["folders"]], [(p, t) for p, t in value["links"]])

    def matching(self, regex: str) -> Tree:
        """Only what matches from the start of its path; folders come along only when all do."""
        if not regex:
            return self
        match = re.compile(regex).match
        return Tree([f for f in self.files if match(f.path)], [], [link for link in self.links if match(link[0])])


def scan(folder: Path) -> tuple[Tree, list[str]]:
    """What is in a folder; links are not followed. The second value names what cannot be kept (sockets, pipes)."""
    tree, left = Tree(), []
    for path, entry in _walk(folder, ""):
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            tree.links.append((path, str(Path(entry.path).readlink())))
        elif stat.S_ISDIR(info.st_mode):
            tree.folders.append((path, stat.S_IMODE(info.st_mode)))
        elif stat.S_ISREG(info.st_mode) and path != MANIFEST:
            tree.files.append(FileEntry(path, info.st_size, stat.S_IMODE(info.st_mode), key_of(path)))
        else:
            left.append(path)
    return tree, left


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            yield prefix + entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")


def key_of(path: str) -> str:
    """A name any store takes: printable UTF-8 without what keys may not hold."""
    odd = ".." in path or not path.isprintable() or any("\ud800" <= c <= "\udfff" for c in path)
    return quote(os.fsencode(path)).replace("..", "%2E%2E") if odd else path


def upload(store: ObjectStore, prefix: str, folder: Path, regex: str = "") -> tuple[Tree, list[str]]:
    """Put a folder below `prefix`, its manifest last. Tries each object again on passing errors."""
    tree, left = scan(folder)
    tree = tree.matching(regex)
    base = prefix.rstrip("/")
    _all(tree.files, lambda f: store.upload(folder / f.path, _join(base, f.key)))
    retrying(lambda: store.write(_join(base, MANIFEST), tree.to_json().encode()))
    return tree, left


def upload_plain(store: ObjectStore, prefix: str, folder: Path, regex: str = "") -> tuple[Tree, list[str]]:
    """Put a folder where other programs will read it: files only, and no manifest."""
    tree, left = scan(folder)
    tree = tree.matching(regex)
    _all(tree.files, lambda f: store.upload(folder / f.path, _join(prefix.rstrip("/"), f.key)))
    return tree, left + [path for path, _ in tree.links]


def read_manifest(store: ObjectStore, prefix: str) -> Tree:
    """What an attempt left below `prefix`. NoSuchObject when it never finished."""
    return Tree.from_json(retrying(lambda: store.read(_join(prefix.rstrip("/"), MANIFEST))))


def download(store: ObjectStore, prefix: str, folder: Path, regex: str = "") -> Tree:
    """Fill a new, empty folder with what `upload` put below `prefix`: files, then folders' modes, then links, so
    that no name of the store can lead out of the folder."""
    tree = read_manifest(store, prefix).matching(regex)
    folder.mkdir(parents=True, exist_ok=True)
    for path, _ in tree.folders:
        _inside(folder, path).mkdir(parents=True, exist_ok=True)
    _all(tree.files, lambda f: _fetch(store, _join(prefix.rstrip("/"), f.key), _inside(folder, f.path), f.mode))
    for path, target in tree.links:
        place = _inside(folder, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    for path, mode in reversed(tree.folders):
        if not (folder / path).is_symlink():
            (folder / path).chmod(mode)
    return tree


def download_plain(store: ObjectStore, prefix: str, folder: Path, regex: str = "") -> Tree:
    """Fill a folder with every object below `prefix`, or with the one object of that name."""
    base = prefix.strip("/")
    found = list(store.list(base + "/" if base else ""))
    cut = len(base) + 1 if base else 0
    names = [(o.key[cut:], o.key, o.size) for o in found if o.key[cut:] and not o.key.endswith("/")]
    if not names and base:
        one = retrying(lambda: store.stat(base))
        names = [(PurePosixPath(base).name, base, one.size)]
    tree = Tree([FileEntry(path, size, 0o644, key) for path, key, size in names if path != MANIFEST]).matching(regex)
    folder.mkdir(parents=True, exist_ok=True)
    _all(tree.files, lambda f: _fetch(store, f.key, _inside(folder, f.path), f.mode))
    return tree


def _fetch(store: ObjectStore, key: str, place: Path, mode: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    store.download(key, place)
    place.chmod(mode)


def _inside(folder: Path, path: str) -> Path:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "" in parts:
        raise ObjectError(f"the name {path!r} leads out of its folder", permanent=True)
    return folder / path


def _join(base: str, key: str) -> str:
    return f"{base}/{key}" if base else key


def _all(files: list[FileEntry], one: Callable[[FileEntry], object]) -> None:
    def careful(entry: FileEntry) -> None:
        retrying(lambda: one(entry))

    if len(files) < 3:
        for entry in files:
            careful(entry)
        return
    with ThreadPoolExecutor(_WIDTH) as pool:
        for done in [pool.submit(careful, entry) for entry in files]:
            done.result()


def retrying(act: Callable[[], T], *, pause: float = 0.2) -> T:
    """Do it, up to five times while the error may pass."""
    for attempt in range(_TRIES):
        try:
            return act()
        except ObjectError as error:
            if error.permanent or isinstance(error, NoSuchObject) or attempt == _TRIES - 1:
                raise
            time.sleep(pause * 2**attempt)
    raise AssertionError("unreachable")
