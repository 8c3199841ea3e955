"""Datasets on an S3 server of this machine, beside restic, rclone and what the server itself costs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.dataset_tools import MIB, Ours, Rclone, Restic, change, row, same, small_files, stored, timed
from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.protocol import ObjectStore


@contextlib.contextmanager
def s3_server(work: Path) -> Iterator[tuple[str, str, str, str]]:
    """(what it is, endpoint, key, secret): Ceph's gateway where Debian's radosgw is installed, else moto."""
    if shutil.which("radosgw") and shutil.which("ceph-osd"):
        from tests.servers import buckets

        (work / "ceph").mkdir()
        with buckets.ceph(work / "ceph") as server:
            yield "Ceph in memory", server.endpoint, buckets.KEY, buckets.SECRET
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with (work / "s3.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                time.sleep(0.1)
            yield "moto", f"http://127.0.0.1:{port}", "testing", "testing"
        finally:
            server.terminate()


def floor(store: ObjectStore, size: int) -> tuple[object, ...]:
    """What the server itself costs: as many bytes in objects of 64 MiB, three at a time, back in reads of 8 MiB."""
    pack, read = 64 * MIB, 8 * MIB
    data = os.urandom(pack)
    starts = [(number, at) for number in range(-(-size // pack)) for at in range(0, pack, read)]

    def put() -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda number: store.write(f"bare/{number}", data), range(-(-size // pack))))

    def get() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda piece: store.read(f"bare/{piece[0]}", piece[1], piece[1] + read), starts))

    return timed(put), "", "", timed(get)


def s3(work: Path, scale: float) -> None:
    source, count = work / "s3", int(5_000 * scale)
    small_files(source, count)
    time.sleep(2.1)
    with s3_server(work) as (what, endpoint, key, secret):
        print(f"{count} files, {stored(source):.0f} MiB on S3 ({what}; its own CPU is not counted): wall s (CPU s)")
        row("", "add", "re-add", "1% changed", "restore")
        size = int(stored(source) * MIB)
        secrets = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        options = {
            "key": key,
            "secret": secret,
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        store = open_store("s3://ours", **options)
        store._fs.call_s3("create_bucket", Bucket="ours")  # type: ignore[attr-defined]
        ours = Ours(work)
        ours.dataset = Dataset(open_bucket(store, cache=work / "s3cache"), "d", create=True)
        tools: list[tuple[str, Any]] = [("osmo-ray", ours)]
        if shutil.which("restic"):
            tools.append(("restic", Restic(work, f"s3:{endpoint}/restic", secrets)))
        if shutil.which("rclone"):
            remote = {"TYPE": "s3", "PROVIDER": "Ceph", "ENV_AUTH": "true", "ENDPOINT": endpoint}
            env = {f"RCLONE_CONFIG_R_{name}": value for name, value in remote.items()}
            tools.append(("rclone", Rclone(work, "r:rclone/p", {**secrets, **env})))
        took: dict[str, list[object]] = {
            name: [timed(lambda t=tool: t.add(source)) for _ in range(2)] for name, tool in tools
        }
        change(source, 0.01)
        for name, tool in tools:
            took[name].append(timed(lambda t=tool: t.add(source)))
        row("bare PUT, bare GET of these bytes", *floor(store, size))
        for name, tool in tools:
            target = work / "out" / f"s3-{name}"
            target.parent.mkdir(exist_ok=True)
            row(name, *took[name], timed(lambda t=tool, to=target: t.restore(to)))
            same(source, target)
