"""Logs: stamped line by line, fast, followed by offset, shipped and read back the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hosting import Begin, Host, shell, wait_for
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.objects import open_store
from osmo_ray.runtime import Options
from osmo_ray.runtime.logs import Stamper, log_prefix, platform_line, segment_name, ship, stored_log
from osmo_ray.spec.attempt import AttemptKey, Phase

KEY = AttemptKey("task", 0)


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\r", b"")), max_size=20))
def test_however_it_is_cut_the_text_is_the_same(chunks: list[bytes]) -> None:
    stamper = Stamper()
    out = b"".join(stamper.feed(chunk, 1.5) for chunk in chunks) + stamper.flush(1.5)
    whole = b"".join(chunks)
    lines = whole.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    assert out == b"".join(b"1500 O " + line + b"\n" for line in lines)


def test_a_line_without_end_is_cut_so_that_memory_is_bounded() -> None:
    stamper = Stamper()
    written = sum(len(stamper.feed(b"x" * 10_000, 1.0)) for _ in range(100))
    assert written > 900_000
    assert len(stamper.rest) <= 64 << 10


def test_platform_lines_are_marked_also_when_there_are_several() -> None:
    assert platform_line("one\ntwo\n", 2.0) == b"2000 P one\n2000 P two\n"


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 30), st.booleans())
def test_a_stored_log_reads_as_it_was_whatever_the_segments(sizes: list[int], limit: int, whole: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        store = open_store(Path(name).as_uri())
        log = Path(name) / "the.log"
        data, at = b"", 0
        for number, size in enumerate(sizes):
            data += bytes([65 + number]) * size
            log.write_bytes(data)
            last = number == len(sizes) - 1
            at = ship(store, log_prefix("w", KEY), log, at, None if last and whole else len(data), chunk=16)
        # A shipper that was killed began again from the start: the same bytes twice.
        store.write(log_prefix("w", KEY) + segment_name(0, last=False), data[: sizes[0]])
        read, offset, ended = b"", 0, False
        for _ in range(len(data) + 2):
            chunk = stored_log(store, "w", KEY, offset, limit)
            read, offset, ended = read + chunk.data, chunk.next, chunk.end
            if not chunk.data:
                break
        assert (read, offset, ended) == (data, len(data), whole)


async def test_the_log_is_followed_while_it_grows(any_host: Host) -> None:
    one = shell("for i in 1 2 3; do echo line $i; sleep 0.1; done")
    await any_host.apply(1, [one])
    offset, read = 0, b""
    while True:
        chunk = await any_host.logs(one.key, offset, 7, 5.0)
        read, offset = read + chunk.data, chunk.next
        if chunk.end:
            break
    assert [line.split(b" ", 2)[2] for line in read.splitlines()] == [b"line 1", b"line 2", b"line 3"]
    await any_host.end(one.key)
    stored = stored_log(open_store(any_host.book.storage_url), one.workflow_uuid, one.key, 0, 1 << 20)
    assert (stored.data, stored.end) == (read, True)
    assert stored_log(open_store(any_host.book.storage_url), one.workflow_uuid, one.key, 9, 11).data == read[9:20]


async def test_many_followers_see_the_same(host: Host) -> None:
    one = shell("for i in 1 2 3 4 5; do echo $i; sleep 0.05; done")
    await host.apply(1, [one])

    async def follow() -> bytes:
        offset, read = 0, b""
        while not (chunk := await host.logs(one.key, offset, 1 << 16, 5.0)).end:
            read, offset = read + chunk.data, chunk.next
        return read + chunk.data

    texts = await asyncio.gather(*(follow() for _ in range(20)))
    assert len(set(texts)) == 1
    assert texts[0].count(b"\n") == 5


async def test_an_unfinished_line_is_shown_after_a_while(any_host: Host) -> None:
    one = shell("printf 'no newline yet'; sleep 1000")
    await any_host.apply(1, [one])
    assert await any_host.says(one.key, "no newline yet") == "no newline yet"


async def test_a_growing_log_is_shipped_while_the_task_runs(begin: Begin) -> None:
    host = await begin(Options(engine="off", ship_every=0.1))
    one = shell("echo early; sleep 1000")
    await host.apply(1, [one])
    store = open_store(host.book.storage_url)

    def shipped() -> bool:
        chunk = stored_log(store, one.workflow_uuid, one.key, 0, 1 << 20)
        return b"early" in chunk.data and not chunk.end

    await wait_for(shipped, "nothing was shipped while it ran")
    host.supervisor(one.key).signal(9)
    assert (await host.end(one.key)).phase is Phase.LOST
    chunk = stored_log(store, one.workflow_uuid, one.key, 0, 1 << 20)
    assert b"early" in chunk.data
    assert chunk.end


async def test_every_line_of_a_flood_is_kept_in_bounded_memory(host: Host) -> None:
    count = 500_000
    one = shell(f"seq {count}")
    end = await host.run(one)
    assert end.exit_code == 0
    text = await host.text(one.key)
    assert text == "\n".join(map(str, range(1, count + 1)))
