"""The runtime image of the tests, assembled without a registry: this machine's Python, the libraries that it loads,
our package, what that needs for datasets and S3, and our launcher.

    python runtime_image.py LAUNCHER FOLDER
"""

from __future__ import annotations

import compileall
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "*.a",
    "lib2to3", "turtledemo", "config-*",
)  # fmt: skip


_PACKAGES = (
    "numpy", "numpy.libs", "pyarrow", "blake3", "yaml", "cryptography", "_cffi_backend*", "pyfastcdc",
    "typing_extensions.py", "fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp", "urllib3", "wrapt", "attr",
    "dateutil", "jmespath", "yarl", "aioitertools", "idna", "aiohappyeyeballs", "multidict", "propcache", "certifi",
    "frozenlist", "six.py", "aiosignal", "websockets",
)  # fmt: skip
"""What tasks with datasets, tasks with data of S3, and agents import of others."""
_UNUSED = shutil.ignore_patterns(
    "tests", "__pycache__", "include", "src", "*flight*", "_substrait*", "*_s3.so*", "*gandiva*", "*.pyx", "*.pxd",
    "*.pxi", "*.h",
)  # fmt: skip


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Of botocore's services only S3 and what every client reads."""
    data = Path(folder).name == "data" and "botocore" in folder
    services = {n for n in names if (Path(folder) / n).is_dir() and n not in ("s3", "sts")} if data else set()
    return services | set(_UNUSED(folder, names))


def libraries(program: Path) -> list[Path]:
    """The shared libraries that a program or library needs."""
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return [Path(found) for found in re.findall(r"(/\S+)\s+\(0x", told)]


def copy_libraries(root: Path, of: list[Path]) -> None:
    ours = sysconfig.get_path("platlib")
    for path in {found for one in of for found in libraries(one) if not found.is_relative_to(ours)}:
        target = root / path.relative_to("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def main(launcher: Path, root: Path) -> None:
    home = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = home / "bin" / version
    standard = Path(sysconfig.get_path("stdlib", vars={"base": str(home), "installed_base": str(home)}))
    for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "usr/local/bin", "root"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    inside = root / python.relative_to("/")
    inside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(python, inside)
    shutil.copytree(standard, root / standard.relative_to("/"), ignore=_LEFT_OUT, dirs_exist_ok=True)
    site = root / standard.relative_to("/") / "site-packages"
    shutil.copytree(
        REPOSITORY / "osmo_ray", site / "osmo_ray", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    theirs = Path(sysconfig.get_path("platlib"))
    for package in (found for name in _PACKAGES for found in theirs.glob(name)):
        if package.is_dir():
            shutil.copytree(package, site / package.name, ignore=_left_out, dirs_exist_ok=True)
        else:
            shutil.copy2(package, site / package.name)
    linked = [theirs / "pyarrow/libarrow.so", *(theirs / "pyarrow").glob("libarrow.so.*")]
    linked += (theirs / "cryptography").rglob("*.so")
    copy_libraries(root, [python, *(standard / "lib-dynload").glob("*.so"), *(one for one in linked if one.exists())])
    (root / "usr/local/bin/python3").symlink_to(python)
    shutil.copy2(launcher, root / "usr/local/bin/osmo-launcher")
    compileall.compile_dir(site / "osmo_ray", quiet=1, stripdir=str(root), prependdir="/")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
