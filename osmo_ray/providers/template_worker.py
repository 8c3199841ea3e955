"""The program that renders templates, one request after another, in a process of its own.

It is started with Python's isolated mode, an empty environment and a limit on its memory; whoever started it kills it
when a request takes too long, and it ends itself should that somebody be gone. Standard input and output carry
requests and replies: four bytes of length, then JSON.

Request: `{"text": ..., "values": {...}}`. Reply: `{"text": ..., "lines": [...] or null}` with the line of the template
(from 0) behind every line of the text, or `{"error": ..., "kind": ..., "line": n, "known": [...]}`.

This file is run by its path, so it imports nothing of the package.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

import jinja2
from jinja2.sandbox import SandboxedEnvironment

HARD_STOP = 5.0
"""Seconds of wall time after which a request ends the process even when nobody watches it."""
_MARK = re.compile("\x03(\\d+)\x04")


def main() -> int:
    """Serve until standard input ends. The one argument is the number of bytes of memory to allow on top."""
    extra = int(sys.argv[1])
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.from_string("{% for x in [1] %}{{ x }}{% endfor %}").render()
    _limit_memory(extra)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    _send(target, {"ready": True})
    while (head := source.read(4)) and len(head) == 4:
        request = json.loads(source.read(struct.unpack(">I", head)[0]))
        signal.setitimer(signal.ITIMER_REAL, HARD_STOP)
        reply = _answer(environment, request["text"], request["values"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(target, reply)
    return 0


def _limit_memory(extra: int) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _send(target: BinaryIO, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    target.write(struct.pack(">I", len(data)) + data)
    target.flush()


def _answer(environment: SandboxedEnvironment, text: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        rendered = environment.from_string(text).render(values)
        return {"text": rendered, "lines": _lines(environment, text, values, rendered)}
    except MemoryError:
        return {"error": "the template needs too much memory", "kind": "MemoryError", "line": 0}
    except jinja2.TemplateSyntaxError as error:
        return {"error": error.message or "syntax error", "kind": type(error).__name__, "line": error.lineno}
    except RecursionError:
        return {"error": "the template calls itself too deep", "kind": "RecursionError", "line": 0}
    except Exception as error:
        message = str(error) or "failed"
        known = sorted(values) if isinstance(error, jinja2.UndefinedError) else []
        return {"error": message, "kind": type(error).__name__, "line": _line(error), "known": known}


def _line(error: Exception) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _lines(environment: SandboxedEnvironment, text: str, values: dict[str, Any], rendered: str) -> list[int] | None:
    """Where each rendered line came from: render again with a mark at the beginning of every line of plain text,
    and trust the answer only if the marks changed nothing else."""
    try:
        marked = environment.from_string(_marked(environment, text)).render(values)
    except Exception:
        return None
    if _MARK.sub("", marked) != rendered:
        return None
    found, last = [], 0
    for line in marked.split("\n"):
        marks = _MARK.findall(line)
        last = int(marks[0]) if marks else last
        found.append(last)
    return found


def _marked(environment: SandboxedEnvironment, text: str) -> str:
    parts: list[str] = []
    for line, kind, value in environment.lex(text):
        if kind == "data":
            first, *more = value.split("\n")
            value = "\n".join([first, *(f"\x03{line - 1 + n}\x04{piece}" for n, piece in enumerate(more, 1))])  # noqa: PLW2901
        parts.append(value)
    return "\x030\x04" + "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
