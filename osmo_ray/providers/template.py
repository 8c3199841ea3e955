"""Rendering the templates of strangers where they can do no harm.

A template is a program: it can loop for ever, ask for all memory, or try to reach the interpreter behind it. So it
runs in one of a few small worker processes (`template_worker`) with a sandboxed Jinja, a memory limit and nothing of
our environment; a request that takes longer than its time is answered by killing the worker. A file that holds no
template text besides the special tokens never gets that far.
"""

from __future__ import annotations

import json
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from osmo_ray.spec.document import MAX_TEXT, Section, clean, cut, suggest
from osmo_ray.spec.errors import Problem, SpecError
from osmo_ray.spec.model import WorkflowSpec
from osmo_ray.spec.reader import Written, read_section
from osmo_ray.spec.template import Rendered, defaults, overlay, shield

_WORKER = Path(__file__).with_name("template_worker.py")
_START_TIMEOUT = 30.0


class Renderer(Protocol):
    """Whatever turns a template and its values into text."""

    def render(self, text: str, values: Mapping[str, Any]) -> Rendered:
        """Raises `SpecError` with a line of `text` (from 1) when the template is at fault."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submitted file after rendering: the section `workflow` as text, and where its lines come from."""

    section: Section
    written: tuple[str, ...]
    rendered: Rendered

    def read(self) -> WorkflowSpec:
        """The workflow. Raises `SpecError` with places of the file as it was written."""
        return read_section(self.section, self.written, self.rendered)

    @property
    def file(self) -> Written:
        """For mistakes that are found later."""
        return Written(self.section, self.written, self.rendered)


def prepare(text: str, set_: Iterable[str], set_string: Iterable[str], renderer: Renderer) -> Prepared:
    """Cut a file, overlay the values, render its workflow. Raises `SpecError`."""
    text = clean(text)
    written = tuple(text.split("\n"))
    sections = cut(text)
    section = sections["workflow"]
    values = overlay(defaults(sections.get("default-values"), list(written)), set_, set_string)
    shielded = shield(section.text)
    if not shielded.active:
        rows = tuple(range(section.text.count("\n") + 1))
        return Prepared(section, written, Rendered(section.text, rows))
    try:
        rendered = renderer.render(shielded.text, values)
    except SpecError as error:
        raise SpecError([_placed(p, section, written) for p in error.problems], error.code) from None
    return Prepared(section, written, Rendered(shielded.reveal(rendered.text), rendered.lines))


def _placed(problem: Problem, section: Section, written: tuple[str, ...]) -> Problem:
    line = section.line + problem.line - 1
    if not problem.line or line > len(written):
        return problem
    source = written[line - 1]
    return Problem(problem.message, "", line, len(source) - len(source.lstrip()) + 1, source, problem.hint)


class _Worker:
    """One process. Not for use by two threads at once."""

    def __init__(self, memory: int) -> None:
        argv = [sys.executable, "-I", "-X", "utf8", str(_WORKER), str(memory)]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        if self._receive(time.monotonic() + _START_TIMEOUT) is None:
            self.kill()
            raise RuntimeError("the template renderer did not start; is jinja2 installed in this Python?")

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any] | None:
        """The reply, or None when the worker died or its time was over."""
        data = json.dumps(request, default=str).encode()
        deadline = time.monotonic() + timeout
        try:
            sent = self._send(struct.pack(">I", len(data)) + data, deadline)
            return self._receive(deadline) if sent else None
        except OSError:
            return None

    def kill(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        self._process.wait()

    def _send(self, data: bytes, deadline: float) -> bool:
        view = memoryview(data)
        while view:
            if not select.select([], [self._in], [], max(deadline - time.monotonic(), 0))[1]:
                return False
            view = view[os.write(self._in, view) :]
        return True

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        head = self._take(4, deadline)
        if head is None:
            return None
        length = struct.unpack(">I", head)[0]
        # JSON may write a character in six bytes, and line numbers come on top.
        body = self._take(length, deadline) if length <= 16 * MAX_TEXT else None
        return None if body is None else dict(json.loads(body))

    def _take(self, length: int, deadline: float) -> bytes | None:
        parts: list[bytes] = []
        while length:
            if not select.select([self._out], [], [], max(deadline - time.monotonic(), 0))[0]:
                return None
            part = os.read(self._out, min(length, 1 << 16))
            if not part:
                return None
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class ProcessRenderer:
    """At most `workers` processes, started when first needed and replaced when one had to be killed.

    `timeout` is the wall time in seconds of one rendering, `memory` the bytes of address space that it may add.
    Safe to call from many threads; a call waits for a free worker.
    """

    def __init__(self, workers: int = 2, timeout: float = 0.5, memory: int = 100 << 20) -> None:
        self._timeout, self._memory = timeout, memory
        self._closed = threading.Event()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)

    def render(self, text: str, values: Mapping[str, Any]) -> Rendered:
        """Render `text`. Raises `SpecError` that names what is wrong with it."""
        worker = self._idle.get()
        try:
            if self._closed.is_set():
                raise RuntimeError("the renderer is closed")
            worker = worker or _Worker(self._memory)
            reply = worker.ask({"text": text, "values": values}, self._timeout)
            if reply is None or reply.get("kind") in ("MemoryError", "RecursionError"):
                worker.kill()
                worker = None
        finally:
            self._idle.put(worker)
        return _result(reply, self._timeout)

    def close(self) -> None:
        """End the workers; later calls are refused."""
        self._closed.set()
        spare: list[_Worker | None] = []
        while not self._idle.empty():
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
            spare.append(None)
        for nothing in spare:
            self._idle.put(nothing)


def _result(reply: dict[str, Any] | None, timeout: float) -> Rendered:
    if reply is None:
        hint = "templates are for values and short loops; compute the rest in a task"
        raise SpecError([Problem(f"the template took longer than {timeout:g} s or too much memory", hint=hint)])
    if "error" in reply:
        raise SpecError([_problem(reply)])
    lines = reply["lines"]
    if len(reply["text"]) > MAX_TEXT:
        raise SpecError(f"the template renders to more than {MAX_TEXT >> 20} MiB")
    return Rendered(reply["text"], None if lines is None else tuple(lines))


def _problem(reply: Mapping[str, Any]) -> Problem:
    message, hint = str(reply["error"]), ""
    if reply["kind"] == "UndefinedError":
        name = message.split("'")[1] if message.count("'") >= 2 else ""
        near = suggest(name, [k for k in reply["known"] if k != name])
        give = f"give it with --set {name}=... or under default-values" if name else ""
        hint = "; or ".join(part for part in (near.rstrip("?"), give) if part)
    elif reply["kind"] == "TemplateSyntaxError":
        hint = "tokens are written without blanks: {{output}}, {{input:0}}, {{host:name}}"
    return Problem(f"template: {reply['kind']}: {message}", line=int(reply["line"] or 0), hint=hint)
