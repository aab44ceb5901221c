"""`Queue`: each message goes to one consumer, in any process. The native class does the work."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, overload

from . import _core
from ._codec import OBJECT, Codec, codec_for, known
from ._dead import DeadLetters
from ._errors import ClosedError, IncompatibleError, ShutDown, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from typing_extensions import Buffer

    from ._arrays import ArrayReservation

__all__ = ["Queue", "QueueStats"]

T = TypeVar("T")

_OBJECT = (OBJECT, "object")
_ARRAY = "numpy.ndarray"


class QueueStats(NamedTuple):
    """What is known of a queue at one moment; the numbers may be a few messages apart from each other."""

    depth: int
    """Messages inside, without those on lease."""
    put: int
    """Messages ever put."""
    got: int
    """Messages ever taken."""
    put_rate: float
    """Messages put a second, since this handle asked last (or was opened)."""
    get_rate: float
    """Messages taken a second, likewise."""
    bytes_in_use: int
    """Bytes of the capacity that are taken, headers included."""
    capacity: int
    """Bytes for messages."""
    largest: int
    """Bytes of the largest message that was ever put."""
    attached: int
    """Living processes that use the queue."""
    producers_waiting: int
    """Threads that wait for room."""
    consumers_waiting: int
    """Threads that wait for a message."""
    leased: int
    """Messages that consumers have on lease."""
    dead: int
    """Messages in `q.dead`."""


class Queue(_core.Queue, Generic[T]):
    """A queue in shared memory: each message goes to one consumer, in any process.

    `Queue(name)` opens the queue of that name in the namespace, or creates it; what exists is accepted in
    every attribute that is not given, and an attribute that differs is an `IncompatibleError`.
    `Queue.create` insists on a new one, `Queue.open` on one that exists. `Queue()` is anonymous: it reaches
    other processes by fork and by pickling.

    - `type` says what messages are. `bytes`: any contiguous buffer goes in, bytes come out. `numpy.ndarray`:
      arrays with their dtype and shape. A `msgspec.Struct`, a dataclass or a builtin type such as `dict[str,
      int]`: encoded as MessagePack and validated on receipt. `object`: anything that can be pickled; who can
      write to such a queue can run code in its consumers, so it is the default for new queues only in a
      namespace that is one user's own (elsewhere it is `bytes`), and is never taken on unasked in any other.
      A `Codec` of your own. A peer with another type is refused.
    - `capacity` is in bytes (8 MiB), reserved at once: half for messages up to 4096 bytes, half for larger
      ones.
    - `priorities` (1): levels of priority, up to 16. A message of a higher one goes first, always, so the
      lower ones may starve. Each level has an equal part of the capacity for small messages.
    - `max_deliveries` (20): how often a message is leased before it goes to `q.dead`.
    - `persistent` keeps the queue when the last process closes it, until `unlink()`.
    - With `ends_with_producers` consumers get the end when the queue is empty and the last producer has
      closed its handle, and `PeerDied` when that one was killed.
    - `namespace` is the directory; without it ISTHMUS_NAMESPACE counts, and without that the user's own.

    A handle may be used by any number of threads, and by forked children; leases, views and reservations
    belong to the process that took them.
    """

    __slots__ = ()

    # `type` may be what type[T] cannot say, such as `Job | Cancel`.
    @overload
    def __new__(
        cls,
        name: str | None = None,
        *,
        type: type[T],
        capacity: int | None = None,
        priorities: int | None = None,
        max_deliveries: int | None = None,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> "Queue[T]": ...
    @overload
    def __new__(
        cls,
        name: str | None = None,
        *,
        type: Any = None,
        capacity: int | None = None,
        priorities: int | None = None,
        max_deliveries: int | None = None,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> "Queue[Any]": ...
    def __new__(
        cls,
        name: str | None = None,
        *,
        type: Any = None,
        capacity: int | None = None,
        priorities: int | None = None,
        max_deliveries: int | None = None,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Any:
        asked = (capacity, priorities, max_deliveries, persistent, ends_with_producers)
        return _made(cls, name, "open_or_create", type, asked, namespace)

    @overload
    @classmethod
    def create(
        cls,
        name: str,
        *,
        type: type[T],
        capacity: int | None = None,
        priorities: int | None = None,
        max_deliveries: int | None = None,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> "Queue[T]": ...
    @overload
    @classmethod
    def create(
        cls,
        name: str,
        *,
        type: Any = None,
        capacity: int | None = None,
        priorities: int | None = None,
        max_deliveries: int | None = None,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> "Queue[Any]": ...
    @classmethod
    def create(
        cls,
        name: str,
        *,
        type: Any = None,
        capacity: int | None = None,
        priorities: int | None = None,
        max_deliveries: int | None = None,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Creates the queue; `FileExistsError` where the name is taken."""
        asked = (capacity, priorities, max_deliveries, persistent, ends_with_producers)
        return _made(cls, name, "create", type, asked, namespace)

    @overload
    @classmethod
    def open(
        cls, name: str, *, type: type[T], namespace: str | os.PathLike[str] | None = None
    ) -> "Queue[T]": ...
    @overload
    @classmethod
    def open(
        cls, name: str, *, type: Any = None, namespace: str | os.PathLike[str] | None = None
    ) -> "Queue[Any]": ...
    @classmethod
    def open(cls, name: str, *, type: Any = None, namespace: str | os.PathLike[str] | None = None) -> Any:
        """Opens a queue that exists; `FileNotFoundError` where there is none."""
        return _made(cls, name, "open", type, _NOTHING, namespace)

    # What the native class does, in the types of this queue.
    if TYPE_CHECKING:

        def put(
            self,
            message: T | Buffer,
            timeout: float | None = None,
            *,
            priority: int = 0,
            until: Literal["received", "done"] | None = None,
        ) -> None: ...
        def get(self, timeout: float | None = None) -> T: ...
        def put_many(
            self, messages: Iterable[T | Buffer], timeout: float | None = None, *, priority: int = 0
        ) -> int: ...
        def get_many(self, limit: int, timeout: float | None = None) -> list[T]: ...
        def __next__(self) -> T: ...

    @overload
    def reserve(
        self: "Queue[bytes]", shape: int, *, timeout: float | None = None, priority: int = 0
    ) -> _core.Reservation: ...
    @overload
    def reserve(
        self: "Queue[np.ndarray[Any, Any]]",
        shape: int | tuple[int, ...],
        dtype: Any = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
    ) -> "ArrayReservation": ...
    @overload
    def reserve(
        self: "Queue[Any]",
        shape: int | tuple[int, ...],
        dtype: Any = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Any: ...
    def reserve(
        self,
        shape: int | tuple[int, ...],
        dtype: Any = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Any:
        """Memory for one message, to be filled in place: `with q.reserve(n) as block:`.

        A queue of bytes takes the size in bytes, and `block` is a writable memoryview; a queue of arrays
        takes shape and dtype (float64), and `block` is such an array, not initialised. Leaving the block
        normally puts the message; an exception gives the memory back. `shorten(n)` of the reservation of
        bytes puts only the first n bytes. Once put, the message is its consumer's: do not write to it through
        arrays made before.

        Waits up to `timeout` seconds for memory, and again for its place in the queue. Raises what `put`
        raises. Should this process be killed, the memory comes back.
        """
        return self._reservation(shape, dtype, timeout, priority)

    def _reservation(
        self, shape: Any, dtype: Any, timeout: float | None, priority: int, within: Any = None
    ) -> Any:
        # `within` is how long to wait for the memory where that differs: event loops do not wait.
        kind = self._type()[1]
        if kind == _ARRAY:
            from ._arrays import ArrayReservation

            return ArrayReservation(self, shape, dtype, timeout, priority, within)
        if kind != "bytes":
            raise Unsupported(f"reserve works on queues of bytes and of arrays; this one is of {kind}")
        if dtype is not None or not isinstance(shape, int):
            raise TypeError(f"a queue of bytes reserves a number of bytes, not {shape!r} of dtype {dtype!r}")
        return self._reserve(shape, timeout, priority, within)

    def views(self) -> Iterator[Any]:
        """Iterates over `get_view()`; ends as iteration over the queue does."""
        while True:
            try:
                view = self.get_view()
            except ShutDown:
                return
            yield view
            # Not to be held while waiting for the next one.
            del view

    def leases(self) -> Iterator[_core.Lease]:
        """Iterates over `lease()`: `for job in q.leases():` and in it `with job:`.

        Ends when the queue has ended and no message of it is on lease anywhere: what others give back is
        still handed out.
        """
        while True:
            try:
                lease = self.lease()
            except ShutDown:
                return
            yield lease
            del lease

    @property
    def type(self) -> Any:
        """What messages are: `bytes`, `object`, `numpy.ndarray`, the class or the `Codec` that was given."""
        source = self._source()
        return bytes if source is None else source

    @property
    def dead(self) -> DeadLetters:
        """The messages that nobody could use."""
        return DeadLetters(self)

    def stats(self) -> QueueStats:
        """Depth, counts, rates, memory, and how many are attached and wait.

        Gives back first what dead processes held.
        """
        *numbers, (leased, dead) = self._stats()
        return QueueStats._make((*numbers, leased, dead))

    def __del__(self) -> None:
        # A handle that is only dropped is closed, and warns of messages that go with it.
        self.close()

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        # A named queue is reopened by its name. An anonymous one is opened through this process, which has
        # to live until then.
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        namespace, name, fd, nonce = self._place()
        place = None if name is not None else (os.getpid(), fd, nonce)
        return _reopen, (type(self), os.fspath(namespace), name, place, self._source())


_NOTHING = (None, None, None, None, None)


def _made(
    cls: type[Any],
    name: str | None,
    mode: Literal["open_or_create", "create", "open"],
    kind: Any,
    asked: tuple[int | None, int | None, int | None, bool | None, bool | None],
    namespace: str | os.PathLike[str] | None,
    adopt: tuple[int, int, int] | None = None,
) -> Any:
    if isinstance(name, str) and "://" in name:
        scheme, _, rest = name.partition("://")
        if scheme != "shm":
            return _elsewhere(scheme)(name, mode, kind, asked, namespace)
        name = rest
    codec = None if kind is None else codec_for(kind)
    wanted = None if kind is None else _identity(codec)
    capacity, priorities, max_deliveries, persistent, ends = asked
    queue = _core.Queue.__new__(
        cls,
        name,
        mode,
        capacity,
        priorities,
        max_deliveries,
        wanted,
        _OBJECT,
        persistent,
        ends,
        namespace,
        adopt,
    )
    if kind is None:
        fingerprint, found, private = queue._type()
        try:
            codec = known(fingerprint)
        except LookupError:
            raise IncompatibleError(
                f"the queue's messages are of type {found}: give type= to open it (a type of the same fields)"
            ) from None
        if fingerprint == OBJECT and not private:
            raise Unsupported(
                "the queue's messages are pickles, and others than this user can put them there: unpickling "
                "runs what they send; give type=object if you trust them all"
            )
    if codec is not None:
        queue._use(codec.made_of, codec)
    return queue


# By the scheme of the URL: the module whose `from_url(url, mode, type, asked, namespace)` makes the queue.
_SCHEMES = {"posix-mq": "posix_mq"}


def _elsewhere(scheme: str) -> Any:
    try:
        module = _SCHEMES[scheme]
    except KeyError:
        known = ", ".join(f"{scheme}://" for scheme in ("shm", *_SCHEMES))
        raise ValueError(
            f"no queue is made by {scheme}://: {known} are known, and a bare name is a queue in shared memory"
        ) from None
    from importlib import import_module

    return import_module(f".{module}", __package__).from_url


def _identity(codec: Codec | None) -> tuple[int, str]:
    return (0, "bytes") if codec is None else (codec.fingerprint, codec.name)


def _reopen(
    cls: type[Queue[Any]], namespace: str, name: str | None, place: tuple[int, int, int] | None, kind: Any
) -> Queue[Any]:
    return _made(cls, name, "open", kind, _NOTHING, namespace, place)  # type: ignore[no-any-return]
