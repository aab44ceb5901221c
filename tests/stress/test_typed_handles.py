"""Queues with a type, priorities and limits go to other processes with all of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import isthmus
from queues import MIB
from support import Peer, run_python

Start = Callable[..., Peer]

SCRIPT = """
import multiprocessing, os, sys, warnings
import msgspec, numpy as np
import isthmus

warnings.simplefilter("ignore", DeprecationWarning)


class Job(msgspec.Struct):
    number: int
    name: str = ""


class Cancel(msgspec.Struct, tag=True):
    number: int


def encode(value):
    return b"mine" + repr(value).encode()


def decode(buffer):
    text = bytes(buffer)
    assert text[:4] == b"mine"
    return eval(text[4:])


MINE = isthmus.Codec("mine/1", encode, decode)


def work(jobs, arrays, anything, mine):
    assert (jobs.priorities, jobs.max_deliveries, jobs.capacity) == (3, 7, 1 << 20)
    for lease in jobs.leases():
        with lease as job:
            assert type(job.message) is Job, job.message
            assert job.priority == job.message.number % 3
            assert job.sender == os.getppid() or sys.argv[1] == "forkserver"
            with arrays.reserve((2, job.message.number), "i4") as array:
                array[:] = job.message.number
            anything.put({"who": os.getpid(), "what": job.message}, until="received")
            mine.put([job.message.number, job.message.name])
    try:
        jobs.put(Job("no number"))
    except isthmus.ShutDown:
        pass
    for queue in (jobs, arrays, anything, mine): queue.close()


def main(method, name):
    context = multiprocessing.get_context(method)
    name = None if name == "anonymous" else name
    jobs = isthmus.Queue(name, type=Job, capacity=1 << 20, priorities=3, max_deliveries=7)
    arrays = isthmus.Queue(name and name + ".arrays", type=np.ndarray, capacity=1 << 20)
    anything = isthmus.Queue(name and name + ".anything", type=object, capacity=1 << 20)
    mine = isthmus.Queue(name and name + ".mine", type=MINE, capacity=1 << 20)
    worker = context.Process(target=work, args=(jobs, arrays, anything, mine))
    for number in range(30):
        jobs.put(Job(number, f"job {number}"), priority=number % 3)
    worker.start()
    order = sorted(range(30), key=lambda number: -(number % 3))
    for number in order:
        array = arrays.get(timeout=30)
        assert array.shape == (2, number) and array.dtype == "i4" and (array == number).all()
        answer = anything.get(timeout=30)
        assert answer == {"who": worker.pid, "what": Job(number, f"job {number}")}
        assert mine.get(timeout=30) == [number, f"job {number}"]
    jobs.shutdown()
    worker.join(30)
    assert worker.exitcode == 0, worker.exitcode
    assert jobs.stats()[-2:] == (0, 0)
    for queue in (jobs, arrays, anything, mine): queue.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", ["anonymous", "named"])
def test_a_worker_of_every_start_method_gets_type_and_priorities(
    tmp_path: Path, method: str, name: str
) -> None:
    path = tmp_path / "main.py"
    path.write_text(SCRIPT)
    direct = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(path)!r}, *sys.argv[1:]])"
    assert run_python(direct, method, name, patience=60).strip() == "ok"


# ---------------------------------------------------------------------------------------------- pickles


class Point(msgspec.Struct):
    """A message type of this module: a pickle names it."""

    x: int
    y: int


def as_text(value: Any) -> bytes:
    return repr(value).encode()


def from_text(buffer: Any) -> Any:
    return bytes(buffer).decode()


TYPES: dict[str, tuple[Any, Any]] = {
    "bytes": (bytes, b"x"),
    "object": (object, {"any": ["thing"]}),
    "array": (np.ndarray, np.arange(5)),
    "builtin": (dict[str, list[int]], {"a": [1, 2]}),
    "union": (int | str | None, "text"),
}


@pytest.fixture(params=[None, "pickled"], ids=["anonymous", "named"])
def name(request: pytest.FixtureRequest) -> Iterator[str | None]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", TYPES)
def test_a_pickle_keeps_type_levels_and_limits(name: str | None, kind: str) -> None:
    of, value = TYPES[kind]
    with isthmus.Queue(name, type=of, capacity=MIB, priorities=5, max_deliveries=3) as handle:
        handle.put(value, priority=4)
        with pickle.loads(pickle.dumps(handle)) as copy:
            assert (copy.name, copy.capacity, copy.priorities, copy.max_deliveries) == (name, MIB, 5, 3)
            with copy.lease(timeout=0) as job:
                assert (repr(job.message), job.priority) == (repr(value), 4)
            copy.put(value)
            with pickle.loads(pickle.dumps(copy)) as second:
                assert repr(second.get(timeout=0)) == repr(value)
        with pytest.raises(ValueError, match="priority is 5"):
            handle.put(value, priority=5)


def test_a_pickle_names_the_message_type(name: str | None) -> None:
    """Types are found by their name, as pickle finds anything."""
    with isthmus.Queue(name, type=Point, capacity=MIB) as handle:
        with pickle.loads(pickle.dumps(handle)) as copy:
            copy.put(Point(1, 2))
        assert handle.get(timeout=0) == Point(1, 2)
    with isthmus.Queue(name, type=isthmus.Codec("text/1", as_text, from_text), capacity=MIB) as handle:
        with pickle.loads(pickle.dumps(handle)) as copy:
            copy.put((1, 2))
        assert handle.get(timeout=0) == "(1, 2)"


def test_a_type_that_cannot_be_pickled_says_so_and_its_queue_goes_by_name() -> None:
    codec = isthmus.Codec("lambda/1", lambda value: bytes([value]), lambda buffer: buffer[0])
    with isthmus.Queue("local", type=codec, capacity=MIB) as handle:
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            pickle.dumps(handle)
        with isthmus.Queue("local", type=codec) as again:
            again.put(7)
        assert handle.get(timeout=0) == 7


def test_leases_views_and_reservations_cannot_be_sent() -> None:
    with isthmus.Queue(type=bytes, capacity=MIB) as handle:
        handle.put_many([bytes(5000)] * 2)
        with handle.lease() as job, handle.get_view() as view:
            reservation = handle.reserve(5000)
            for held in (job, view, reservation):
                with pytest.raises(TypeError, match="pickle"):
                    pickle.dumps(held)
            reservation.cancel()


def test_another_process_opens_a_typed_queue_by_name(spawn: Start) -> None:
    with isthmus.Queue("typed", type=dict[str, int], capacity=MIB, priorities=2) as handle:
        peer = spawn("""
            import isthmus
            try:
                isthmus.Queue.open("typed", type=list[int])
            except isthmus.IncompatibleError as error:
                print(error, flush=True)
            with isthmus.Queue.open("typed", type=dict[str, int]) as q:
                q.put({"low": 1})
                q.put({"high": 2}, priority=1)
        """)
        refused = peer.line()
        assert "dict[str, int]" in refused
        assert "list[int]" in refused
        peer.finish()
        assert handle.get_many(5, timeout=0) == [{"high": 2}, {"low": 1}]
