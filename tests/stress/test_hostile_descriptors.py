"""No descriptors left: what needs one says so and leaves nothing behind, and what needs none goes on.

With descriptors all of it works again.
Every call is tried with none left, with one, with two … so that it fails at each of its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer

Start = Callable[..., Peer]

PRELUDE = """
import contextlib, errno, faulthandler, os, pickle, resource, signal, sys, warnings, isthmus
from pathlib import Path
warnings.simplefilter("ignore")
faulthandler.dump_traceback_later(60, exit=True)
here = Path(os.environ["ISTHMUS_NAMESPACE"])
LIMIT = 64
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))

def count():
    return len(os.listdir("/proc/self/fd"))

def names():
    return sorted(p.name for p in here.iterdir() if not p.name.startswith(".reg"))

@contextlib.contextmanager
def only(free):
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)

def each_step(call, *, needs):
    "Fails with EMFILE as long as too few are left, then works; `needs`: whether it needs any at all."
    failures = 0
    descriptors, files = count(), names()
    for free in range(12):
        try:
            with only(free):
                call()
        except OSError as error:
            failures += 1
            assert error.errno == errno.EMFILE, error
            assert "Too many open files" in str(error), error
            assert failures == free + 1, "it had worked with fewer"
    assert needs == (failures > 0), failures
    assert failures < 10
    call()
    assert count() == descriptors, (call, descriptors, count())
    assert names() == files, (call, files, names())

q = isthmus.Queue("q", type=bytes, capacity=1 << 20)
lock, number = isthmus.Mutex("lock"), isthmus.Value("number")
"""


def test_opening_and_creating(namespace: Path, spawn: Start) -> None:
    spawn(
        PRELUDE
        + """
KINDS = {
    isthmus.Queue: {"type": bytes}, isthmus.Mutex: {}, isthmus.RLock: {}, isthmus.RWLock: {},
    isthmus.Value: {},
    isthmus.Semaphore: {}, isthmus.BoundedSemaphore: {}, isthmus.Event: {}, isthmus.Condition: {},
    isthmus.Barrier: {"parties": 2}, isthmus.SharedMemory: {"size": 10_000},
}
for kind, options in KINDS.items():
    each_step(lambda: kind("new", **options).close(), needs=True)
    each_step(lambda: kind.create("new", **options).close(), needs=True)
    each_step(lambda: kind(**options).close(), needs=True)
    for handle in (kind(**options), kind("existing", **options)):
        address = pickle.dumps(handle)
        each_step(lambda: pickle.loads(address).close(), needs=True)
        if handle.name is not None:
            each_step(lambda: kind.open("existing").close(), needs=True)
        handle.close()
def unlinked():
    with isthmus.Queue("short", type=bytes) as handle:
        handle.unlink()
each_step(unlinked, needs=True)
each_step(isthmus.objects, needs=True)
each_step(isthmus.clean, needs=True)
each_step(lambda: isthmus.inspect("q"), needs=True)
each_step(lambda: isthmus.Queue("new", type=bytes, namespace=here).close(), needs=True)
"""
    ).finish(60)


def test_what_is_open_goes_on(namespace: Path, spawn: Start) -> None:
    spawn(
        PRELUDE
        + """
def messages():
    q.put(b"small"); q.put(bytes(9000)); q.put_many([b"1", b"2"])
    assert q.get() == b"small" and len(q.get_view()) == 9000 and q.get_many(5) == [b"1", b"2"]
def leases():
    q.put(bytes(9000))
    q.lease().nack("again")
    with q.lease(view=True) as job: assert job.delivery_count == 2
    q.put(b"bad"); q.lease().reject("no"); assert q.dead.get().reason == "no"
def waits():
    try: q.get(timeout=0.01)
    except isthmus.Empty: pass
    else: raise AssertionError
    assert not q.wait_readable(0.01) and q.wait_writable(0.01)
    with q.reserve(9000) as block: block[:2] = b"ab"
    assert q.get()[:2] == b"ab"
def locks():
    with lock: assert lock.locked() and lock.owner() == os.getpid()
    assert number.add(1) > 0 and repr(q) and q.stats()
for call in (messages, leases, waits, locks):
    each_step(call, needs=False)
"""
    ).finish(60)


def test_a_forked_child_without_descriptors(namespace: Path, spawn: Start) -> None:
    """It takes a slot of its own in the registry, and its death is seen, without any."""
    spawn(
        PRELUDE
        + """
for free in (0, 1, 5):
    with only(free):
        pid = os.fork()
        if pid == 0:
            q.put(b"from a child")
            assert q.get() == b"from a child"
            q.put(b"held")
            q.lease()
            lock.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        job = q.lease(timeout=10)
        assert (job.message, job.delivery_count) == (b"held", 2), job
        job.ack()
        try:
            lock.acquire(10)
        except isthmus.OwnerDied as death:
            assert death.pid == pid
        with lock.recover():
            pass
"""
    ).finish(60)


def test_a_first_use_that_failed_is_a_first_use_later(namespace: Path, spawn: Start) -> None:
    """Nothing of a namespace that could not be opened for lack of descriptors is remembered."""
    spawn(
        """
import contextlib, errno, os, resource, isthmus
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
here = Path(os.environ["ISTHMUS_NAMESPACE"])
for free in range(12):
    taken = []
    place = here / f"inner-{free}"
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for _ in range(free):
        os.close(taken.pop())
    try:
        with isthmus.Queue("q", type=bytes, namespace=place) as q:
            q.put(b"x")
            q.get()
        worked = True
    except OSError as error:
        assert error.errno == errno.EMFILE, error
        worked = False
    for descriptor in taken:
        os.close(descriptor)
    with isthmus.Queue("q", type=bytes, namespace=place) as q:
        q.put(b"x")
        assert q.get() == b"x"
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
assert worked
"""
    ).finish(60)


@pytest.mark.parametrize("free", [0, 1, 2, 3])
def test_event_loops_without_descriptors(namespace: Path, spawn: Start, free: int) -> None:
    """The first wait of a loop needs a FIFO: an error, or a wait that ends; with descriptors it works."""
    spawn(
        PRELUDE
        + f"""
import asyncio, isthmus.aio
async def main():
    jobs = isthmus.aio.Queue(q)
    with only({free}):
        q.put(b"there")
        assert await jobs.get(timeout=10) == b"there"
        for _ in range(3):
            try:
                await jobs.get(timeout=0.01)
            except isthmus.Empty:
                pass
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            else:
                raise AssertionError
    waiting = asyncio.ensure_future(jobs.get(timeout=30))
    await asyncio.sleep(0.05)
    with only({free}):
        q.put(b"late")  # whoever rings needs a descriptor too; the loop looks again by itself
        assert await waiting == b"late"
asyncio.run(main())
"""
    ).finish(60)
    isthmus.clean()
    assert [entry.name for entry in namespace.iterdir()] == [".registry"]
