"""What runs in a task: unpack the code, call the function, keep what it returns.

It is the `__main__` of the archive, so that `python3 code.zip CALL` is all that an image needs. It uses the standard
library of Python 3.8 only. Errors of the user's code are told as the user's: our own frames are left out, and paths
are those of the project.

A result lies in the output folder below `.osmo`: `value.json` holds the value, or says that `value.arrow` or
`value.pickle` does. A pickle is only ever read by another task of the same workflow.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import pickle
import shutil
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path
from typing import Any

FOLDER, VALUE, ARROW, PICKLE = ".osmo", "value.json", "value.arrow", "value.pickle"
MARK = "$osmo"


def main(argv: list[str]) -> int:
    """`argv` holds the call: a JSON object with `function` (`module:name`), `args` and `kwargs`."""
    call = json.loads(argv[0])
    root = Path(tempfile.mkdtemp(prefix="osmo-code-"))
    lib = _unpack(Path(__file__).parent, root)
    code = root / "code"
    sys.path[0] = str(code)
    sys.path.append(str(lib))
    os.chdir(code)
    try:
        function = _function(call["function"])
        args = [decode(one) for one in call["args"]]
        kwargs = {name: decode(one) for name, one in call["kwargs"].items()}
        keep(function(*args, **kwargs), Path(os.environ["OSMO_OUTPUT"]), function.__name__)
    except Exception as error:
        sys.stdout.flush()
        sys.stderr.write(told(error, str(code)))
        return 1
    finally:
        sys.stdout.flush()
        os.chdir("/")
        shutil.rmtree(str(root), ignore_errors=True)
    return 0


def _unpack(archive: Path, root: Path) -> Path:
    with zipfile.ZipFile(str(archive)) as file:
        for info in file.infolist():
            place = file.extract(info, str(root))
            mode = info.external_attr >> 16
            if mode & 0o777:
                os.chmod(place, mode & 0o777)  # noqa: PTH101
    return root / "lib"


def _function(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return getattr(found, "function", found)


# -- values


def decode(value: Any) -> Any:
    """An argument of a call: plain values, tuples, and results of other tasks."""
    if isinstance(value, list):
        return [decode(one) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind is None:
        return {name: decode(one) for name, one in value.items()}
    if kind == "tuple":
        return tuple(decode(one) for one in value["items"])
    if kind == "float":
        return float(value["value"])
    found = load(Path(value["at"]))
    for part in value["parts"]:
        found = found[part]
    return found


def load(folder: Path) -> Any:
    """What a task returned, from its output folder."""
    place = folder / FOLDER
    try:
        told = json.loads((place / VALUE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RuntimeError("the task that should have made this value left none; did it end with its group?") from None
    if told["format"] == "json":
        return _from_json(told["value"], folder)
    if told["format"] == "arrow":
        import pyarrow as pa

        with pa.memory_map(str(place / ARROW)) as source:
            return pa.ipc.open_file(source).read_all()
    with (place / PICKLE).open("rb") as file:
        return _Unpickler(file, folder).load()


def _from_json(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_from_json(one, folder) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind is None:
        return {name: _from_json(one, folder) for name, one in value.items()}
    if kind == "tuple":
        return tuple(_from_json(one, folder) for one in value["items"])
    return folder / value["at"] if kind == "path" else float(value["value"])


def keep(value: Any, output: Path, name: str) -> None:
    """Write what a task returned into its output folder."""
    place = output / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    if type(value).__module__.split(".")[0] == "pyarrow" and type(value).__name__ == "Table":
        import pyarrow as pa

        with pa.OSFile(str(place / ARROW), "wb") as sink, pa.ipc.new_file(sink, value.schema) as writer:
            writer.write_table(value)
        told: Any = {"format": "arrow"}
    else:
        try:
            told = {"format": "json", "value": _to_json(value, output, name)}
        except _NoJson:
            _pickle(value, place / PICKLE, output, name)
            told = {"format": "pickle"}
    (place / VALUE).write_text(json.dumps(told), encoding="utf-8")


class _NoJson(Exception):
    """JSON would not give this value back as it is."""


def _to_json(value: Any, output: Path, name: str) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {MARK: "float", "value": repr(value)}
    if kind is list:
        return [_to_json(one, output, name) for one in value]
    if kind is tuple:
        return {MARK: "tuple", "items": [_to_json(one, output, name) for one in value]}
    if kind is dict and MARK not in value and all(type(key) is str for key in value):
        return {key: _to_json(one, output, name) for key, one in value.items()}
    if isinstance(value, Path):
        return {MARK: "path", "at": _carried(value, output, name)}
    raise _NoJson


def _carried(path: Path, output: Path, name: str) -> str:
    """Where a returned path lies in the output folder; what lies elsewhere is copied there."""
    real = path.resolve()
    if not real.exists():
        raise FileNotFoundError(f"{name}() returned the path {path}, where nothing is")
    if real == output.resolve() or output.resolve() in real.parents:
        return real.relative_to(output.resolve()).as_posix()
    files = output / "files"
    files.mkdir(parents=True, exist_ok=True)
    target, number = files / real.name, 1
    while target.exists():
        target, number = files / f"{number}-{real.name}", number + 1
    if real.is_dir():
        shutil.copytree(str(real), str(target), symlinks=True)
    else:
        shutil.copy2(str(real), str(target))
    return target.relative_to(output).as_posix()


def _pickle(value: Any, place: Path, output: Path, name: str) -> None:
    try:
        with place.open("wb") as file:
            pickler = _Pickler(file, protocol=4)
            pickler.output, pickler.name = output, name
            pickler.dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(
            f"{name}() returned a {type(value).__name__}, which cannot be handed on ({error}); return plain values or "
            f"a pyarrow table, or write files below osmo.output() and return their path"
        ) from None


class _Pickler(pickle.Pickler):
    output: Path
    name: str

    def persistent_id(self, value: Any) -> Any:
        return ("path", _carried(value, self.output, self.name)) if isinstance(value, Path) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, folder: Path) -> None:
        super().__init__(file)
        self.folder = folder

    def persistent_load(self, token: Any) -> Any:
        return self.folder / token[1]


# -- errors


def told(error: BaseException, code: str) -> str:
    """The traceback as the user's program would have it."""
    found = traceback.TracebackException.from_exception(error)
    _without_ours(found, set())
    text = "".join(found.format()).replace(f'File "{code}{os.sep}', 'File "')
    if isinstance(error, ModuleNotFoundError):
        text += (
            f"osmo: {error.name!r} is neither in the code that was sent nor in {sys.executable}; name the package in "
            f"@osmo.task(requirements=[...]), or choose an image that has it\n"
        )
    return text


def _without_ours(found: Any, seen: Any) -> None:
    if found is None or id(found) in seen:
        return
    seen.add(id(found))
    theirs = [frame for frame in found.stack if not _is_ours(frame.filename)]
    found.stack = traceback.StackSummary.from_list(theirs)
    for other in (found.__cause__, found.__context__):
        _without_ours(other, seen)


def _is_ours(filename: str) -> bool:
    name = filename.replace(os.sep, "/")
    ends = (
        "/lib/osmo_ray/__init__.py",
        "/osmo_ray/sdk/flow.py",
        "/osmo_ray/sdk/compiling.py",
        "/osmo_ray/sdk/pyfile.py",
        "/importlib/__init__.py",
    )
    return name == __file__ or name.startswith("<frozen importlib") or name.endswith(ends)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
