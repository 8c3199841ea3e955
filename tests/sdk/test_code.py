"""What of a project is sent, and how a task runs it, without a platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.sdk import code, inside
from osmo_ray.sdk.code import pack
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.pyfile import locate, make


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def sent(root: Path) -> list[str]:
    with zipfile.ZipFile(BytesIO(pack(root).data)) as archive:
        return [n.removeprefix("code/") for n in archive.namelist() if n.startswith("code/")]


ROWS = [
    ("*.log", ["a.py", "sub/b.py"]),
    ("sub/", ["a.log", "a.py"]),
    ("/a.log", ["a.py", "sub/b.log", "sub/b.py"]),
    ("*.log\n!sub/b.log", ["a.py", "sub/b.log", "sub/b.py"]),
    ("sub\n!sub/b.py", ["a.log", "a.py"]),
    ("sub/*.py", ["a.log", "a.py", "sub/b.log"]),
    ("**/b.*", ["a.log", "a.py"]),
    ("sub/**", ["a.log", "a.py"]),
    ("[ab].log", ["a.py", "sub/b.py"]),
    ("[!b].log", ["a.py", "sub/b.log", "sub/b.py"]),
    ("?.py", ["a.log", "sub/b.log"]),
    ("# a.py\n\n*.log   ", ["a.py", "sub/b.py"]),
    ("b", ["a.log", "a.py", "sub/b.log", "sub/b.py"]),
]


@pytest.mark.parametrize(("ignore", "expected"), ROWS)
def test_gitignore_is_honoured_as_git_does(tmp_path: Path, ignore: str, expected: list[str]):
    tree(tmp_path, a_dot_py="", a_dot_log="", sub__b_dot_py="", sub__b_dot_log="")
    (tmp_path / ".gitignore").write_text(ignore + "\n")
    assert sent(tmp_path) == [".gitignore", *expected]
    git = ["git", "-c", "init.defaultBranch=main", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run([*git, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    assert sorted(listed.stdout.split()) == [".gitignore", *expected]


def test_rules_of_folders_above_and_below_count_and_secrets_stay(tmp_path: Path):
    tree(tmp_path, p__a_dot_py="", p__x_dot_bin="", p__deep__y_dot_py="", p__deep__z_dot_py="")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.bin\n")
    (tmp_path / "p/deep/.osmoignore").write_text("y.py\n")
    for name in (".env", "__pycache__/a.pyc", ".venv/lib.py"):
        (tmp_path / "p" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_text("x")
    (tmp_path / "p/out").symlink_to("/etc")
    (tmp_path / "p/host").symlink_to("/etc/hostname")
    assert sent(tmp_path / "p") == ["a.py", "deep/.osmoignore", "deep/z.py"]


def test_equal_folders_give_equal_archives(tmp_path: Path):
    one, two = tree(tmp_path / "1", a_dot_py="x"), tree(tmp_path / "2", a_dot_py="x")
    os.utime(two / "a.py", (1, 1))
    assert pack(one) == pack(two)
    (two / "a.py").chmod(0o755)
    assert pack(one).digest != pack(two).digest


def test_what_is_sent_is_said_and_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(code, "BIG_FILE", 1000)
    tree(tmp_path, a_dot_py="1", big_dot_txt="x" * 2000)
    told = pack(tmp_path).told()
    assert "2 files, 2.0 KiB" in told[0] and told[1] == "  warning: big.txt has 2.0 KiB; .osmoignore can leave it out"
    monkeypatch.setattr(code, "MAX_TOTAL", 1000)
    with pytest.raises(ClientError, match=r"largest: big.txt \(2.0 KiB\).*\.gitignore or \.osmoignore"):
        pack(tmp_path)


FLOW = """
import osmo_ray as osmo

@osmo.task
def add(a: int, b: int) -> int:
    return a + b

@osmo.workflow
def flow(x: int, names: list = ["a"], fast: bool = False, rate: float = 0.5):
    return add(x, len(names) + fast + rate)
"""


def test_a_file_in_a_package_is_sent_from_above_it(tmp_path: Path):
    tree(tmp_path, pack__init="", top__mid__flow_dot_py=FLOW)
    for folder in ("top", "top/mid"):
        (tmp_path / folder / "__init__.py").touch()
    assert locate(tmp_path / "top/mid/flow.py") == (tmp_path, "top.mid.flow")


def test_arguments_are_read_by_their_annotations(tmp_path: Path):
    (tmp_path / "argumentative.py").write_text(FLOW)
    file = str(tmp_path / "argumentative.py")
    words = ["--x", "3", "--names", '["p", "q"]', "--fast", "--rate=2"]
    assert '"args": [3, 5.0]' in make(file, words).text
    for wrong, message in (
        ([], "--x"), (["--x", "three"], "invalid int value"),
        (["--x", "1", "--y", "2"], "unrecognized arguments: --y 2"),
        (["--x", "1", "--names", "a"], "is not JSON"),
    ):  # fmt: skip
        with pytest.raises(ClientError, match=message):
            make(file, wrong)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = 1", "", "has no function with @osmo.workflow"),
        (FLOW + FLOW.replace("def flow", "def other"), "", "has several workflows; name one: .*:flow"),
        (FLOW, ":other", "has no workflow 'other'; it has flow"),
        (
            "import nothing_like_this",
            "",
            r"File \"broken_\d+.py\", line 1, in <module>\n.*import nothing_like_this\nModuleNotF",
        ),
        (FLOW.replace("add(x, ", "add("), "", r"TypeError: add\(\): missing a required argument: 'b'"),
        (
            FLOW.replace("    return add", "    if add(x, 1): pass\n    return add"),
            "",
            r"broken_\d+.py:10: the result of add",
        ),
    ],
)
def test_mistakes_of_a_file_are_its_own(tmp_path: Path, text: str, name: str, message: str):
    number = abs(hash((text, name))) % 10**8
    file = tmp_path / f"broken_{number}.py"
    file.write_text(text)
    with pytest.raises(ClientError, match=message) as caught:
        make(f"{file}{name}", ["--x", "1"])
    assert "osmo_ray/sdk" not in str(caught.value)


# -- in the task


def ran(archive: Path, out: Path, function: str, *args: Any) -> subprocess.CompletedProcess[str]:
    text = json.dumps({"function": function, "args": args, "kwargs": {}})
    env = {"OSMO_OUTPUT": str(out), "PATH": os.environ["PATH"]}
    # Isolated from this checkout, as in an image that knows nothing of the package.
    line = [sys.executable, "-S", "-E", "-s", str(archive), text]
    return subprocess.run(line, env=env, cwd="/", capture_output=True, text=True, check=False)


TASKS = """
import osmo_ray as osmo
from pathlib import Path
from dataclasses import dataclass

@dataclass
class Point:
    x: int
    at: Path

@osmo.task(cpu=1)
def values():
    return {"n": [1, 2.5, None, True], "t": (1, "a"), "inf": float("inf")}

@osmo.task
def odd():
    (osmo.output() / "f.txt").write_text("in")
    return Point(3, osmo.output() / "f.txt")

@osmo.task
def elsewhere():
    Path("made").mkdir()
    Path("made/g.txt").write_text("else")
    return Path("made"), osmo.output()

@osmo.task
def show(value):
    print(repr(value), flush=True)
    return value

@osmo.task
def lines(point):
    return point.at.read_text()

@osmo.task
def locks():
    import threading
    return threading.Lock()

@osmo.task
def chain():
    try:
        {}["a"]
    except KeyError as error:
        raise RuntimeError("why") from error

@osmo.task
def leave():
    raise SystemExit(7)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "tasks.py").write_text(TASKS)
    (tmp_path / "code.zip").write_bytes(pack(project).data)
    return tmp_path / "code.zip"


def result(folder: Path, *parts: Any) -> dict[str, Any]:
    return {"$osmo": "result", "at": str(folder), "parts": list(parts)}


def test_values_go_from_task_to_task(archive: Path, tmp_path: Path):
    one, two = tmp_path / "1", tmp_path / "2"
    done = ran(archive, one, "tasks:values")
    assert done.returncode == 0, done.stderr
    assert inside.load(one) == {"n": [1, 2.5, None, True], "t": (1, "a"), "inf": float("inf")}
    done = ran(archive, two, "tasks:show", result(one, "t"))
    assert done.stdout == "(1, 'a')\n" and inside.load(two) == (1, "a")


def test_paths_travel_also_within_objects(archive: Path, tmp_path: Path):
    one, moved, two, three = (tmp_path / n for n in ("1", "moved", "2", "3"))
    assert ran(archive, one, "tasks:odd").returncode == 0
    one.rename(moved)
    done = ran(archive, two, "tasks:lines", result(moved))
    assert done.returncode == 0 and inside.load(two) == "in", done.stderr
    assert ran(archive, three, "tasks:elsewhere").returncode == 0
    folder, output = inside.load(three)
    assert (folder / "g.txt").read_text() == "else" and [p.name for p in output.iterdir()] == ["made"]


def test_errors_are_the_users(archive: Path, tmp_path: Path):
    done = ran(archive, tmp_path / "1", "tasks:chain")
    assert done.returncode == 1
    files = [line.split(",")[0].strip() for line in done.stderr.splitlines() if line.strip().startswith("File")]
    assert files == ['File "tasks.py"'] * 2 and done.stderr.endswith("RuntimeError: why\n")
    assert "KeyError" in done.stderr
    assert ran(archive, tmp_path / "2", "tasks:leave").returncode == 7
    locks = ran(archive, tmp_path / "3", "tasks:locks")
    assert locks.returncode == 1 and "locks() returned a lock, which cannot be handed on" in locks.stderr


def test_a_missing_package_says_what_to_do(archive: Path, tmp_path: Path):
    done = ran(archive, tmp_path / "1", "nothing_there:f")
    assert done.returncode == 1 and "@osmo.task(requirements=[...])" in done.stderr


def test_a_value_that_was_never_made_is_named(tmp_path: Path):
    with pytest.raises(RuntimeError, match="left none; did it end with its group"):
        inside.load(tmp_path)
