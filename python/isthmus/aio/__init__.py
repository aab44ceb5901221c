"""asyncio: the same names and the same verbs, awaited.

`aio.X(x)` wraps a handle that sync code goes on using; `aio.X(name, …)` opens or creates one. What may wait
is awaited; what never waits is called as in `isthmus` itself. Works on asyncio's own loops and on uvloop, any
number of loops in a process, one a thread. No thread is started.
"""

from .mutex import Mutex
from .queue import Queue
from .select import select

__all__ = ["Mutex", "Queue", "select"]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
