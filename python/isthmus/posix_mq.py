"""`PosixQueue`: a message queue of the kernel, which any C program can use. The native class does it all."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, TypeVar, overload

from . import _core
from ._codec import codec_for
from ._errors import ClosedError, IncompatibleError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import TypedDict, Unpack

    from typing_extensions import Buffer

    class _Opening(TypedDict, total=False):
        priorities: int | None
        access: "Access"

    class _Creating(_Opening, total=False):
        maxsize: int | None
        message_max: int | None
        mode: int


__all__ = ["PosixQueue", "PosixQueueInfo", "PosixQueueStats", "mounted", "queues", "unlink"]

T = TypeVar("T")

SCHEME = "posix-mq://"
Mode = Literal["open_or_create", "create", "open"]
Access = Literal["r", "w", "rw"]


class PosixQueueStats(NamedTuple):
    """What is known of a queue of the kernel at one moment."""

    depth: int
    """Messages inside."""
    put: int
    """Messages that this handle has put; the kernel does not count for others."""
    got: int
    """Messages that this handle has taken."""
    put_rate: float
    """Messages this handle put a second, since it was asked last (or was opened)."""
    get_rate: float
    """Messages this handle took a second, likewise."""
    bytes_in_use: int | None
    """Bytes of the messages inside; None for a handle that only sends."""
    capacity: int
    """Bytes for messages: `maxsize` times `message_max`."""
    registered: int | None
    """Process id of who is registered for notices; None where nobody is, or for a handle that only sends."""
    producers_waiting: int
    """Calls of this handle that wait for room, of threads and tasks."""
    consumers_waiting: int
    """Calls of this handle that wait for a message, likewise."""


class PosixQueueInfo(NamedTuple):
    """One queue of the kernel, as `isthmus ls --kernel` shows it."""

    name: str
    """As C programs give it to mq_open: `/jobs`."""
    depth: int | None
    """Messages inside; None where this user may not open the queue, as in the next four."""
    maxsize: int | None
    """Most messages at a time."""
    message_max: int | None
    """Most bytes of a message."""
    bytes_in_use: int | None
    """Bytes of the messages inside."""
    registered: int | None
    """Process id of who is registered for notices; None also where nobody is."""
    uid: int
    """User id of the owner."""
    mode: int
    """Permission bits."""

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone."""
        _core.unlink_queue(self.name)


class PosixQueue(_core.PosixQueue, Generic[T]):
    """A message queue of the kernel (mq_overview(7)), which any C program can use at the other end.

    `PosixQueue("/jobs")`, or `Queue("posix-mq:///jobs")`, opens the queue or makes it; what exists is
    accepted in every attribute that is not given, and an attribute that differs is an `IncompatibleError`.
    `PosixQueue.create` insists on a new one, `PosixQueue.open` on one that exists. The queue stays, with its
    messages, until `unlink()` or a restart of the machine, whatever becomes of its users.

    - `type` says what messages are, as for `Queue`; without it they are `bytes`. The kernel does not know it:
      what another program sends is validated on receipt, and what is not of that type raises
      `InvalidMessage`, once. Take `object` (pickle) only where you trust all who may write to the queue.
    - `maxsize`: most messages at a time (10, `fs.mqueue.msg_default`). `message_max`: most bytes of a message
      (8192, `fs.mqueue.msgsize_default`). Errors name the limit in the way and how to raise it.
    - `priorities`: how many levels this handle takes, 32768 and not more. A higher one goes first, always.
    - `mode`: permission bits of a new queue, less the umask (0o600).
    - `access`: `"r"` opens for receiving, `"w"` for sending, where the queue does not allow both.

    A handle may be used by any number of threads, and by forked children; it pickles by its name. `fileno()`
    can be polled. A message is lost if the process that has just taken it is killed: leases are for queues
    in shared memory, `Queue(name)`.
    """

    __slots__ = ()

    # `type` may be what type[T] cannot say, such as `Job | Cancel`.
    @overload
    def __new__(cls, name: str, *, type: type[T], **options: "Unpack[_Creating]") -> "PosixQueue[T]": ...
    @overload
    def __new__(cls, name: str, *, type: Any = ..., **options: "Unpack[_Creating]") -> "PosixQueue[Any]": ...
    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str,
        *,
        type: Any = bytes,
        maxsize: int | None = None,
        message_max: int | None = None,
        priorities: int | None = None,
        mode: int = 0o600,
        access: Access = "rw",
    ) -> Any:
        return _made(cls, "open_or_create", name, type, maxsize, message_max, priorities, mode, access)

    @overload
    @classmethod
    def create(cls, name: str, *, type: type[T], **options: "Unpack[_Creating]") -> "PosixQueue[T]": ...
    @overload
    @classmethod
    def create(cls, name: str, *, type: Any = ..., **options: "Unpack[_Creating]") -> "PosixQueue[Any]": ...
    @classmethod
    def create(
        cls,
        name: str,
        *,
        type: Any = bytes,
        maxsize: int | None = None,
        message_max: int | None = None,
        priorities: int | None = None,
        mode: int = 0o600,
        access: Access = "rw",
    ) -> Any:
        """Makes the queue; `FileExistsError` where the name is taken."""
        return _made(cls, "create", name, type, maxsize, message_max, priorities, mode, access)

    @overload
    @classmethod
    def open(cls, name: str, *, type: type[T], **options: "Unpack[_Opening]") -> "PosixQueue[T]": ...
    @overload
    @classmethod
    def open(cls, name: str, *, type: Any = ..., **options: "Unpack[_Opening]") -> "PosixQueue[Any]": ...
    @classmethod
    def open(
        cls, name: str, *, type: Any = bytes, priorities: int | None = None, access: Access = "rw"
    ) -> Any:
        """Opens a queue that exists; `FileNotFoundError` where there is none."""
        return _made(cls, "open", name, type, None, None, priorities, 0, access)

    # What the native class does, in the types of this queue.
    if TYPE_CHECKING:

        def put(
            self,
            message: T | Buffer,
            timeout: float | None = None,
            *,
            priority: int = 0,
            until: Literal["received", "done"] | None = None,
        ) -> None:
            """See the native class."""

        def get(self, timeout: float | None = None) -> T:
            """See the native class."""

        def get_with_priority(self, timeout: float | None = None) -> tuple[T, int]:
            """See the native class."""

        def put_many(
            self, messages: Iterable[T | Buffer], timeout: float | None = None, *, priority: int = 0
        ) -> int:
            """See the native class."""

        def get_many(self, limit: int, timeout: float | None = None) -> list[T]:
            """See the native class."""

        def __next__(self) -> T: ...
        def notify(self, to: int | Callable[[], object] | None, *, payload: int = 0) -> None:
            """See the native class."""

    @property
    def type(self) -> Any:
        """What messages are: `bytes`, `object`, `numpy.ndarray`, the class or the `Codec` that was given."""
        source = self._source()
        return bytes if source is None else source

    @property
    def url(self) -> str:
        """What `isthmus.Queue` takes to open it: `posix-mq:///jobs`."""
        return SCHEME + self.name

    def stats(self) -> PosixQueueStats:
        """Depth, bytes, who is registered for notices, and what this handle has put and got."""
        depth, size, registered, put, got, put_rate, get_rate, consumers, producers = self._stats()
        return PosixQueueStats(
            depth, put, got, put_rate, get_rate, size, self.capacity, registered, producers, consumers
        )

    # What the kernel has nothing for.

    @property
    def max_deliveries(self) -> NoReturn:
        """The kernel hands each message out once: `Unsupported`."""
        _unsupported("max_deliveries", "the kernel hands each message out once")

    def lease(self, timeout: float | None = None, *, view: bool = False) -> NoReturn:  # noqa: ARG002
        """The kernel forgets a message when it hands it over: `Unsupported`."""
        _unsupported("lease()", "the kernel forgets a message when it hands it over")

    def leases(self) -> NoReturn:
        """As `lease`: `Unsupported`."""
        _unsupported("leases()", "the kernel forgets a message when it hands it over")

    def get_view(self, timeout: float | None = None, *, writable: bool = False) -> NoReturn:  # noqa: ARG002
        """The kernel copies each message: `Unsupported`."""
        _unsupported("get_view()", "the kernel copies each message; get() gives it as it is")

    def views(self) -> NoReturn:
        """As `get_view`: `Unsupported`."""
        _unsupported("views()", "the kernel copies each message; iterate over the queue itself")

    def reserve(
        self,
        shape: object,  # noqa: ARG002
        dtype: Any = None,  # noqa: ARG002
        *,
        timeout: float | None = None,  # noqa: ARG002
        priority: int = 0,  # noqa: ARG002
    ) -> NoReturn:
        """The kernel copies each message: `Unsupported`."""
        _unsupported("reserve()", "the kernel copies each message; put() sends any buffer")

    def shutdown(self) -> NoReturn:
        """The kernel knows no end of a queue: `Unsupported`."""
        _unsupported("shutdown()", "the kernel knows no end of a queue; send a message that says so")

    @property
    def dead(self) -> NoReturn:
        """There are no dead letters: `Unsupported`. `InvalidMessage` carries the bytes of a bad message."""
        _unsupported("dead", "there are no dead letters; InvalidMessage carries the bytes of a bad message")

    def __repr__(self) -> str:
        return f"<isthmus.{type(self).__name__} {self.name!r}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        return _reopen, (type(self), self.name, self.type, self.priorities, self.access)


def _unsupported(what: str, why: str) -> NoReturn:
    raise Unsupported(
        f"{what} is not for queues of the kernel: {why}. isthmus.Queue(name) in shared memory has it"
    )


def _made(
    cls: type[Any],
    mode: Mode,
    name: str,
    kind: Any,
    maxsize: int | None,
    message_max: int | None,
    priorities: int | None,
    permissions: int,
    access: str,
) -> Any:
    codec = codec_for(kind)
    if name.startswith(SCHEME):
        name = name.removeprefix(SCHEME)
    queue = _core.PosixQueue.__new__(cls, name, mode, access, permissions, maxsize, message_max, priorities)
    if codec is not None:
        queue._use(codec.made_of, codec)
    return queue


def _reopen(cls: type[PosixQueue[Any]], name: str, kind: Any, priorities: int, access: Access) -> Any:
    return cls.open(name, type=kind, priorities=priorities, access=access)


def from_url(
    url: str,
    mode: Mode,
    kind: Any,
    asked: tuple[int | None, int | None, int | None, bool | None, bool | None],
    namespace: str | os.PathLike[str] | None,
) -> PosixQueue[Any]:
    """What `isthmus.Queue("posix-mq:///name?maxsize=100&message_max=512&mode=660&access=r")` gives.

    `asked` are `capacity`, `priorities`, `max_deliveries`, `persistent` and `ends_with_producers`. Of a
    capacity in bytes as many messages are made as fit, of `message_max` bytes each.
    """
    name, options = _split(url)
    capacity, priorities, max_deliveries, persistent, ends = asked
    if max_deliveries is not None:
        _unsupported("max_deliveries", "the kernel hands each message out once")
    if persistent is False:
        _unsupported("persistent=False", "the kernel keeps a queue until unlink()")
    if ends:
        _unsupported("ends_with_producers", "the kernel does not say who has a queue open")
    if namespace is not None:
        _unsupported("namespace", "queues of the kernel are in no directory")
    maxsize, message_max = options.get("maxsize"), options.get("message_max")
    size = message_max or _limit("msgsize_default", 8192)
    if capacity is not None and mode != "open":
        if maxsize is not None:
            raise ValueError(f"{url}: give maxsize or capacity={capacity}, not both")
        if capacity < size:
            raise ValueError(
                f"capacity={capacity} holds no message of {size} bytes: ask for more, or for a smaller "
                f'message_max ("{url.partition("?")[0]}?message_max=…")'
            )
        maxsize = capacity // size
    access: Any = options.get("access", "rw")
    try:
        kind = bytes if kind is None else kind
        permissions = options.get("mode", 0o600)
        return _made(PosixQueue, mode, name, kind, maxsize, message_max, priorities, permissions, access)  # type: ignore[no-any-return]
    except IncompatibleError as error:
        if capacity is not None:
            error.add_note(f"capacity={capacity} is {maxsize} messages of {size} bytes each")
        raise


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "maxsize": int,
    "message_max": int,
    "mode": lambda text: int(text, 8),
    "access": str,
}


def _split(url: str) -> tuple[str, dict[str, Any]]:
    """The name and the options in a URL."""
    place, _, query = url.partition("?")
    name = place.removeprefix(SCHEME)
    if not name.startswith("/"):
        raise ValueError(f"{url!r}: a queue of the kernel is posix-mq:///NAME, with three slashes")
    options = {}
    for option in query.split("&") if query else ():
        key, _, text = option.partition("=")
        try:
            options[key] = _OPTIONS[key](text)
        except KeyError:
            raise ValueError(f"{url!r}: {key!r} is none of {', '.join(_OPTIONS)}") from None
        except ValueError:
            raise ValueError(f"{url!r}: {key} is {text!r}, which is no number") from None
    return name, options


def _limit(which: str, otherwise: int) -> int:
    from pathlib import Path

    try:
        return int(Path("/proc/sys/fs/mqueue", which).read_text())
    except (OSError, ValueError):
        return otherwise


def unlink(name: str) -> None:
    """Removes the name of a queue, whoever made it; those who have it open go on using it.

    `FileNotFoundError` where there is none, `PermissionError` where it is another user's.
    """
    _core.unlink_queue(name.removeprefix(SCHEME))


def queues() -> list[PosixQueueInfo]:
    """The kernel's message queues that this process can see, by name.

    The kernel lists them in a file system that has to be mounted, commonly at /dev/mqueue, and only root can
    mount it; `Unsupported` where it is not.
    """
    place = mounted()
    if place is None:
        raise Unsupported(
            "the kernel's list of message queues is not mounted, and only root can do it: "
            "mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue"
        )
    found = []
    for entry in sorted(place.iterdir()):
        try:
            about = entry.stat()
        except FileNotFoundError:
            continue
        depth = maxsize = message_max = size = registered = None
        try:
            with PosixQueue.open(entry.name, access="r") as queue:
                maxsize, message_max = queue.maxsize, queue.message_max
                depth, size, registered, *_ = queue._stats()
        except FileNotFoundError:
            continue
        except OSError:
            pass  # another user's; or no descriptor is left
        mode = about.st_mode & 0o7777
        name = f"/{entry.name}"
        found.append(PosixQueueInfo(name, depth, maxsize, message_max, size, registered, about.st_uid, mode))
    return found


def mounted() -> "Path | None":
    """The folder where the kernel lists its message queues; None where that is not mounted."""
    from pathlib import Path

    # Many mounts may hide each other; the common place first.
    points = []
    for line in Path("/proc/self/mounts").read_bytes().splitlines():
        _, point, kind, *_ = line.split(b" ")
        if kind == b"mqueue":
            points.append(Path(os.fsdecode(point.decode("unicode_escape").encode("latin1"))))
    common = Path("/dev/mqueue")
    return common if common in points else points[0] if points else None
