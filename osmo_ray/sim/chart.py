"""Two replays as a picture: utilisation and the length of the queue over time, as SVG without anything to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from osmo_ray.sim.replay import Point, Replayed

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _PANEL_WIDTH = 900, 560, 70, 60, 70, 800
_PANEL = (_HEIGHT - _TOP - 2 * _GAP) // 2
_COLUMNS = 400
"""Values drawn for each line; what happens between two of them is averaged."""
_COLORS = ("#8a8f98", "#0b6fc2")
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


@dataclass(frozen=True, slots=True)
class _Panel:
    """One diagram: where it is, what is at its top, and how long its axis of time is."""

    title: str
    top: int
    most: float
    span: float
    show: Callable[[float], str]

    def x(self, seconds: float) -> float:
        return _LEFT + _PANEL_WIDTH * seconds / self.span

    def y(self, value: float) -> float:
        return self.top + _PANEL * (1 - value / self.most)


def draw(variants: Sequence[tuple[str, Replayed]]) -> str:
    """An SVG document with both diagrams; each variant is a name and its replay."""
    span = max(*(done.ended - done.begun for _, done in variants), 1e-9)
    use = [averages(done.points, lambda p, d=done: _use(p, d), span) for _, done in variants]  # type: ignore[misc]
    queues = [averages(done.points, lambda p: p.waiting, span) for _, done in variants]
    longest = float(_round_up(max(max(line) for line in queues)))
    word = "GPUs" if _counts_gpus(variants) else "cores"
    panels = (
        (_Panel(f"Utilisation of {word}", _TOP, 1.0, span, lambda v: f"{v:.0%}"), use),
        (_Panel("Groups that wait", _TOP + _PANEL + _GAP, longest, span, lambda v: f"{v:g}"), queues),
    )
    parts = [_legend([name for name, _ in variants])]
    for panel, lines in panels:
        parts.append(_frame(panel))
        parts += [_line(panel, line, _COLORS[n % len(_COLORS)]) for n, line in enumerate(lines)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        "<title>Utilisation and queue of two variants over time</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def averages(points: Sequence[Point], value: Callable[[Point], float], span: float) -> list[float]:
    """A value that changes in steps, as means over equal parts of `span` seconds from the first point on. After the
    last point it is what it was there."""
    width = span / _COLUMNS
    begun = points[0].at
    sums = [0.0] * _COLUMNS
    for n, point in enumerate(points):
        start = point.at - begun
        end = points[n + 1].at - begun if n + 1 < len(points) else span
        column = min(int(start / width), _COLUMNS - 1)
        while start < end and column < _COLUMNS:
            edge = min(end, (column + 1) * width) if column + 1 < _COLUMNS else end
            sums[column] += value(point) * max(edge - start, 0.0)
            start, column = edge, column + 1
    return [total / width for total in sums]


def _counts_gpus(variants: Sequence[tuple[str, Replayed]]) -> bool:
    return any(done.variant.gpus for _, done in variants)


def _use(point: Point, done: Replayed) -> float:
    if done.variant.gpus:
        return point.gpus / done.variant.gpus
    return point.cpus / done.variant.cpus if done.variant.cpus else 0.0


def _round_up(value: float) -> int:
    """The next of 1, 2, 4, 10, 20, 40 ..., which four parts of an axis show well."""
    power = int(10 ** math.floor(math.log10(max(value, 1.0))))
    return next(step * power for step in (1, 2, 4, 10) if step * power >= value)


def _frame(panel: _Panel) -> str:
    """Title, grid and numbers."""
    bottom = panel.top + _PANEL
    parts = [f'<text x="{_LEFT}" y="{panel.top - 10}" font-weight="bold">{escape(panel.title)}</text>']
    for quarter in range(5):
        value = panel.most * quarter / 4
        y = panel.y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _PANEL_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{panel.show(value)}</text>')
    size, unit = next(((s, u) for s, u in _UNITS if panel.span >= 2 * s), _UNITS[-1])
    for part in range(6):
        seconds = panel.span * part / 5
        told = f"{seconds / size:.3g} {unit}"
        parts.append(f'<text x="{panel.x(seconds):.1f}" y="{bottom + 18}" text-anchor="middle">{told}</text>')
    return "\n".join(parts)


def _line(panel: _Panel, values: Sequence[float], color: str) -> str:
    width = panel.span / len(values)
    dots = [(panel.x((n + 0.5) * width), panel.y(value)) for n, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def _legend(names: Sequence[str]) -> str:
    parts = []
    for n, name in enumerate(names):
        x = _LEFT + 160 * n
        parts.append(f'<rect x="{x}" y="14" width="18" height="6" fill="{_COLORS[n % len(_COLORS)]}"/>')
        parts.append(f'<text x="{x + 26}" y="21">{escape(name)}</text>')
    return "\n".join(parts)
