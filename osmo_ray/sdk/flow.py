"""`@osmo.task` and `@osmo.workflow`: a workflow as plain Python functions.

    import osmo_ray as osmo

    @osmo.task(cpu=2, memory="2Gi")
    def fit(rate: float) -> float: ...

    @osmo.workflow
    def sweep(rates=(0.1, 0.01)):
        return best(fit.map(list(rates)))

A call of a task does one of three things. In plain Python it runs the function. While a workflow is compiled it notes
a step and gives a `Result`, a promise that other tasks may take. In a local run of a workflow it runs the function
too, except in a group, whose tasks run side by side in threads.

This file travels with the user's code into images that know nothing of this package, so it needs only the standard
library of Python 3.8.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence  # noqa: UP035

Folder = Path
"""What a task returns to hand files on: a path below `output()`, which travels with all that is below it."""


class FlowError(Exception):
    """A workflow that cannot be written down, and what to write instead."""


class Options:
    """What a task asks for. None leaves a choice to the platform."""

    _NAMES = (
        "name", "cpu", "gpu", "memory", "storage", "platform", "image", "retries", "requirements", "environment",
        "sandbox", "hold", "exit_actions", "credentials", "cache", "checkpoint",
    )  # fmt: skip

    def __init__(self, **values: Any) -> None:
        unknown = [name for name in values if name not in self._NAMES]
        if unknown:
            known = ", ".join(self._NAMES)
            raise FlowError(f"a task has no option {unknown[0]!r}; it has {known}")
        self.values: dict[str, Any] = {k: v for k, v in values.items() if v is not None}

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def over(self, values: dict[str, Any]) -> Options:
        """These options with others laid over them."""
        return Options(**{**self.values, **values})


class Task:
    """A function that can be a step of a workflow."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options_ = options

    @property
    def name(self) -> str:
        return str(self.options_.get("name") or self.function.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = _run.get()
        if run is None:
            return self.function(*args, **kwargs)
        try:
            bound = inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.function.__name__}(): {error}") from None
        return run.call(self, bound.args, bound.kwargs)

    def map(self, *parts: Iterable[Any], **shared: Any) -> list[Any]:
        """One step for each element of a list (or of several, side by side); `shared` goes to all of them."""
        for part in parts:
            if isinstance(part, Result):
                raise FlowError(
                    f"{self.name}.map() needs a list whose length is known before the workflow runs, and "
                    f"{part._told()} is known only when it does. Map over a list of the workflow's own arguments, or "
                    f"let one task go through the whole result."
                )
        rows = list(zip(*parts))  # noqa: B905
        made = [self(*values, **shared) for values in rows]
        run = _run.get()
        if run is not None:
            run.mapped(self, made, rows)
        return made

    def options(self, **values: Any) -> Task:
        """The same task asking for something else: `fit.options(gpu=1)(data)`."""
        return Task(self.function, self.options_.over(values))

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now, as it is, with a fresh `output()`."""
        with _output_folder():
            return self.function(*args, **kwargs)


class Workflow:
    """A function that calls tasks."""

    def __init__(self, function: Callable[..., Any], name: str | None, timeout: Any | None) -> None:
        functools.update_wrapper(self, function)
        self.function, self.timeout = function, timeout
        self.name = name or function.__name__.replace("_", "-")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Within another workflow its steps become steps of that one; elsewhere it runs here."""
        return self.function(*args, **kwargs)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run the whole workflow in this process, without a platform."""
        local = LocalRun()
        with running(local):
            return local.resolve(self.function(*args, **kwargs))


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a function a task. Options: `cpu`, `gpu`, `memory`, `storage`, `platform`, `image`, `retries`,
    `requirements`, `environment`, `sandbox`, `hold`, `exit_actions`, `credentials`, `cache`, `checkpoint` (a list of
    `{"path": ..., "url": ..., "frequency": seconds or "30m"}`), `name`."""
    found = Options(**options)
    return (lambda f: Task(f, found)) if function is None else Task(function, found)


def workflow(function: Callable[..., Any] | None = None, *, name: str | None = None, timeout: Any | None = None) -> Any:
    """Make a function a workflow. `timeout` is how long it may run: seconds, or a text such as `2h`."""
    return (lambda f: Workflow(f, name, timeout)) if function is None else Workflow(function, name, timeout)


def gather(*results: Any) -> list[Any]:
    """Several results (or lists of them) as one flat list, to hand to a task."""
    flat: list[Any] = []
    for one in results:
        flat.extend(one if isinstance(one, (list, tuple)) else [one])
    return flat


class Group:
    """Tasks that start together. The first one called is the lead, unless `lead` names another."""

    def __init__(self, name: str, lead: Task | None, barrier: bool, ignore_nonlead_status: bool) -> None:
        self.name, self.lead = name, lead
        self.barrier, self.ignore_nonlead_status = barrier, ignore_nonlead_status
        self.steps: list[Any] = []


@contextmanager
def group(
    name: str, *, lead: Task | None = None, barrier: bool = True, ignore_nonlead_status: bool = True
) -> Iterator[Group]:
    """Tasks that are called within start together and end with their lead:

    with osmo.group("train"):
        score = trainer(osmo.host(server))   # the lead: called first
        server()
    """
    made = Group(name, lead, barrier, ignore_nonlead_status)
    run = _run.get()
    if run is None:
        raise FlowError("osmo.group() belongs into a function with @osmo.workflow")
    with run.together(made):
        yield made


class Host:
    """The address of a task of the same group, known when it runs."""

    def __init__(self, task: Any) -> None:
        self.task = task


def host(task: Any) -> Any:
    """The address of another task of this group (a task, or its name), to hand to a task."""
    run = _run.get()
    if run is None:
        raise FlowError("osmo.host() belongs into a function with @osmo.workflow")
    return run.host(task)


# -- where a task leaves files

_output: contextvars.ContextVar[Path | None] = contextvars.ContextVar("osmo_output", default=None)


def output() -> Path:
    """The folder of this task that is kept. In a local run it is a fresh one for each task."""
    folder = _output.get()
    if folder is None:
        named = os.environ.get("OSMO_OUTPUT")
        folder = Path(named, "files") if named else Path(tempfile.mkdtemp(prefix="osmo-output-"))
        _output.set(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _output_folder() -> Iterator[None]:
    token = _output.set(Path(tempfile.mkdtemp(prefix="osmo-output-")))
    try:
        yield
    finally:
        _output.reset(token)


# -- results that are not there yet


class Result:
    """What a step will return. Tasks take it as an argument, whole or by a part of it (`result["x"]`, `result[0]`).

    Anything else that would look into it raises `FlowError`, since it is not there yet.
    """

    __hash__ = object.__hash__

    def __init__(self, step: Any, parts: tuple[Any, ...] = ()) -> None:
        self._step, self._parts = step, parts

    def __getitem__(self, part: Any) -> Result:
        if not isinstance(part, (str, int)) or isinstance(part, bool):
            self._refuse(f"taking {part!r} of it")
        return Result(self._step, (*self._parts, part))

    def __iter__(self) -> Iterator[Result]:
        count = None if self._parts else _length(self._step.task.function)
        if count is None:
            self._refuse("going through it in a loop (or unpacking it)")
        return iter([self[n] for n in range(count or 0)])

    def _told(self) -> str:
        return "the result of {}{}".format(self._step.name, "".join(f"[{p!r}]" for p in self._parts))

    def _refuse(self, what: str) -> None:
        advice = "put the code that looks at it into a task and hand the result to that task"
        if "loop" in what:
            advice += (
                "; for a known number of parts write task.map([...]), or annotate what the task returns "
                "(tuple[int, str]) to unpack it"
            )
        if "condition" in what:
            advice += "; a choice between tasks is a task that does the one or the other"
        raise FlowError(f"{self._told()} is not known before the workflow runs, so {what} cannot work here: {advice}")

    def __repr__(self) -> str:
        return f"<{self._told()}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refuse(f"using its attribute {name!r}")


def _refusing(name: str, what: str) -> None:
    def refuse(self: Result, *_: Any) -> Any:
        self._refuse(what)

    setattr(Result, name, refuse)


for _name in ("bool", "eq", "ne", "lt", "le", "gt", "ge", "contains"):
    _refusing(f"__{_name}__", "a condition on it")
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "and", "or"):
    _refusing(f"__{_name}__", "calculating with it")
for _name in ("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow"):
    _refusing(f"__{_name}__", "calculating with it")
for _name, _what in (
    ("len", "its length"), ("int", "making a number of it"), ("float", "making a number of it"),
    ("str", "making text of it"), ("format", "making text of it"), ("index", "making a number of it"),
    ("call", "calling it"), ("fspath", "opening it"), ("setitem", "changing it"),
):  # fmt: skip
    _refusing(f"__{_name}__", _what)


def _length(function: Callable[..., Any]) -> int | None:
    """How many parts a function returns, when it is annotated with a tuple of a known length."""
    try:
        import typing

        found = typing.get_type_hints(function).get("return")
        if typing.get_origin(found) is not tuple:
            return None
        args = typing.get_args(found)
    except Exception:  # an annotation that cannot be read here says nothing
        return None
    return None if not args or args[-1] is Ellipsis else len(args)


# -- what a call of a task does


class Run:
    """Who takes the calls of tasks: a local run here, a compiler elsewhere."""

    def call(self, task: Task, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def together(self, group: Group) -> Any:
        """A context in which calls belong to a group."""
        raise NotImplementedError

    def host(self, task: Any) -> Any:
        raise NotImplementedError

    def mapped(self, task: Task, made: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
        """These results are of one `map` over these rows of arguments."""


_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("osmo_run", default=None)


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """Calls of tasks within go to `run`."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


class _LocalStep:
    """A task of a group in a local run."""

    def __init__(self, task: Task, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.task, self.args, self.kwargs, self.name = task, args, kwargs, task.name
        self.thread: threading.Thread | None = None
        self.value: Any = None
        self.error: BaseException | None = None


class LocalRun(Run):
    """Tasks run as they are called; those of a group in threads, when the group is whole."""

    def __init__(self) -> None:
        self._group: list[_LocalStep] | None = None

    def call(self, task: Task, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self._group is not None:
            self._group.append(_LocalStep(task, args, kwargs))
            return Result(self._group[-1])
        with running(None), _output_folder():
            return task.function(*self.resolve(list(args)), **self.resolve(kwargs))

    @contextmanager
    def together(self, group: Group) -> Iterator[None]:
        self._group = []
        try:
            yield
            steps = self._group
        finally:
            self._group = None
        lead = next((s for s in steps if group.lead and s.task.function is group.lead.function), steps[0])
        for step in steps:
            step.thread = threading.Thread(target=self._one, args=(step,), daemon=True)
            step.thread.start()
        _joined(lead)  # a group ends with its lead
        if lead.error is not None:
            raise lead.error

    def _one(self, step: _LocalStep) -> None:
        with running(None), _output_folder():
            try:
                step.value = step.task.function(*self.resolve(list(step.args)), **self.resolve(step.kwargs))
            except BaseException as error:
                step.error = error

    def host(self, task: Any) -> Any:
        return "127.0.0.1"

    def resolve(self, value: Any) -> Any:
        """A value with promises of groups that have ended replaced by what came of them."""
        if isinstance(value, Result):
            _joined(value._step)
            if value._step.error is not None:
                raise value._step.error
            found = value._step.value
            for part in value._parts:
                found = found[part]
            return found
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(self.resolve(one) for one in value)
        if type(value) is dict:
            return {key: self.resolve(one) for key, one in value.items()}
        return value


def _joined(step: _LocalStep) -> None:
    if step.thread is not None:
        step.thread.join()
