"""The errors of what a user wrote: where, what, and what instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a workflow file.

    `line` and `column` count from 1 in the file as the user wrote it; 0 means that no place is known. `path` is the
    way through the document (`workflow.tasks[2].command`). `hint` says what to write instead and may be empty.
    """

    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    source: str = ""
    hint: str = ""

    def render(self, filename: str = "workflow") -> str:
        """The lines people read: place, message, the offending line with a caret, and the hint."""
        where = f"{filename}:{self.line}:{self.column}: " if self.line else ""
        lines = [f"{where}{self.path + ': ' if self.path else ''}{self.message}"]
        if self.source:
            lines += [f"  {self.line:>4} | {self.source}", f"       | {' ' * max(self.column - 1, 0)}^"]
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


class SpecError(ValueError):
    """A workflow file that cannot be accepted. `code` is upstream's error code (USER, USAGE, RESOURCE, CREDENTIAL,
    SUBMISSION); `problems` holds every mistake found, first one first."""

    def __init__(self, problems: list[Problem] | tuple[Problem, ...] | str, code: str = "USAGE") -> None:
        self.problems: tuple[Problem, ...] = (Problem(problems),) if isinstance(problems, str) else tuple(problems)
        self.code = code
        super().__init__("\n".join(p.render() for p in self.problems))
