"""The forms in which a class comes, behind one interface: `isthmus.X`, and `isthmus.aio.X` on several loops.

Tests of the contract are written once, in the names and verbs of the sync classes, and take a `Form`:

    def test_it(form: Form) -> None:
        with form.Queue("jobs", type=bytes) as q: ...

`form.X` is any class that `isthmus` (and, with the same name, `isthmus.aio`) has, so nothing is to be added
here for a new one. In the sync form it is that class itself. In the others it is a facade: an event loop runs
in a thread of its own, and each thread of the test has a task there that does what the thread asks for, so
that whoever owns a lock is the same in every form. What is awaited is awaited there, `with` becomes
`async with`, `for` becomes `async for`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import textwrap
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop

import isthmus
import isthmus.aio
from support import PATIENCE, Peer, peers

Value = TypeVar("Value")
Job = tuple[Callable[[], Any], "concurrent.futures.Future[Any]"]

FORMS = ["sync", "asyncio", "uvloop"]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}

PAIRS = [
    ("sync", "asyncio"),
    ("asyncio", "sync"),
    ("asyncio", "uvloop"),
    ("uvloop", "asyncio"),
]
"""The form of the test's process and that of the others, where both are involved."""


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self, kind: str) -> None:
        self.loop = LOOPS[kind]()
        self._thread = threading.Thread(target=self.loop.run_forever, name=f"{kind} of a test", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Runs a coroutine there and waits for its result, or raises what it raised."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def start(self, coroutine: Coroutine[Any, Any, Value]) -> concurrent.futures.Future[Value]:
        """Runs a coroutine there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        """Cancels what runs there, and ends it."""
        self.run(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Agent:
    """The task that acts for one thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop.loop
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        loop.start(self._serve())

    async def _serve(self) -> None:
        while True:
            await self._one(*await self._jobs.get())

    @staticmethod
    async def _one(call: Callable[[], Any], answer: concurrent.futures.Future[Any]) -> None:
        try:
            result = call()
            answer.set_result(await result if inspect.isawaitable(result) else result)
        except asyncio.CancelledError as error:
            answer.set_exception(error)
            raise
        except BaseException as error:
            answer.set_exception(error)

    def do(self, call: Callable[[], Value]) -> Value:
        """Does it, awaiting what it gives where that can be awaited."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, (call, answer))
        try:
            result: Value = answer.result()
            return result
        finally:
            del answer  # its error has this frame in its traceback


class Form:
    """One form, as long as it is open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = None if name == "sync" else Loop(name)
        self._agents = threading.local()

    # Any class: `form.Queue(…)`, `form.Mutex.create(…)`.
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self.loop is None:
            return getattr(isthmus, name)
        return _Class(self, getattr(isthmus.aio, name))

    def wrap(self, handle: Any) -> Any:
        """This form of a sync handle that goes on being used."""
        return handle if self.loop is None else getattr(self, type(handle).__name__)(handle)

    def do(self, call: Callable[[], Any]) -> Any:
        """Does it in the task of the calling thread."""
        assert self.loop is not None
        agent: _Agent | None = getattr(self._agents, "agent", None)
        if agent is None:
            agent = self._agents.agent = _Agent(self.loop)
        return agent.do(call)

    def close(self) -> None:
        """Ends its loop."""
        if self.loop is not None:
            self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Class:
    """Makes facades of the objects of a class."""

    def __init__(self, form: Form, cls: type[Any]) -> None:
        self._form = form
        self._cls = cls

    def __call__(self, *args: Any, **options: Any) -> Facade:
        return Facade(self._form, self._cls(*args, **options))

    def __getattr__(self, name: str) -> Any:
        maker = getattr(self._cls, name)
        return lambda *args, **options: Facade(self._form, maker(*args, **options))


class Facade:
    """An object of `isthmus.aio` for threads, in the verbs of its sync namesake."""

    def __init__(self, form: Form, inner: Any) -> None:
        self._form = form
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not inspect.ismethod(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            return self._faced(self._form.do(lambda: value(*args, **options)))

        return call

    def __enter__(self) -> Any:
        return self._faced(self._form.do(self._inner.__aenter__))

    def __exit__(self, *error: object) -> Any:
        return self._form.do(lambda: self._inner.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        return Facade(self._form, self._inner.__aiter__())

    def __next__(self) -> Any:
        try:
            return self._form.do(self._inner.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def __repr__(self) -> str:
        return repr(self._inner)

    def _faced(self, result: Any) -> Any:
        if result is self._inner:
            return self
        if hasattr(result, "__aenter__") or hasattr(result, "__aiter__"):
            return Facade(self._form, result)
        return result


def plain(handle: Any) -> Any:
    """The sync handle in a handle of any form."""
    return handle.sync if isinstance(handle, Facade) else handle


def begin(call: Callable[[], Value]) -> concurrent.futures.Future[Value]:
    """Starts a call in a thread; `.result(PATIENCE)` waits for it."""
    future: concurrent.futures.Future[Value] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


_PRELUDE = """
import os, sys, time
sys.path.insert(0, {tests!r})
import isthmus
from forms import Form
with Form({form!r}) as form:
"""


def program(form: str, code: str) -> str:
    """`code` with a `form` in it, for a process of its own."""
    prelude = _PRELUDE.format(tests=str(Path(__file__).parent), form=form)
    return prelude + textwrap.indent(textwrap.dedent(code), "    ")


@contextlib.contextmanager
def peers_in(form: str) -> Iterator[Callable[..., Peer]]:
    """Gives a function that starts a process which runs code in the names of `form`."""
    with peers() as start:
        yield lambda code, *args: start(program(form, code), *args)


__all__ = ["FORMS", "LOOPS", "PAIRS", "Facade", "Form", "Loop", "begin", "peers_in", "plain", "program"]
