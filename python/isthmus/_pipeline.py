"""`pipeline`: programs and Python functions in a row, each reading what the one before writes; no shell.

The module has an underscore because `isthmus.pipeline` is the function.
"""

import contextlib
import io
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

from . import _descriptors as descriptors
from ._descriptors import HasFileno
from ._errors import ClosedError, Empty, NoSpaceError, StageFailed, Timeout, Unsupported
from ._pipe_ends import PipeReader
from ._stages import SIGPIPE, Feeder, Function, Given, Program, Stage, in_starter, made

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Input: TypeAlias = Buffer | str | HasFileno | Iterable[bytes | str] | None

T = TypeVar("T")

__all__ = ["Pipeline", "StageProgress", "pipeline"]

GRACE = 2.0
"""Seconds between the signals that end a stage which does not end by itself: SIGTERM, then SIGKILL."""


class StageProgress(NamedTuple):
    """How far a stage has come."""

    name: str
    """The stage as it was written."""
    pid: int | None
    """The process id of a program; None for a function."""
    running: bool
    """Whether it still runs."""
    exit_code: int | None
    """As in `subprocess`: negative for a signal. None while it runs."""
    read: int | None
    """Bytes it has read, from files too; None where the kernel does not say (a program that has ended)."""
    written: int | None
    """Bytes it has written, likewise."""


def pipeline(
    *stages: "Given",
    input: "Input" = None,
    output: int | HasFileno | None = None,
    stderr: int | HasFileno | None = None,
    text: bool = False,
    check: bool = True,
    timeout: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> "Pipeline":
    """Starts programs and Python functions in a row: `pipeline("ls -l", "grep file", total)`.

    A stage is a command line, which is split as a shell splits it but goes through no shell (no `*`, no
    `$HOME`), a list of words, or a function that takes an iterator of lines and gives an iterable of bytes or
    str for the next stage. Iterate over the result for the lines that the last stage writes, or `read()` all.

    - `input`: bytes, text, an iterable of them, or a file; without it there is none.
    - `output`, `stderr`: files to write to, instead of what one iterates over and of this process's own; or
      `subprocess.DEVNULL`. `stderr=subprocess.STDOUT` mixes it with each program's output.
    - `text`: lines are str (UTF-8), for functions too, instead of bytes.
    - `check`: at the end `StageFailed` where a stage failed. A stage that ended because the next one read no
      further has not failed.
    - `timeout`: seconds in which all has to be over; then every stage is ended, and the call that waits gets
      `Timeout`.

    FileNotFoundError names the stage whose program there is not. When this process is killed, the programs
    are too. Functions run in threads of this process.
    """
    return Pipeline(
        *stages,
        input=input,
        output=output,
        stderr=stderr,
        text=text,
        check=check,
        timeout=timeout,
        cwd=cwd,
        env=env,
    )


class Pipeline:
    """Stages at work, made by `pipeline`. Leaving its `with` block ends those that still run."""

    _reader: PipeReader[Any] | None = None
    _stages: "list[Stage]" = []  # noqa: RUF012 - stands for none where the constructor failed
    _closed = False

    def __init__(
        self,
        *stages: "Given",
        input: "Input",
        output: int | HasFileno | None,
        stderr: int | HasFileno | None,
        text: bool,
        check: bool,
        timeout: float | None,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
    ) -> None:
        if not stages:
            raise ValueError("a pipeline has at least one stage")
        if stderr == subprocess.PIPE:
            raise ValueError(
                "stderr is subprocess.PIPE, which nobody reads: give a file, or subprocess.STDOUT"
            )
        self._deadline = descriptors.deadline_of(timeout)
        self._timeout = timeout
        self._check = check
        self._text = text
        self._feeder: Feeder | None = None
        self._stages = [made(given, number, len(stages), text=text) for number, given in enumerate(stages, 1)]
        options = {"stderr": stderr, "cwd": cwd, "env": None if env is None else dict(env)}
        try:
            in_starter(lambda: self._start(input, output, options))
        except BaseException:
            self.close(grace=0.0)
            raise

    # ------------------------------------------------------------------ the start

    def _start(self, given: Any, output: Any, options: dict[str, Any]) -> None:
        """Makes the pipes and starts the stages from left to right, in the thread that starts programs."""
        owned: list[int] = []
        last = len(self._stages)
        try:
            source = self._source(given, owned)
            for number, stage in enumerate(self._stages, 1):
                if number == last and output is not None:
                    following, target = -1, _written_to(output)
                else:
                    following, target = _pipe()
                    owned.append(following)
                owned.append(target)
                try:
                    stage.start(source, target, **options)
                except OSError as error:
                    raise type(error)(
                        error.errno, f"stage {number} of {last}, {stage.name!r}: {error.strerror}"
                    ) from error
                for fd in (source, target):
                    owned.remove(fd)
                    if isinstance(stage, Program):  # it has its own copies; a function has taken them over
                        os.close(fd)
                source = following
            if source >= 0:
                self._reader = PipeReader(source)
                owned.remove(source)
        finally:
            for fd in owned:
                os.close(fd)

    def _source(self, given: Any, owned: list[int]) -> int:
        if given is None:
            fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        elif (opened := _descriptor_of(given)) is not None:
            fd = os.dup(opened)
        elif isinstance(given, int) or not hasattr(given, "__iter__"):
            raise TypeError(f"input is {given!r}: bytes, str, an iterable of them, or a file is needed")
        else:
            fd, writer = _pipe()
            self._feeder = Feeder(given)
            self._feeder.start(-1, writer)
        owned.append(fd)
        return fd

    # ------------------------------------------------------------------ what comes out

    def __iter__(self) -> Iterator[Any]:
        r"""The lines that the last stage writes, each with its "\n"; then `StageFailed` where one failed.

        `Timeout` when the pipeline's own time is up. Leaving the loop early ends the stages.
        """
        reader = self._readable()
        try:
            while lines := self._in_time(lambda timeout: reader._bytes(reader._lines, timeout), None):
                for line in lines:
                    yield line.decode() if self._text else line
            self._finish()
        finally:
            self.close()

    def readline(self, timeout: float | None = None) -> Any:
        r"""One line with its "\n"; empty at the end, and then `StageFailed` where a stage failed.

        `Empty` when no whole line came in `timeout` seconds.
        """
        line = self._in_time(self._readable().readline, timeout)
        if not line:
            self._finish()
        return line.decode() if self._text else line

    def read(self, timeout: float | None = None) -> Any:
        """Everything that the last stage writes (bytes, or str with `text`), after the end of all stages.

        `StageFailed` where one failed, `Empty` when that took more than `timeout` seconds: then everything
        still is there, and works on.
        """
        deadline = descriptors.deadline_of(timeout)
        data = self._in_time(self._readable().read_all, timeout)
        self._finish(deadline)
        return data.decode() if self._text else data

    def wait(self, timeout: float | None = None) -> list[int]:
        """Waits for the end of all stages, and gives their exit codes; what they still write is thrown away.

        `StageFailed` where one failed, `Timeout` when it takes more than `timeout` seconds.
        """
        deadline = descriptors.deadline_of(timeout)
        if self._reader is not None and not self._reader.closed:
            while self._in_time(self._reader.read, descriptors.left(deadline)):
                pass
        self._finish(deadline)
        return [code for code in self.exit_codes if code is not None]

    def fileno(self) -> int:
        """The descriptor from which the output is read, to be waited for."""
        return self._readable().fileno()

    # ------------------------------------------------------------------ how it goes

    @property
    def exit_codes(self) -> list[int | None]:
        """The exit code of each stage, from left to right: negative for a signal, None while it runs.

        A function has 0, 1 when it raised, and -13 (SIGPIPE) when the next stage read no further.
        """
        return [stage.poll() for stage in self._stages]

    @property
    def exit_code(self) -> int | None:
        """As in a shell with `pipefail`: that of the last stage that failed, 0 where none did.

        None while a stage runs. A stage that ended because the next one read no further has not failed.
        """
        failed = self._failed()
        if failed is not None:
            return failed[1]
        return None if None in self.exit_codes else 0

    def progress(self) -> list[StageProgress]:
        """How far each stage has come."""
        found = []
        for stage in self._stages:
            code = stage.poll()
            read = written = None
            if isinstance(stage, Function):
                read, written = stage.read, stage.written
            elif code is None and stage.pid is not None:
                read, written = _bytes_of(stage.pid)
            found.append(StageProgress(stage.name, stage.pid, code is None, code, read, written))
        return found

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or the output read to its end in a loop."""
        return self._closed

    # ------------------------------------------------------------------ the end

    def close(self, grace: float = GRACE) -> None:
        """Ends the stages that still run: no more output, SIGTERM, and SIGKILL after `grace` seconds.

        A function ends at its next read or write; one that does neither goes on in its thread.
        """
        if self._closed:
            return
        self._closed = True
        if self._reader is not None:
            self._reader.close()
        # Who writes gets SIGPIPE now, and the end goes from stage to stage: that takes no time.
        self._wait_all(time.monotonic() + min(grace, 0.2))
        for number in (signal.SIGTERM, signal.SIGKILL):
            for stage in self._stages:
                if stage.poll() is None:
                    stage.end(number)
            if self._wait_all(time.monotonic() + (grace if number == signal.SIGTERM else GRACE)):
                break

    def kill(self) -> None:
        """SIGKILL to every program that still runs, and closes."""
        for stage in self._stages:
            stage.end(signal.SIGKILL)
        self.close(grace=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self.close(grace=0.0)

    def __repr__(self) -> str:
        names = " | ".join(stage.name for stage in self._stages)
        return f"<isthmus.Pipeline {names}: {self.exit_codes}>"

    def _readable(self) -> PipeReader[Any]:
        if self._closed:
            raise ClosedError("this pipeline is closed")
        if self._reader is None:
            raise Unsupported("the output of this pipeline goes to a file: take wait()")
        return self._reader

    def _in_time(self, call: Callable[..., T], timeout: float | None) -> T:
        """Calls with what is left of `timeout` and of the pipeline's own time, whichever ends first."""
        whole = self._time_left()
        if whole is not None and (timeout is None or whole < timeout):
            try:
                return call(timeout=whole)
            except Empty:
                raise self._out_of_time() from None
        return call(timeout=timeout)

    def _time_left(self) -> float | None:
        return descriptors.left(self._deadline)

    def _finish_in(self, timeout: float | None) -> None:
        self._finish(descriptors.deadline_of(timeout))

    def _finish(self, deadline: float | None = None) -> None:
        """After the end of the output: waits for all stages, and raises for the one that failed."""
        ends = [end for end in (deadline, self._deadline) if end is not None]
        first = min(ends, default=None)
        if not self._wait_all(first):
            if first == self._deadline:
                raise self._out_of_time()
            raise Empty(f"not over in time: {self._running()}")
        failed = self._failed()
        if self._check and failed is not None:
            number, code = failed
            stage = self._stages[number]
            what = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with {code}"
            if stage.error is not None:
                what = f"raised {type(stage.error).__name__}: {stage.error}"
            raise StageFailed(
                f"stage {number + 1} of {len(self._stages)}, {stage.name!r}, {what}",
                stage=number + 1,
                name=stage.name,
                exit_code=code,
            ) from stage.error
        if self._check and self._feeder is not None and self._feeder.error is not None:
            raise self._feeder.error

    def _failed(self) -> tuple[int, int] | None:
        """Place and exit code of the last stage that failed."""
        codes = self.exit_codes
        for number in reversed(range(len(codes))):
            code = codes[number]
            if code and (code != SIGPIPE or number == len(codes) - 1):
                return number, code
        return None

    def _wait_all(self, deadline: float | None) -> bool:
        return all(stage.wait(descriptors.left(deadline)) for stage in self._stages)

    def _out_of_time(self) -> Timeout:
        error = Timeout(f"not over in {self._timeout:g} s, and ended: {self._running()}")
        self.close()
        return error

    def _running(self) -> str:
        names = [f"{stage.name!r}" for stage in self._stages if stage.poll() is None]
        return f"{', '.join(names)} still ran" if names else "the stages have ended, the output is not read"


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(NoSpaceError):  # then it has 64 KiB
        descriptors.set_capacity(reader, 1 << 18)
    return reader, writer


def _descriptor_of(given: Any) -> int | None:
    """That of an open file; None for what has none, such as io.BytesIO."""
    try:
        return int(given.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return None


def _written_to(output: Any) -> int:
    if isinstance(output, int) and output == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return os.dup(descriptors.fd_of(output))


def _bytes_of(pid: int) -> tuple[int | None, int | None]:
    """What a process has read and written, by the kernel's count."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None, None
    fields = dict(line.split(": ") for line in text.splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
