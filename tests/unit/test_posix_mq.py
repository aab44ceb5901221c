"""`Queue("posix-mq:///name")`: the kernel's queue under the interface of `Queue`."""

from __future__ import annotations

import gc
import os
import pickle
import queue
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import isthmus
from isthmus import posix_mq
from kernel_peers import fresh_name
from support import PATIENCE


class Job(msgspec.Struct):
    id: int
    path: str = ""


# ---------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("size", [0, 1, 64, 511, 512])
def test_a_message_of_any_size_comes_back_as_the_same_bytes(mq: isthmus.PosixQueue[bytes], size: int) -> None:
    message = os.urandom(size)
    mq.put(message)
    assert mq.get() == message
    mq.put(bytearray(message))
    mq.put(memoryview(message))
    assert mq.get_many(9) == [message, message]


def test_a_message_that_can_never_fit_is_refused_with_both_sizes(mq: isthmus.PosixQueue[bytes]) -> None:
    with pytest.raises(isthmus.TooLarge, match=r"513 bytes.*message_max=512.*msgsize_max") as caught:
        mq.put(bytes(513))
    assert (caught.value.size, caught.value.limit) == (513, 512)
    assert mq.empty()


def test_higher_priorities_go_first_and_equal_ones_in_order(mq: isthmus.PosixQueue[bytes]) -> None:
    for priority, message in ((1, b"a"), (32_767, b"b"), (0, b"c"), (1, b"d")):
        mq.put(message, priority=priority)
    assert mq.get_with_priority() == (b"b", 32_767)
    assert mq.get_many(9) == [b"a", b"d", b"c"]
    assert mq.priorities == 32_768


def test_a_priority_that_is_none_is_refused_with_the_range(
    mq: isthmus.PosixQueue[bytes], mq_name: str
) -> None:
    for priority in (-1, 32_768, 1 << 40):
        with pytest.raises(ValueError, match=f"{priority}.*0 to 32767"):
            mq.put(b"", priority=priority)
        with pytest.raises(ValueError, match=f"{priority}.*0 to 32767"):
            mq.put_many([b""], priority=priority)
    with isthmus.PosixQueue.open(mq_name, priorities=3) as few:
        few.put(b"", priority=2)
        with pytest.raises(ValueError, match="0 to 2"):
            few.put(b"", priority=3)
    assert mq.qsize() == 1


def test_many_in_one_call(mq: isthmus.PosixQueue[bytes]) -> None:
    assert mq.put_many([b"1", b"2", b"3"]) == 3
    assert mq.get_many(2) == [b"1", b"2"]
    assert mq.get_many(2, 0) == [b"3"]
    assert mq.put_many(iter([b"4"]), priority=5) == 1
    assert mq.get_with_priority() == (b"4", 5)
    assert mq.put_many([]) == 0
    for limit in (0, -1):
        with pytest.raises(ValueError, match=str(limit)):
            mq.get_many(limit)


def test_put_many_says_how_many_were_sent(mq: isthmus.PosixQueue[bytes]) -> None:
    with pytest.raises(isthmus.Full) as full:
        mq.put_many([b"m"] * 6, timeout=0)
    assert full.value.sent == 4
    assert mq.get_many(9) == [b"m"] * 4
    for bad, error in ((bytes(513), isthmus.TooLarge), ("text", TypeError)):
        with pytest.raises(error) as caught:
            mq.put_many([b"m", bad])  # type: ignore[list-item]
        assert caught.value.sent == 0  # type: ignore[attr-defined]
        assert mq.empty()


def test_iteration_goes_on_as_long_as_messages_come(mq: isthmus.PosixQueue[bytes]) -> None:
    def send() -> None:
        for number in range(20):
            mq.put(b"%d" % number)

    thread = threading.Thread(target=send)
    thread.start()
    for number, message in enumerate(mq):
        assert message == b"%d" % number
        if number == 19:
            break
    thread.join()


# ---------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Job, Job(3, "x")),
        (dict[str, int], {"a": 1}),
        (str, "Grüße"),
        (int, 1 << 62),
        (object, {"any": (1, {2.5})}),
        (Job | None, None),
    ],
)
def test_types_are_encoded_and_come_back(mq_name: str, kind: Any, value: Any) -> None:
    with isthmus.PosixQueue(mq_name, type=kind) as mq:
        mq.put(value)
        assert mq.get() == value
        assert mq.put_many([value, value]) == 2
        assert mq.get_many(2) == [value, value]
        assert mq.type == kind


def test_arrays_keep_dtype_and_shape(mq_name: str) -> None:
    with isthmus.Queue(f"posix-mq://{mq_name}", type=np.ndarray) as mq:
        for array in (np.arange(12.0).reshape(3, 4), np.array([], np.int16), np.eye(5, order="F")):
            mq.put(array)
            got = mq.get()
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)
        objects = np.arange(9, dtype=object)
        objects[0] = b"x" * 40_000
        with pytest.raises(TypeError):
            mq.put(objects)


def test_a_codec_of_ones_own(mq_name: str) -> None:
    point = isthmus.Codec(
        "point/1",
        lambda p: (b"%d" % p[0], b",", b"%d" % p[1]),
        lambda m: tuple(map(int, bytes(m).split(b","))),
    )
    with isthmus.PosixQueue(mq_name, type=point) as mq, isthmus.PosixQueue.open(mq_name) as raw:
        mq.put((3, -4))
        mq.put_many([(5, 6), (7, 8)])
        assert raw.get() == b"3,-4"
        assert mq.get_many(9) == [(5, 6), (7, 8)]


def test_what_does_not_decode_is_raised_with_its_bytes_and_does_not_block(mq_name: str) -> None:
    with isthmus.PosixQueue(mq_name, type=Job) as mq, isthmus.PosixQueue.open(mq_name) as raw:
        raw.put(b"nonsense", priority=9)
        mq.put(Job(1))
        with pytest.raises(isthmus.InvalidMessage, match=r"8 bytes.*Job") as caught:
            mq.get()
        assert caught.value.data == b"nonsense"
        assert caught.value.number == 0
        assert caught.value.sender is None
        assert isinstance(caught.value.__cause__, msgspec.DecodeError)
        assert mq.get() == Job(1)


def test_a_bad_message_in_a_batch_ends_it_and_is_raised_by_the_next_call(mq_name: str) -> None:
    with isthmus.PosixQueue(mq_name, type=Job) as mq, isthmus.PosixQueue.open(mq_name) as raw:
        mq.put_many([Job(1), Job(2)])
        raw.put(b"bad")
        mq.put_many([Job(3), Job(4)])
        assert mq.get_many(10) == [Job(1), Job(2)]
        assert mq.qsize() == 3
        assert not mq.empty()
        assert mq.wait_readable(0)
        with pytest.raises(isthmus.InvalidMessage) as caught:
            mq.get_many(10)
        assert caught.value.data == b"bad"
        assert mq.get_many(1) == [Job(3)]
        assert mq.get(0) == Job(4)
        with pytest.raises(isthmus.Empty):
            mq.get(0)


def test_messages_received_and_not_handed_over_are_warned_of(mq_name: str) -> None:
    mq = isthmus.PosixQueue(mq_name, type=Job)
    with isthmus.PosixQueue.open(mq_name) as raw:
        mq.put(Job(1))
        raw.put_many([b"bad", b"worse"])
        assert mq.get_many(10) == [Job(1)]
    with pytest.warns(ResourceWarning, match="2 messages"):
        mq.close()


def test_an_interrupted_decoder_loses_nothing(mq_name: str) -> None:
    presses = [False, True, False, False, False]

    def decode(message: Any) -> bytes:
        if presses.pop(0):
            raise KeyboardInterrupt
        return bytes(message)

    codec = isthmus.Codec("pressed/1", bytes, decode)
    with isthmus.PosixQueue(mq_name, type=codec) as mq:
        mq.put_many([b"1", b"2", b"3"])
        with pytest.raises(KeyboardInterrupt):
            mq.get_many(3)
        assert mq.get_many(3) == [b"1", b"2", b"3"]
        presses[:] = [True, False]
        mq.put(b"4")
        with pytest.raises(KeyboardInterrupt):
            mq.get()
        assert mq.get() == b"4"


def test_a_value_of_another_type_is_refused_before_it_is_sent(mq_name: str) -> None:
    with isthmus.PosixQueue(mq_name, type=Job) as mq:
        wrong: Any = {"id": 3}
        with pytest.raises(TypeError, match="Job"):
            mq.put(wrong)
        assert mq.empty()


# ---------------------------------------------------------------------------------------- time


def test_empty_and_full_are_also_the_builtin_errors(mq: isthmus.PosixQueue[bytes]) -> None:
    with pytest.raises(queue.Empty) as empty:
        mq.get(0)
    assert isinstance(empty.value, isthmus.Empty)
    mq.put_many([b""] * 4)
    with pytest.raises(queue.Full, match=r"takes 4 \(maxsize\)") as full:
        mq.put(b"", 0)
    assert isinstance(full.value, isthmus.Full)
    assert full.value.sent == 0


@pytest.mark.parametrize("timeout", [0.001, 0.05, 0.45])
def test_a_timeout_is_waited_out_in_full(mq: isthmus.PosixQueue[bytes], timeout: float) -> None:
    calls: list[Callable[[], object]] = [
        lambda: mq.get(timeout),
        lambda: mq.get_many(3, timeout),
        lambda: mq.get_with_priority(timeout=timeout),
    ]
    for call in calls:
        start = time.monotonic()
        with pytest.raises(isthmus.Empty):
            call()
        assert time.monotonic() - start >= timeout
    mq.put_many([b""] * 4)
    start = time.monotonic()
    with pytest.raises(isthmus.Full):
        mq.put(b"", timeout)
    assert time.monotonic() - start >= timeout
    start = time.monotonic()
    assert not mq.wait_writable(timeout)
    assert time.monotonic() - start >= timeout


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_timeout_that_is_none_is_refused(mq: isthmus.PosixQueue[bytes], timeout: float) -> None:
    mq.put(b"stays")
    calls: list[Callable[[], object]] = [
        lambda: mq.get(timeout),
        lambda: mq.put(b"", timeout),
        lambda: mq.get_many(1, timeout),
        lambda: mq.put_many([b""], timeout),
        lambda: mq.wait_readable(timeout),
        lambda: mq.wait_writable(timeout),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="timeout"):
            call()
    assert mq.get_many(9) == [b"stays"]


@pytest.mark.parametrize("timeout", [None, 1e9, 1e300])
def test_waiting_calls_go_on_when_the_other_side_acts(
    mq: isthmus.PosixQueue[bytes], timeout: float | None
) -> None:
    got: list[bytes] = []
    taker = threading.Thread(target=lambda: got.append(mq.get(timeout)))
    taker.start()
    time.sleep(0.02)
    mq.put(b"late")
    taker.join(PATIENCE)
    assert got == [b"late"]
    mq.put_many([b"%d" % number for number in range(4)])
    giver = threading.Thread(target=lambda: mq.put(b"4", timeout))
    giver.start()
    time.sleep(0.02)
    assert mq.get() == b"0"
    giver.join(PATIENCE)
    assert mq.get_many(9) == [b"1", b"2", b"3", b"4"]


def test_readiness_is_waited_for_and_takes_nothing(mq: isthmus.PosixQueue[bytes]) -> None:
    assert not mq.wait_readable(0)
    assert mq.wait_writable(0)
    threading.Timer(0.02, mq.put, [b"1"]).start()
    assert mq.wait_readable()
    assert mq.wait_writable(0, below=0.5)
    mq.put_many([b"2", b"3", b"4"])
    assert mq.fill == 1.0
    assert mq.full()
    assert not mq.wait_writable(0)
    assert not mq.wait_writable(0.01, below=0.5)
    threading.Timer(0.02, mq.get_many, [3]).start()
    assert mq.wait_writable(below=0.3)
    assert mq.get_many(9) == [b"4"]
    with pytest.raises(ValueError, match=r"1\.5"):
        mq.wait_writable(below=1.5)


def test_the_descriptor_can_be_polled(mq: isthmus.PosixQueue[bytes]) -> None:
    def ready() -> tuple[bool, bool]:
        reads, writes, _ = select.select([mq], [mq], [], 0)
        return bool(reads), bool(writes)

    assert ready() == (False, True)
    mq.put(b"")
    assert ready() == (True, True)
    mq.put_many([b""] * 3)
    assert ready() == (True, False)


# ---------------------------------------------------------------------------------------- names and handles


def test_create_insists_on_new_and_open_on_existing(mq_name: str) -> None:
    with pytest.raises(FileNotFoundError, match=mq_name):
        isthmus.PosixQueue.open(mq_name)
    with isthmus.PosixQueue.create(mq_name) as first:
        with pytest.raises(FileExistsError, match=mq_name):
            isthmus.PosixQueue.create(mq_name)
        with (
            isthmus.PosixQueue(mq_name) as second,
            isthmus.PosixQueue.open(mq_name.removeprefix("/")) as third,
        ):
            assert first.name == second.name == third.name == mq_name
            first.put(b"1")
            second.put(b"2")
            assert third.get_many(5) == [b"1", b"2"]


def test_attributes_are_those_asked_for_or_the_kernels(mq_name: str) -> None:
    with isthmus.PosixQueue(mq_name) as plain:
        sysctl = Path("/proc/sys/fs/mqueue")
        assert plain.maxsize == int((sysctl / "msg_default").read_text())
        assert plain.message_max == int((sysctl / "msgsize_default").read_text())
        plain.unlink()
    with isthmus.PosixQueue(mq_name, maxsize=3) as mq:
        assert (mq.maxsize, mq.message_max) == (3, plain.message_max)
        assert mq.capacity == 3 * mq.message_max


def test_an_attribute_that_differs_is_refused_with_both_named(mq: isthmus.PosixQueue[bytes]) -> None:
    with isthmus.PosixQueue(mq.name, maxsize=4, message_max=512):
        pass
    with pytest.raises(isthmus.IncompatibleError, match=r"maxsize=5 .*maxsize=4"):
        isthmus.PosixQueue(mq.name, maxsize=5)
    with pytest.raises(isthmus.IncompatibleError, match=r"message_max=64 .*message_max=512"):
        isthmus.PosixQueue(mq.name, message_max=64)


@pytest.mark.parametrize(
    "bad", ["", "/", "//x", "/a/b", "a/b", "/.", "..", "/nul\0", "/" + "n" * 256, "/" + "ü" * 128]
)
def test_a_bad_name_is_refused_and_said_why(bad: str) -> None:
    with pytest.raises(ValueError, match="the name of a POSIX queue"):
        isthmus.PosixQueue(bad)
    with pytest.raises(ValueError, match="the name of a POSIX queue"):
        posix_mq.unlink(bad)


def test_the_longest_name_works() -> None:
    name = fresh_name().ljust(256, "n")
    with isthmus.PosixQueue(name, maxsize=1, message_max=8) as mq:
        assert mq.name == name
        mq.unlink()


def test_unlink_removes_the_name_and_leaves_the_queue(mq: isthmus.PosixQueue[bytes]) -> None:
    mq.unlink()
    mq.put(b"still here")
    assert mq.get() == b"still here"
    with pytest.raises(FileNotFoundError, match=mq.name):
        mq.unlink()
    with pytest.raises(FileNotFoundError):
        isthmus.PosixQueue.open(mq.name)


def test_the_queue_stays_with_its_messages_when_all_have_closed(mq_name: str) -> None:
    with isthmus.PosixQueue(mq_name) as mq:
        mq.put(b"kept", priority=7)
    with isthmus.PosixQueue.open(mq_name) as mq:
        assert mq.get_with_priority(0) == (b"kept", 7)


def test_a_closed_handle_says_so_in_every_call(mq_name: str) -> None:
    mq = isthmus.PosixQueue(mq_name)
    fd = mq.fileno()
    mq.close()
    mq.close()
    assert mq.closed
    with pytest.raises(OSError, match="Errno 9"):
        os.fstat(fd)
    calls: list[Callable[[], object]] = [
        mq.get, lambda: mq.put(b""), lambda: mq.put_many([b""]), lambda: mq.get_many(1), mq.get_with_priority,
        mq.qsize, mq.empty, mq.full, lambda: mq.fill, mq.stats, mq.wait_readable, mq.wait_writable, mq.fileno,
        lambda: mq.notify(None), lambda: next(mq), mq.__enter__, lambda: pickle.dumps(mq),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert "closed" in repr(mq)


def test_a_handle_that_is_only_dropped_is_closed(mq_name: str) -> None:
    mq = isthmus.PosixQueue(mq_name)
    fd = mq.fileno()
    del mq
    gc.collect()
    with pytest.raises(OSError, match="Errno 9"):
        os.fstat(fd)


def test_closing_ends_the_waits_of_other_threads(mq: isthmus.PosixQueue[bytes]) -> None:
    ended: list[type] = []

    def wait(call: Callable[[], object]) -> None:
        try:
            call()
        except isthmus.IsthmusError as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait, args=(call,)) for call in (mq.get, mq.wait_readable, mq.get)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    mq.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == [isthmus.ClosedError] * 3


def test_a_descriptor_closed_behind_our_back_is_an_error_and_closes_nobody_elses(mq_name: str) -> None:
    mq = isthmus.PosixQueue(mq_name)
    fd = mq.fileno()
    with Path("/dev/null").open() as other:
        os.close(fd)
        with pytest.raises(OSError, match="Errno 9"):
            mq.get(0)
        os.dup2(other.fileno(), fd)  # the number is somebody else's now
        with pytest.raises(OSError, match="Errno 9"):
            mq.put(b"")
        mq.close()
        os.fstat(fd)
        os.close(fd)


def test_access_for_one_way_only(mq_name: str, mq: isthmus.PosixQueue[bytes]) -> None:
    with (
        isthmus.PosixQueue.open(mq_name, access="w") as sender,
        isthmus.PosixQueue.open(mq_name, access="r") as taker,
    ):
        sender.put(b"1")
        assert taker.get() == b"1"
        with pytest.raises(isthmus.Unsupported, match='access="w"'):
            sender.get(0)
        with pytest.raises(isthmus.Unsupported, match='access="r"'):
            taker.put(b"2", 0)
        assert (sender.access, taker.access) == ("w", "r")
        assert sender.stats().bytes_in_use is None
    wrong: Any = "x"
    with pytest.raises(ValueError, match='"x"'):
        isthmus.PosixQueue(mq_name, access=wrong)
    assert mq.access == "rw"


def test_stats_say_what_is_known(mq: isthmus.PosixQueue[bytes]) -> None:
    mq.put_many([b"12345", b"678"])
    mq.get()
    stats = mq.stats()
    assert (stats.depth, stats.put, stats.got, stats.bytes_in_use) == (1, 2, 1, 3)
    assert stats.capacity == 4 * 512
    assert stats.registered is None
    assert stats.put_rate > 0
    mq.notify(signal.SIGUSR1)
    assert mq.stats().registered == os.getpid()
    assert mq.stats().put_rate == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.lease(), lambda q: q.leases(), lambda q: q.views(), lambda q: q.get_view(),
        lambda q: q.reserve(10), lambda q: q.shutdown(), lambda q: q.dead,
        lambda q: q.put(b"", until="received"),
    ],
)  # fmt: skip
def test_what_the_kernel_has_not_names_what_has_it(
    mq: isthmus.PosixQueue[bytes], call: Callable[[Any], object]
) -> None:
    with pytest.raises(isthmus.Unsupported, match=r"isthmus\.Queue\(name\) in shared memory has it"):
        call(mq)
    assert mq.empty()


# ---------------------------------------------------------------------------------------- as a Queue


def test_a_url_picks_the_kernels_queue(mq_name: str) -> None:
    made: Any = isthmus.Queue(f"posix-mq://{mq_name}?maxsize=7&message_max=100", type=str)
    with made as mq:
        assert type(mq) is isthmus.PosixQueue
        assert (mq.maxsize, mq.message_max, mq.url) == (7, 100, f"posix-mq://{mq_name}")
        with isthmus.Queue.open(mq.url, type=str) as again:
            mq.put("x")
            assert again.get() == "x"
        with pytest.raises(FileExistsError):
            isthmus.Queue.create(mq.url)
    taker: Any = isthmus.Queue.open(f"posix-mq://{mq_name}?access=r")
    assert taker.access == "r"


def test_a_capacity_in_bytes_is_as_many_messages_as_fit(mq_name: str) -> None:
    url = f"posix-mq://{mq_name}?message_max=100"
    with isthmus.Queue(url, capacity=550) as mq:
        made: Any = mq
        assert (made.maxsize, made.message_max, made.capacity) == (5, 100, 500)
    with isthmus.Queue(url, capacity=550, priorities=3, persistent=True, ends_with_producers=False):
        pass
    with pytest.raises(isthmus.IncompatibleError) as caught:
        isthmus.Queue(url, capacity=700)
    assert "capacity=700 is 7 messages of 100 bytes" in caught.value.__notes__[0]
    for capacity in (99, 1):
        with pytest.raises(ValueError, match=f"capacity={capacity}"):
            isthmus.Queue(url, capacity=capacity)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("posix-mq://jobs", "three slashes"),
        ("posix-mq:///jobs?maxsize=ten", "maxsize"),
        ("posix-mq:///jobs?speed=9", "speed"),
        ("posix-mq:///a/b", "slash inside"),
        ("posix-mq:///", "empty"),
        ("nats://host/jobs", r"nats://.*shm://, posix-mq://"),
        ("://x", "shm://"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        isthmus.Queue(url)


@pytest.mark.parametrize(
    "given",
    [{"max_deliveries": 3}, {"persistent": False}, {"ends_with_producers": True}, {"namespace": "/dev/shm"}],
)
def test_what_a_url_cannot_have_is_unsupported(mq_name: str, given: dict[str, Any]) -> None:
    with pytest.raises(isthmus.Unsupported, match=f"{next(iter(given))}.*shared memory has it"):
        isthmus.Queue(f"posix-mq://{mq_name}", **given)
    with pytest.raises(FileNotFoundError):
        posix_mq.unlink(mq_name)


def test_shm_urls_are_bare_names() -> None:
    with isthmus.Queue("shm://jobs", type=int) as mq, isthmus.Queue.open("jobs") as same:
        mq.put(3)
        assert same.get() == 3
        assert mq.name == "jobs"
