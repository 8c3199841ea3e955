"""The user's code as an archive that is named by its contents.

The archive is a zip that Python runs: `__main__.py` is `inside.py`, `code/` holds the project, `lib/` the few
definitions that `import osmo_ray` needs where the package is not installed. Equal folders give equal archives, so that
code which the platform has is not sent again. What `.gitignore` (and `.osmoignore`) names stays at home, and so do
caches, environments and `.env`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.sdk.errors import ClientError

MAX_TOTAL = 100 << 20
"""Bytes of a project, unpacked. More than this is data, and belongs into a task's output or a dataset."""
BIG_FILE = 10 << 20
MAX_FILES = 20_000
_NEVER = frozenset(
    (".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".nox", "node_modules", ".mypy_cache", ".env",
     ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", ".DS_Store", ".idea", ".vscode")
)  # fmt: skip
_IGNORES = (".gitignore", ".osmoignore")
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Archive:
    """The bytes that are sent. `digest` is their SHA-256; `count` and `size` are those of the project's files."""

    digest: str
    data: bytes
    count: int
    size: int
    big: tuple[tuple[str, int], ...]

    def told(self) -> list[str]:
        """What is sent, for people."""
        from osmo_ray.spec.quantity import show_bytes

        files = f"{self.count} file{'' if self.count == 1 else 's'}"
        lines = [f"code {self.digest[:12]}: {files}, {show_bytes(self.size)} ({show_bytes(len(self.data))} packed)"]
        lines += [f"  warning: {path} has {show_bytes(size)}; .osmoignore can leave it out" for path, size in self.big]
        return lines


def pack(root: Path) -> Archive:
    """The archive of a project's folder. Raises `ClientError` for one that is too large."""
    files = sorted(_files(root, root, _inherited(root)))
    sizes = {path: (root / path).stat().st_size for path in files}
    _check(root, sizes)
    here = Path(__file__).parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        _add(archive, "__main__.py", (here / "inside.py").read_bytes(), 0o644)
        _add(archive, "lib/osmo_ray/__init__.py", (here / "flow.py").read_bytes(), 0o644)
        for path in files:
            mode = 0o755 if os.access(root / path, os.X_OK) else 0o644
            _add(archive, f"code/{path}", (root / path).read_bytes(), mode)
    data = packed.getvalue()
    big = tuple((path, size) for path, size in sizes.items() if size > BIG_FILE)
    return Archive(hashlib.sha256(data).hexdigest(), data, len(files), sum(sizes.values()), big)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, (0o100000 | mode) << 16, 3
    archive.writestr(info, data)


def _check(root: Path, sizes: dict[str, int]) -> None:
    from osmo_ray.spec.quantity import show_bytes

    total = sum(sizes.values())
    if total <= MAX_TOTAL and len(sizes) <= MAX_FILES:
        return
    largest = sorted(sizes.items(), key=lambda one: -one[1])[:3]
    listed = ", ".join(f"{path} ({show_bytes(size)})" for path, size in largest)
    limit = f"at most {MAX_FILES} files and {show_bytes(MAX_TOTAL)} are sent"
    message = f"the code in {root} has {len(sizes)} files and {show_bytes(total)}, {limit}; largest: {listed}"
    raise ClientError(f"{message}. Name what is not code in .gitignore or .osmoignore", status=400, code="USAGE")


# -- what is left out


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ignore file. `base` is the folder of the file, relative to the project, `..` for one above."""

    base: Path
    pattern: re.Pattern[str]
    keep: bool
    folders_only: bool

    def matches(self, path: Path, folder: bool) -> bool:
        if (self.folders_only and not folder) or not path.is_relative_to(self.base):
            return False
        return self.pattern.fullmatch(path.relative_to(self.base).as_posix()) is not None


def _files(root: Path, folder: Path, rules: list[Rule]) -> Iterator[str]:
    """Relative paths of what belongs to the project, links followed to files within it."""
    rules = rules + _rules(folder)
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda e: e.name)
    for entry in entries:
        path = folder / entry.name
        inside = entry.is_dir(follow_symlinks=False)
        if entry.name in _NEVER or entry.name.endswith(".pyc") or _ignored(rules, path, inside):
            continue
        if inside:
            yield from _files(root, path, rules)
        elif entry.is_file() and path.resolve().is_relative_to(root.resolve()):
            yield path.relative_to(root).as_posix()


def _ignored(rules: list[Rule], path: Path, folder: bool) -> bool:
    """The last rule that matches decides."""
    return next((not rule.keep for rule in reversed(rules) if rule.matches(path, folder)), False)


def _inherited(root: Path) -> list[Rule]:
    """Rules of the folders above, up to the one that holds the repository."""
    above: list[Path] = []
    for folder in (root, *root.parents):
        if folder != root:
            above.append(folder)
        if (folder / ".git").exists():
            return [rule for one in reversed(above) for rule in _rules(one)]
    return []


def _rules(folder: Path) -> list[Rule]:
    found = []
    for name in _IGNORES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            found += [rule for line in text.splitlines() if (rule := _rule(folder, line)) is not None]
    return found


def _rule(base: Path, line: str) -> Rule | None:
    line = re.sub(r"(?<!\\) +$", "", line)
    if not line or line.startswith("#"):
        return None
    keep = line.startswith("!")
    line = line.removeprefix("!").removeprefix("\\")
    folders_only = line.endswith("/")
    line = line.rstrip("/")
    anchored = "/" in line
    pattern = ("" if anchored else "(?:.*/)?") + _translated(line.lstrip("/"))
    try:
        return Rule(base, re.compile(pattern), keep, folders_only)
    except re.error:
        return None


def _translated(glob: str) -> str:
    """Git's patterns as a regular expression: `*` and `?` stay within a name, `**` goes over folders."""
    text, at = "", 0
    while at < len(glob):
        rest = glob[at:]
        if rest.startswith("**/"):
            text, at = text + "(?:.*/)?", at + 3
        elif rest == "**":
            text, at = text + ".*", at + 2
        elif rest[0] == "*":
            text, at = text + "[^/]*", at + 1
        elif rest[0] == "?":
            text, at = text + "[^/]", at + 1
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            inner = rest[1:end].replace("\\", "\\\\")
            text, at = text + "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]", at + end + 1
        elif rest[0] == "\\" and len(rest) > 1:
            text, at = text + re.escape(rest[1]), at + 2
        else:
            text, at = text + re.escape(rest[0]), at + 1
    return text
