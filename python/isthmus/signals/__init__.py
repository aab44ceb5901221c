"""Signals without their traps: to the process that was meant, with a number, received as values.

- `send`, `sigqueue`, `stop`, `resume`, `terminate`, `wait_for_exit`: by a descriptor of the process
  (`ProcessHandle`), never by a number that may be another process's by now.
- `Receiver`, `on_signal`: signals are read, with sender and payload, none of the queued ones lost.
- `block`, `children`: signals wait while a block runs, and children do not inherit that.
- `Timer`, `Alarm`: any number of them.
- `graceful_shutdown`: SIGTERM and Ctrl+C end loops and waits cleanly.

asyncio: `isthmus.aio.signals`.
"""

from ._block import block
from ._capture import children
from ._control import Termination, resume, send, sigqueue, stop, terminate, wait_for_exit
from ._info import SignalInfo
from ._receiver import Receiver, on_signal
from ._shutdown import GracefulShutdown, graceful_shutdown
from ._target import ProcessHandle
from ._timers import Alarm, Timer

__all__ = [
    "Alarm",
    "GracefulShutdown",
    "ProcessHandle",
    "Receiver",
    "SignalInfo",
    "Termination",
    "Timer",
    "block",
    "children",
    "graceful_shutdown",
    "on_signal",
    "resume",
    "send",
    "sigqueue",
    "stop",
    "terminate",
    "wait_for_exit",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
