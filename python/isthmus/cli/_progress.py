"""What the demo shows while it runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from isthmus.cli._show import EXTRA_HINT, has_rich, is_terminal, say, size

if TYPE_CHECKING:
    from collections.abc import Iterator


class Rates:
    """Speeds over the last second or so."""

    def __init__(self, started: float = 0.0, window: float = 1.5) -> None:
        self._window = window
        self._points: deque[tuple[float, int, int]] = deque([(started, 0, 0)])

    def add(self, now: float, messages: int, count: int) -> tuple[float, float]:
        """Note how far things are; return messages and bytes a second."""
        self._points.append((now, messages, count))
        while len(self._points) > 2 and now - self._points[0][0] > self._window:
            self._points.popleft()
        then, messages_then, count_then = self._points[0]
        passed = now - then
        if passed <= 0:
            return 0.0, 0.0
        return (messages - messages_then) / passed, (count - count_then) / passed


class View:
    """The plain view: one line on a long run every `every` seconds, without control characters."""

    every = 10.0

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._title = ""
        self._unit = ""
        self._total: int | None = None
        self._next = 0.0
        self._rates = Rates()

    def start(self, title: str, unit: str = "messages") -> None:
        """Begin a part of the work, which goes by messages of some kind."""
        now = time.monotonic()
        self._unit = unit
        self._title, self._total, self._rates, self._next = title, None, Rates(now), now + self.every
        self._started()

    def total(self, count: int) -> None:
        """Tell how many bytes there are to do."""
        self._total = count

    def update(
        self, count: int, messages: int | None = None, depth: int | None = None, killed: int | None = None
    ) -> None:
        """Tell how far it is. May be called often."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.every
        message_rate, byte_rate = self._rates.add(now, messages or 0, count)
        text = f"{size(byte_rate)}/s"
        if messages is not None:
            text = f"{message_rate:,.0f} {self._unit}/s  {text}  depth {depth:,}"
        if killed is not None:
            text += f"  killed {killed:,}"
        self._show(count, text)

    def done(self) -> None:
        """End this part."""

    def _started(self) -> None:
        pass

    def _show(self, count: int, text: str) -> None:
        share = f" {100 * min(count, self._total) // self._total} %" if self._total else ""
        print(f"{self._title}:{share}  {size(count)}  {text}", file=self.stream, flush=True)


class BarView(View):
    """The view on a terminal, drawn by rich."""

    every = 0.1

    def __init__(self, stream: TextIO, progress: Any) -> None:
        super().__init__(stream)
        self._progress = progress
        self._task: Any = None

    def total(self, count: int) -> None:
        """Tell how many bytes there are to do."""
        super().total(count)
        self._progress.update(self._task, total=count)

    def done(self) -> None:
        """End this part with a full bar: what was skipped counts as done."""
        self._progress.update(self._task, total=1, completed=1)

    def _started(self) -> None:
        self._task = self._progress.add_task(self._title, total=None, rates="")

    def _show(self, count: int, text: str) -> None:
        total = self._total
        self._progress.update(self._task, completed=min(count, total) if total else count, rates=text)


@contextmanager
def view(stream: TextIO) -> Iterator[View]:
    """Give the view that suits `stream`."""
    if not has_rich():
        say(EXTRA_HINT)
    if not has_rich() or not is_terminal(stream):
        yield View(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rates]}"),
    )
    with Progress(*columns, console=Console(file=stream), expand=True) as progress:
        yield BarView(stream, progress)
