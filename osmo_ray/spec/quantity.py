"""Amounts and durations as users write them.

`4Gi` of memory, `30m` of time. All of T, G, M, K are binary, as in the language that people already use; no unit
means bytes, or seconds.
"""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)(TiB|Ti|T|GiB|Gi|G|MiB|Mi|M|KiB|Ki|K|B|m)?$")
_POWER = {"T": 4, "G": 3, "M": 2, "K": 1, "B": 0}
_DURATION = re.compile(r"^(\d+)(d|h|ms|us|m|s)$")
_ISO = re.compile(r"^P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def to_bytes(text: str) -> int:
    """`"4Gi"` -> 4294967296. Raises ValueError that says which units there are."""
    match = _QUANTITY.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount; write a number with one of T, G, M, K, Ti, Gi, Mi, Ki or B")
    number, unit = float(match[1]), match[2] or "B"
    if unit == "m":
        return int(number / 1000)
    return int(number * 1024 ** _POWER[unit[0]])


def to_seconds(value: str | int | float) -> float:
    """`"30m"` -> 1800.0, `"PT1H30M"` -> 5400.0; a bare number is seconds. Raises ValueError for anything else."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a duration; write for example 30m, 2h or a number of seconds")
    if isinstance(value, int | float):
        return float(value)
    match = _DURATION.match(value.strip())
    if match is None and (iso := _ISO.match(value.strip())):
        return sum(float(n or 0) * s for n, s in zip(iso.groups(), (86400, 3600, 60, 1), strict=True))
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write one number with one unit of d, h, m, s, ms or us")
    return int(match[1]) * _SECONDS[match[2]]


def show_bytes(amount: float) -> str:
    """`3221225472` -> `"3.0 GiB"`: for people, never parsed again."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def show_seconds(amount: float) -> str:
    """`3725` -> `"1h 2m"`: the two largest units, for people."""
    if amount < 60:
        return f"{amount:.1f}s" if amount < 10 else f"{amount:.0f}s"
    parts = [(int(amount // 86400), "d"), (int(amount % 86400 // 3600), "h")]
    parts += [(int(amount % 3600 // 60), "m"), (int(amount % 60), "s")]
    shown = [f"{n}{u}" for n, u in parts if n]
    return " ".join(shown[:2])
