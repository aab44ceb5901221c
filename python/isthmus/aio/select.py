"""`aio.select`: waits for the first of several things, in an event loop."""

import asyncio
import contextlib
from typing import Any

from isthmus import _core
from isthmus._select import Descriptor, Targets, Writable

from ._driver import check, until
from ._ready import ready as descriptor_ready

__all__ = ["Writable", "select"]


async def select(*things: Any, timeout: float | None = None) -> list[Any]:
    """Waits for the first of several things; those that are ready, in the order given, or [] in vain.

    Takes what `isthmus.select` takes, and the classes of `isthmus.aio`. Nothing is taken from them, cancelled
    or not.
    """
    check(timeout)
    with Targets(things) as targets:
        found = targets.found
        ready = [each.ready() for each in found]
        if not any(ready) and timeout != 0:
            tasks = [asyncio.ensure_future(_ready(each)) for each in found]
            try:
                await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)
            ready = [each.ready() for each in found]
        return [thing for thing, is_ready in zip(things, ready, strict=True) if is_ready]


async def _ready(each: Any) -> None:
    if isinstance(each, _core.Wait):
        await until(each, None)
    elif isinstance(each, Descriptor):
        await descriptor_ready(each.fd, each.events, None)
