"""The signals that end a command which has processes to end first."""

from __future__ import annotations

import signal
from typing import Self

from isthmus.cli._show import CommandError


class Signals:
    """The signals that end the command, so that leaving `with` blocks cleans up."""

    def __init__(self) -> None:
        self._ended = False
        ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # What was ignored when we began stays so: nohup and background jobs of a script rely on it.
        self._before = {
            number: handler for number in ending if (handler := signal.getsignal(number)) != signal.SIG_IGN
        }

    def __enter__(self) -> Self:
        self.heed()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ended or kind is KeyboardInterrupt:
            self.ignore()  # all that is left is to say so
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def heed(self) -> None:
        """Make SIGTERM and SIGHUP end the command as Ctrl+C does."""
        for number in self._before:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else self._end)

    def ignore(self) -> None:
        """Let nothing disturb the cleaning up, which is short."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _end(self, number: int, _: object) -> None:
        self._ended = True
        raise CommandError(f"ended by {signal.Signals(number).name}", 128 + number)
