"""Key figures that a task leaves in files of its output folder, as numbers that are kept with the attempt.

A file is one number, or a JSON object of numbers (which may nest). Whatever else it is, the file itself is kept like
every other output, and the log says that there was no figure in it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from osmo_ray.runtime.nolinks import opened
from osmo_ray.spec.attempt import KpiPlan

PREFIX = "kpi."
_LONGEST, _MOST = 64 << 10, 100


def figures(kpis: Sequence[KpiPlan], output: Path, say: Callable[[str], None]) -> dict[str, float]:
    """`kpi.<index>` -> number, and `kpi.<index>.<name>` for the numbers of an object. What is missing is only said."""
    found: dict[str, float] = {}
    for kpi in kpis:
        try:
            value = json.loads(_read(output, kpi.path))
        except (OSError, ValueError, RecursionError) as error:
            say(f"kpi {kpi.index} ({kpi.path}): no figure: {error}")
            continue
        numbers = dict(_numbers(PREFIX + kpi.index, value))
        if not numbers:
            say(f"kpi {kpi.index} ({kpi.path}): no figure: it is neither a number nor an object of numbers")
        found.update(numbers)
    return dict(list(found.items())[:_MOST])


def _read(output: Path, path: str) -> str:
    """A regular file below the output folder, by no link: the task wrote that folder, and this process is not in it."""
    with os.fdopen(opened(output, path, os.O_RDONLY), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise OSError(f"it has more than {_LONGEST >> 10} KiB")
    return data.decode()


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{name}.{key}", inner)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield name, float(value)
