"""What a pipeline is made of: programs and Python functions, each with a descriptor in and one out.

A function runs in a thread of its own, not in a process. So it may be a lambda or a closure, it sees and
changes what the caller sees, its exception arrives with its traceback, nothing has to be pickled, and no
process with threads is forked. What that costs: functions share the GIL, so heavy work belongs into a program
(`[sys.executable, "crunch.py"]`), and a function that neither reads nor writes cannot be ended from outside.

A program is killed when its caller is, however that happens: it is started with PR_SET_PDEATHSIG (prctl(2)),
because the end of its input alone does not end `sleep` or whoever computes without reading. The kernel ties
that to the *thread* that started the program, so all are started by one thread that lives as long as the
process. It does not reach processes which the program starts itself, nor programs with the set-user-ID bit.
"""

import functools
import os
import queue
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from . import _core
from ._errors import ClosedError, ShutDown
from ._pipe_ends import PipeReader, PipeWriter

__all__ = ["Feeder", "Function", "Program", "Stage", "in_starter", "made"]

Work: TypeAlias = "Callable[[Iterable[Any]], Iterable[bytes | str] | None]"
Given: TypeAlias = "str | Sequence[str | os.PathLike[str]] | Work"

SIGPIPE = -int(signal.SIGPIPE)
"""Exit code of a stage that ended because nobody read on: nothing has failed."""
SIGTERM = -int(signal.SIGTERM)
_TOGETHER = 1 << 16
"""Bytes that a function's output gathers while there is still input to be had without waiting."""


class Stage:
    """One stage: started once, ends once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: BaseException | None = None

    @property
    def pid(self) -> int | None:
        """The process id of a program, also after its end."""
        return None

    def start(self, source: int, target: int, /, **options: Any) -> None:
        """Starts it between two descriptors."""
        raise NotImplementedError

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        raise NotImplementedError

    def wait(self, timeout: float | None) -> bool:
        """Waits for its end; False after `timeout` seconds."""
        raise NotImplementedError

    def end(self, number: int, /) -> None:
        """Sends a signal to a program."""


def made(given: "Given", number: int, of: int, *, text: bool) -> Stage:
    """The stage for what was given; errors say which one it is."""
    where = f"stage {number} of {of}"
    if isinstance(given, str):
        try:
            words = shlex.split(given)
        except ValueError as error:
            raise ValueError(f"{where}, {given!r}: {error}") from None
        if not words:
            raise ValueError(f"{where} is empty: {given!r}")
        return Program(given, words)
    if callable(given):
        return Function(given, text=text)
    if isinstance(given, (list, tuple)) and given:
        try:
            return Program(shlex.join(map(os.fspath, given)), [os.fspath(word) for word in given])
        except TypeError as error:
            raise TypeError(f"{where}, {given!r}: {error}") from None
    raise TypeError(
        f"{where} is {given!r}: a stage is a command line such as 'grep -v x', a list such as "
        "['grep', '-v', 'x'], or a function"
    )


# ------------------------------------------------------------------------------------------ programs


class Program(Stage):
    """A program, started without a shell."""

    def __init__(self, name: str, words: list[str]) -> None:
        super().__init__(name)
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, also after its end."""
        return None if self._process is None else self._process.pid

    def start(self, source: int, target: int, /, **options: Any) -> None:
        """Starts it; FileNotFoundError or PermissionError where there is no such program."""
        tie = functools.partial(_core.die_with_parent, os.getpid())
        self._process = subprocess.Popen(
            self._words,
            stdin=source,
            stdout=target,
            preexec_fn=tie,  # noqa: PLW1509 - native, takes no lock
            **options,
        )

    def poll(self) -> int | None:
        """The exit code as in `subprocess`; None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait(self, timeout: float | None) -> bool:
        """Waits for its end."""
        if self._process is not None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                return False
        return True

    def end(self, number: int, /) -> None:
        """Sends it a signal, unless it has ended."""
        if self._process is not None:
            self._process.send_signal(number)


class _Starter:
    """The thread that starts programs: it lives as long as the process, and they no longer."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.jobs: queue.SimpleQueue[tuple[Callable[[], None], _Answer]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="isthmus-pipeline-starter", daemon=True).start()

    def _run(self) -> None:
        while True:
            job, answer = self.jobs.get()
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - it is raised where the job came from
                answer.error = error
            del job
            answer.done.set()
            del answer


class _Answer:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None


_starter: _Starter | None = None
_starter_lock = threading.Lock()


def in_starter(job: Callable[[], None]) -> None:
    """Calls `job` in the thread that starts programs, and raises what it raises."""
    global _starter  # noqa: PLW0603 - one thread for the process
    with _starter_lock:
        if _starter is None or _starter.pid != os.getpid():  # threads do not survive a fork
            _starter = _Starter()
        starter = _starter
    answer = _Answer()
    starter.jobs.put((job, answer))
    try:
        answer.done.wait()
    except BaseException:
        answer.done.wait()  # Ctrl+C: it is known first what was started; that takes no time
        raise
    if answer.error is not None:
        raise answer.error


def _after_fork() -> None:
    global _starter_lock  # noqa: PLW0603 - another thread of the parent may hold it
    _starter_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


# ------------------------------------------------------------------------------------------ functions


class _Threaded(Stage):
    """What runs in a thread: reads a pipe, writes a pipe, and closes both at its end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._thread: threading.Thread | None = None
        self._code: int | None = None
        self._ends: tuple[PipeReader[Any] | PipeWriter[Any], ...] = ()
        self._ended = False
        self.read = self.written = 0

    def poll(self) -> int | None:
        """0, 1 when it raised, -13 when nobody read on, -15 when it was ended; None while it runs."""
        return self._code

    def wait(self, timeout: float | None) -> bool:
        """Waits for its end."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def end(self, _number: int, /) -> None:
        """Closes what it reads and writes; what it waits for there ends then."""
        self._ended = True
        for end in self._ends:
            end.close()

    def _begin(self, work: Callable[[], int], *ends: PipeReader[Any] | PipeWriter[Any]) -> None:
        self._ends = ends

        def run() -> None:
            code = 1
            try:
                code = work()
            except ClosedError as error:
                if self._ended:  # by the pipeline, which closed what this reads and writes
                    code = SIGTERM
                else:
                    self.error = error
            except BaseException as error:  # noqa: BLE001 - it is raised as the cause of StageFailed
                self.error = error
            finally:
                for end in ends:
                    end.close()
                self._code = code

        self._thread = threading.Thread(target=run, name=f"isthmus-pipeline {self.name}", daemon=True)
        self._thread.start()


class Function(_Threaded):
    """A Python function that takes an iterator of lines and gives what goes to the next stage."""

    def __init__(self, function: "Work", *, text: bool) -> None:
        super().__init__(getattr(function, "__name__", None) or repr(function))
        self._function = function
        self._text = text

    def start(self, source: int, target: int, /, **_options: Any) -> None:
        """Starts the thread; both descriptors are its own from now on."""
        reader: PipeReader[Any] = PipeReader(source)
        writer: PipeWriter[Any] = PipeWriter(target)
        self._begin(lambda: self._work(reader, writer), reader, writer)

    def _work(self, reader: PipeReader[Any], writer: PipeWriter[Any]) -> int:
        waiting: list[bytes] = []
        size = 0
        at_hand = False

        def flush() -> bool:
            nonlocal size
            data = b"".join(waiting)
            waiting.clear()
            size = 0
            try:
                self.written += writer.write(data)
            except ShutDown:
                return False
            return True

        def lines() -> Iterator[Any]:
            nonlocal at_hand
            while True:
                if waiting and not flush():
                    raise _NobodyReadsError
                batch = reader._bytes(reader._lines, None)
                if not batch:
                    return
                self.read += sum(map(len, batch))
                at_hand = True
                last = batch.pop()
                for line in batch:
                    yield line.decode() if self._text else line
                at_hand = False
                yield last.decode() if self._text else last

        output = None
        try:
            output = self._function(lines())
            for piece in output or ():
                data = encoded(piece, self.name)
                waiting.append(data)
                size += len(data)
                # While input is at hand, output goes in larger pieces. What is waited for never waits here.
                if (size >= _TOGETHER or not at_hand) and not flush():
                    return SIGPIPE
            return 0 if flush() else SIGPIPE
        except _NobodyReadsError:
            return SIGPIPE
        finally:
            if close := getattr(output, "close", None):
                close()


class _NobodyReadsError(Exception):
    """Ends a function whose output nobody reads, from inside its input."""


def encoded(piece: object, name: str) -> bytes:
    """A piece of output as bytes: text in UTF-8, buffers as they are."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"{name} gave {piece!r}: what goes through a pipeline is bytes or str")


class Feeder(_Threaded):
    """Writes what was given as `input`: bytes, text, or pieces of them one after the other."""

    def __init__(self, given: Any) -> None:
        super().__init__("the input")
        self._given = (given,) if isinstance(given, (bytes, str, bytearray, memoryview)) else given

    def start(self, _source: int, target: int, /, **_options: Any) -> None:
        """Starts the thread; `target` is its own from now on."""
        writer: PipeWriter[Any] = PipeWriter(target)
        self._begin(lambda: self._work(writer), writer)

    def _work(self, writer: PipeWriter[Any]) -> int:
        pieces = iter(self._given)
        try:
            for piece in pieces:
                self.written += writer.write(encoded(piece, self.name))
        except ShutDown:
            return SIGPIPE
        finally:
            if close := getattr(pieces, "close", None):
                close()
        return 0
