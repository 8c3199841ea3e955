"""The `osmo` program: a table of verbs, each loaded only when it is called."""

from __future__ import annotations


def main() -> int:
    """Entry point of the console script; returns the exit code."""
    raise SystemExit("osmo: not wired yet")
