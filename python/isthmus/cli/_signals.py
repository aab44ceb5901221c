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


class Deferring(Signals):
    """The same, for a command that does things which are done or not, and never by halves.

    `with signals.deferred:` keeps signals for its end; elsewhere they end what is going on at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deferred = _Deferred(self)

    def heed(self) -> None:
        """Make the signals end the command, when that may be."""
        for number in self._before:
            signal.signal(number, self._came)

    def _came(self, number: int, frame: object) -> None:
        if self.deferred.on:
            self.deferred.came = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self._end(number, frame)


class _Deferred:
    """The time in which signals wait."""

    def __init__(self, signals: Deferring) -> None:
        self._signals = signals
        self.on = False
        self.came = 0

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False
        if self.came:
            number, self.came = self.came, 0
            self._signals._came(number, None)  # two halves of one thing
