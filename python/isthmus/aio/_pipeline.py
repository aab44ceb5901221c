"""`aio.pipeline`: programs and Python functions in a row, from asyncio."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

from isthmus._errors import Timeout
from isthmus._pipeline import GRACE, StageProgress
from isthmus._pipeline import Pipeline as SyncPipeline
from isthmus._pipeline import pipeline as sync_pipeline

from ._streams import Reads

__all__ = ["Pipeline", "pipeline"]


def pipeline(*stages: Any, **options: Any) -> "Pipeline":
    """Starts programs and functions in a row, with the arguments of `isthmus.pipeline`.

    Functions are ordinary ones: they run in threads. `async for line in aio.pipeline("ls", "grep x")`.
    """
    return Pipeline(sync_pipeline(*stages, **options))


class Pipeline:
    """Stages at work. `aio.Pipeline(p)` wraps one of `isthmus.pipeline`."""

    def __init__(self, pipeline: SyncPipeline) -> None:
        self._pipeline = pipeline
        self._reads = Reads()
        if pipeline._reader is not None:
            self._reads._end = pipeline._reader

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The lines that the last stage writes; then `StageFailed` where one failed."""
        reader = self._pipeline._readable()
        try:
            while lines := await self._in_time(reader._lines, None):
                for line in lines:
                    yield line.decode() if self._pipeline._text else line
            await self._finish(None)
        finally:
            await asyncio.shield(asyncio.to_thread(self._pipeline.close))

    async def readline(self, timeout: float | None = None) -> Any:
        """One line; empty at the end, and then `StageFailed` where a stage failed."""
        line = await self._in_time(self._pipeline._readable()._line, timeout)
        if not line:
            await self._finish(None)
        return line.decode() if self._pipeline._text else line

    async def read(self, timeout: float | None = None) -> Any:
        """Everything that the last stage writes, after the end of all stages."""
        data = await self._in_time(self._pipeline._readable()._all, timeout)
        await self._finish(timeout)
        return data.decode() if self._pipeline._text else data

    async def wait(self, timeout: float | None = None) -> list[int]:
        """Waits for the end of all stages, and gives their exit codes; output is thrown away."""
        return await asyncio.to_thread(self._pipeline.wait, timeout)

    @property
    def exit_codes(self) -> list[int | None]:
        """The exit code of each stage, None while it runs."""
        return self._pipeline.exit_codes

    @property
    def exit_code(self) -> int | None:
        """That of the last stage that failed, 0 where none did; None while a stage runs."""
        return self._pipeline.exit_code

    def progress(self) -> list[StageProgress]:
        """How far each stage has come."""
        return self._pipeline.progress()

    @property
    def sync(self) -> SyncPipeline:
        """The pipeline for code that is not asynchronous."""
        return self._pipeline

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or the output read to its end in a loop."""
        return self._pipeline.closed

    def fileno(self) -> int:
        """The descriptor from which the output is read, to be waited for."""
        return self._pipeline.fileno()

    async def close(self, grace: float = GRACE) -> None:
        """Ends the stages that still run: SIGTERM, and SIGKILL after `grace` seconds."""
        await asyncio.to_thread(self._pipeline.close, grace)

    async def kill(self) -> None:
        """SIGKILL to every program that still runs, and closes."""
        await asyncio.to_thread(self._pipeline.kill)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._pipeline).replace("isthmus.", "isthmus.aio.", 1)

    async def _in_time(self, step: Any, timeout: float | None) -> Any:
        whole = self._pipeline._time_left()
        if whole is None or (timeout is not None and timeout <= whole):
            return await self._reads._until(step, timeout)
        try:
            return await self._reads._until(step, whole)
        except Timeout:
            raise await asyncio.to_thread(self._pipeline._out_of_time) from None

    async def _finish(self, timeout: float | None) -> None:
        await asyncio.to_thread(self._pipeline._finish_in, timeout)
