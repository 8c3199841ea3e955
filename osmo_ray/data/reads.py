"""From many small pieces of packs to few reads: neighbours are read together, small gaps are read over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from osmo_ray.data.index import Place

GAP = 128 << 10
RUN = 8 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run(Generic[T]):
    """The bytes [start, end) of a pack, and what is wanted of them."""

    pack: str
    start: int
    end: int
    pieces: tuple[tuple[Place, T], ...]


def runs(wanted: Iterable[tuple[Place, T]], *, gap: int = GAP, limit: int = RUN) -> Iterator[Run[T]]:
    """In order of pack and offset. A run is closed at `limit` bytes or before a gap of more than `gap` bytes."""
    held: list[tuple[Place, T]] = []
    for place, tag in sorted(wanted, key=lambda piece: (piece[0].pack, piece[0].offset)):
        if held:
            last, first = held[-1][0], held[0][0]
            apart = place.offset - (last.offset + last.stored)
            far = place.pack != first.pack or apart > gap or place.offset + place.stored - first.offset > limit
            if far:
                yield _run(held)
                held = []
        held.append((place, tag))
    if held:
        yield _run(held)


def _run(held: list[tuple[Place, T]]) -> Run[T]:
    end = max(place.offset + place.stored for place, _ in held)
    return Run(held[0][0].pack, held[0][0].offset, end, tuple(held))
