"""What can go wrong between a client and its platform, with the exit code that the command line gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SUBMISSION = frozenset({"USAGE", "RESOURCE"})


class ClientError(Exception):
    """A request that did not do what was asked.

    `status` is the HTTP status, 0 when there was no answer; `code` the platform's word for the kind of error;
    `problems` the mistakes of a workflow file, each with `line`, `column`, `source`, `message` and `hint`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        workflow_id: str = "",
        problems: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.workflow_id, self.problems = status, code, workflow_id, tuple(problems)

    @property
    def exit_code(self) -> int:
        """1 a submission that was refused, 2 another mistake of the user, 10 no or a broken answer, 75 too busy."""
        if self.status == 429:
            return 75
        if self.status == 507:  # no room for new work: a refusal, and the platform is well
            return 1
        if self.status == 0 or self.status >= 500:
            return 10
        named_by_a_file = self.code == "CREDENTIAL" and bool(self.problems)
        return 1 if self.code in _SUBMISSION or named_by_a_file else 2


class Unreachable(ClientError):
    """Nothing answers at the address."""
