"""The byte stream of the contract's exec socket, in every way that it can be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.api.inside.contract import NoSize, Typing
from osmo_ray.backends.inside import Size

FIRST = b'{"Rows": 30, "Cols": 100}'
CHANGE = b'\0RESIZE:{"Rows": 31, "Cols": 101}'


def meant(*frames: bytes) -> tuple[list[Size], bytes]:
    """Sizes, and the bytes for the command, of these frames."""
    typing, sizes, data = Typing(), [], b""
    for frame in frames:
        for item in typing.feed(frame):
            if isinstance(item, Size):
                sizes.append(item)
            else:
                data += item
    return sizes, data + typing.flush()


def test_a_size_comes_first_and_keys_are_matched_without_case() -> None:
    assert meant(b'{"rows": 1, "COLS": 2}ls') == ([Size(1, 2)], b"ls")
    with pytest.raises(NoSize):
        meant(b"ls -la\n")


def test_a_change_is_taken_out_and_other_zero_bytes_stay() -> None:
    assert meant(FIRST, b"a\0b" + CHANGE + b"c\0RESIZE:no\0") == ([Size(30, 100), Size(31, 101)], b"a\0bc\0RESIZE:no\0")


@pytest.mark.parametrize("text", [b"\0" * 300_000, b"\0RESIZE:" * 40_000, b"\0RESIZE:{" * 40_000])
def test_what_looks_like_many_changes_is_passed_on_as_a_whole(text: bytes) -> None:
    """Not byte by byte, which would keep everybody else waiting."""
    typing = Typing()
    found = list(typing.feed(FIRST + text))
    assert len(found) == 2
    assert [found[0], bytes(found[1]) + typing.flush()] == [Size(30, 100), text]  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=4), max_size=4), st.data())
def test_however_it_is_cut_it_means_the_same(pieces: list[bytes], data: st.DataObject) -> None:
    whole = FIRST + CHANGE.join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    frames = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert meant(*frames) == meant(whole)
    sizes, said = meant(whole)
    assert sizes == [Size(30, 100)] + [Size(31, 101)] * max(len(pieces) - 1, 0)
    assert said == b"".join(pieces)
