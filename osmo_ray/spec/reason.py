"""Why a task waits or failed, in one sentence with numbers.

Every part of the platform that holds a task back or ends it says so with a `Reason`; the command line, the API and
the console all print the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HELD = "HeldForInspection"
"""The code of a task that failed and stays."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One machine-readable code, one sentence for people, the facts behind it, and what to type next.

    Shapes: `code` is CamelCase without spaces (`NoFit`, `OutOfMemory`); `sentence` is one line and ends without a
    full stop; `evidence` maps short names to text (`{"peak": "1.9 GiB", "limit": "2 GiB"}`); `next_command` is a
    whole shell line or empty.
    """

    code: str
    sentence: str
    evidence: Mapping[str, str] = field(default_factory=dict)
    next_command: str = ""

    def to_json(self) -> dict[str, object]:
        """The wire and database form."""
        return {
            "code": self.code,
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
            "next_command": self.next_command,
        }

    def without(self, hide: Callable[[str], str]) -> Reason:
        """The same, with `hide` run over all that it says."""
        evidence = {name: hide(text) for name, text in self.evidence.items()}
        return Reason(self.code, hide(self.sentence), evidence, self.next_command)

    @staticmethod
    def from_json(value: Mapping[str, object]) -> Reason:
        """Read back what `to_json` wrote; unknown keys are ignored, so that older code reads newer rows."""
        evidence = value.get("evidence")
        return Reason(
            code=str(value.get("code", "Unknown")),
            sentence=str(value.get("sentence", "")),
            evidence={str(k): str(v) for k, v in evidence.items()} if isinstance(evidence, Mapping) else {},
            next_command=str(value.get("next_command", "")),
        )
