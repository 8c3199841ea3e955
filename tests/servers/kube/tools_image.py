"""An image as users have them, assembled without a registry: a shell, the usual programs, rsync, sftp and a Python,
each this machine's own with the libraries that it loads.

    python tools_image.py FOLDER
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from runtime_image import copy_libraries

_PROGRAMS = ("/usr/bin/bash", "/usr/bin/rsync", "/usr/bin/python3", "/usr/lib/openssh/sftp-server")
_LOADED = (
    "libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1", "libstdc++.so.6", "librt.so.1", "libpthread.so.0",
    "libdl.so.2", "libm.so.6",
)  # fmt: skip
"""What wheels of Python load."""
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsomebody:x:1000:1000::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nsomebody:x:1000:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def main(root: Path) -> None:
    for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "root", "usr/bin", "usr/lib", "home"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    programs = [Path(one).resolve(strict=True) for one in _PROGRAMS]
    for name, real in zip(_PROGRAMS, programs, strict=True):
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(real, target)
    standard = Path("/usr/lib") / programs[2].name
    left_out = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "lib2to3", "config-*", "*.a")
    shutil.copytree(standard, root / standard.relative_to("/"), ignore=left_out, symlinks=True)
    loaded = [found for name in _LOADED for found in Path("/lib").glob(f"*/{name}")]
    copy_libraries(root, [*programs, *(standard / "lib-dynload").glob("*.so"), *loaded])
    for one in loaded:
        shutil.copy2(one, root / one.relative_to("/"))
    _busybox(root)
    for path, text in _FILES.items():
        (root / path).write_text(text)


def _busybox(root: Path) -> None:
    """For whatever this machine's own programs were not taken."""
    own = shutil.which("busybox")
    assert own is not None, "needs busybox-static"
    shutil.copy2(own, root / "bin/busybox")
    for name in subprocess.run([own, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if not (root / "usr/bin" / name).exists() and name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "bin/bash").symlink_to("/usr/bin/bash")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
