"""`isthmus.inspect` sees everything and disturbs nobody; `isthmus.remove` takes any name away."""

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import HEADER, Peer, put_word, wait_until

PRODUCER_LOCK, TAIL, CONSUMER_LOCK, HEAD = HEADER, HEADER + 8, HEADER + 128, HEADER + 136
RING = HEADER + 512


def states(name: str) -> list[tuple[str, int, bytes]]:
    return [(one.state, one.number, one.data) for one in isthmus.inspect(name).messages]


def test_a_queue_is_seen_as_it_is() -> None:
    with isthmus.Queue("q", type=bytes, capacity=1 << 16, priorities=2, max_deliveries=5) as q:
        for number in range(6):
            q.put(b"%d" % number, priority=number % 2)
        q.put(b"x" * 9000)
        held = q.lease()
        q.lease().nack("not now")
        q.lease().reject("never")
        found = isthmus.inspect("q", size=100)
        assert (found.name, found.kind, found.persistent, found.problem) == ("q", "queue", False, None)
        assert found.size == Path(os.environ["ISTHMUS_NAMESPACE"], "q").stat().st_size
        assert abs(found.created - time.time()) < 3600
        assert found.attributes == {
            "type": "bytes",
            "fingerprint": 0,
            "capacity": 1 << 16,
            "priorities": 2,
            "max_deliveries": 5,
            "ends_with_producers": False,
        }
        assert found.layout["ring_bytes"] * 2 + found.layout["blocks_bytes"] == 1 << 16
        assert (found.layout["small_max"], found.layout["message_max"]) == (4096, q.message_max)
        stats = q.stats()
        for key in ("depth", "put", "got", "bytes_in_use", "largest", "leased", "dead"):
            assert found.state[key] == getattr(stats, key), key
        assert found.state["by_priority"] == [4, 1]
        assert found.state["fill"] == q.fill
        me = os.getpid()
        assert [tuple(one[:5]) for one in found.messages] == [
            ("waiting", 2, 1, 1, 0),
            ("waiting", 0, 0, 1, 0),
            ("waiting", 1, 0, 1, 0),
            ("waiting", 2, 0, 1, 0),
            ("waiting", 3, 0, 9000, 0),
            ("leased", 0, 1, 1, 1),
            ("dead", 1, 1, 1, 2),
        ]
        assert [one.data for one in found.messages] == [b"5", b"0", b"2", b"4", b"x" * 100, b"1", b"3"]
        assert {one.sender for one in found.messages} == {me}
        assert [one.holder for one in found.messages] == [None] * 5 + [me, None]
        assert found.messages[-1].reason == "never"
        (attached,) = found.attached
        assert (attached.pid, attached.roles, attached.handles) == (me, ["producer", "consumer"], 1)
        held.ack()
        q.dead.get()
        assert [one.data for one in isthmus.inspect("q", messages=2).messages] == [b"5", b"0"]
        assert isthmus.inspect("q", messages=0).messages == []
        assert [q.get()[:1] for _ in range(5)] == [b"5", b"0", b"2", b"4", b"x"]


def test_given_back_messages_come_first() -> None:
    with isthmus.Queue("q", type=bytes) as q:
        q.put_many([b"a", b"b", b"c"])
        leases = [q.lease(), q.lease()]
        assert states("q") == [("waiting", 2, b"c"), ("leased", 0, b"a"), ("leased", 1, b"b")]
        for lease in reversed(leases):
            lease.nack("later")
        assert states("q") == [("returned", 0, b"a"), ("returned", 1, b"b"), ("waiting", 2, b"c")]
        assert q.get_many(3) == [b"a", b"b", b"c"]


def test_messages_across_the_end_of_the_ring_are_whole() -> None:
    numbers = random.Random(4)
    with isthmus.Queue("q", type=bytes, capacity=1 << 16) as q:
        kept: list[bytes] = []
        for _ in range(400):
            message = numbers.randbytes(numbers.choice([0, 7, 300, 4000, 5000]))
            while True:
                try:
                    q.put(message, 0)
                    break
                except isthmus.Full:
                    assert q.get() == kept.pop(0)
            kept.append(message)
            seen = isthmus.inspect("q", messages=100, size=1 << 16).messages
            assert [one.data for one in seen] == kept
        q.get_many(len(kept))


def test_looking_changes_nothing(namespace: Path) -> None:
    q = isthmus.Queue("q", type=bytes, persistent=True)
    q.put_many([b"a", b"b" * 9000])
    q.lease().nack("once")
    q.close()
    before = (namespace / "q").read_bytes()
    for _ in range(3):
        isthmus.inspect("q")
    assert (namespace / "q").read_bytes() == before
    assert isthmus.inspect("q").attached == []
    isthmus.remove("q")


def test_the_living_go_on_and_what_is_seen_is_whole(spawn: Callable[..., Peer]) -> None:
    flow = """
        import isthmus, sys
        q = isthmus.Queue("flow", type=bytes, capacity=1 << 17)
        number = 0
        while number < 10**9:
            for _ in range(500):
                q.put(b"%d " % number * (number % 7 * (200 if number % 50 else 900) + 1)); number += 1
            print(number, flush=True)
        """
    drain = """
        import isthmus
        q = isthmus.Queue("flow", type=bytes, capacity=1 << 17)
        print("ready", flush=True)
        number = 0
        while True:
            with q.lease() as lease:
                assert lease.message.split()[0] == b"%d" % number, (lease.message[:20], number)
            number += 1
        """
    consumer = spawn(drain)
    consumer.expect("ready")
    producer = spawn(flow)
    looks = whole = 0
    end = time.monotonic() + 2
    while time.monotonic() < end or whole < 100 or looks < 10:
        for one in isthmus.inspect("flow", messages=50, size=1 << 20).messages:
            words = one.data.split()
            assert set(words) == {b"%d" % one.number}
            assert len(one.data) == one.size
            whole += 1
        looks += 1
    first = int(producer.line())
    wait_until(lambda: int(producer.line()) > first, "the flow to go on")
    assert consumer.process.poll() is None
    producer.kill()
    consumer.kill()


def test_locks_that_are_held_stop_no_look(namespace: Path) -> None:
    with isthmus.Queue("q", type=bytes) as q:
        q.put_many([b"a", b"b"])
        for lock in (PRODUCER_LOCK, CONSUMER_LOCK):
            put_word(namespace / "q", lock, 0xFFF << 3 | 1 << 39)
        assert states("q") == [("waiting", 0, b"a"), ("waiting", 1, b"b")]
        for lock in (PRODUCER_LOCK, CONSUMER_LOCK):
            put_word(namespace / "q", lock, 0)
        q.get_many(2)


def test_who_waits_is_seen(spawn: Callable[..., Peer]) -> None:
    with (
        isthmus.Queue("empty", type=bytes) as empty,
        isthmus.Queue("full", type=bytes, capacity=1 << 16) as full,
    ):
        full.put(b"a" * 32768)
        peer = spawn(
            "import isthmus; isthmus.Queue.open('empty').get(); isthmus.Queue.open('full').put(b'x' * 5000)"
        )

        def waits(name: str) -> tuple[int, int]:
            others = [one for one in isthmus.inspect(name).attached if one.pid == peer.pid]
            return (others[0].waiting_to_get, others[0].waiting_to_put) if others else (0, 0)

        wait_until(lambda: waits("empty") == (1, 0), "the peer to wait for a message")
        empty.put(b"go on")
        wait_until(lambda: waits("full") == (0, 1), "the peer to wait for room")
        full.get()
        peer.finish()
        assert full.get() == b"x" * 5000


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (HEAD, 3),
        (HEAD, 16),
        (HEAD, 1 << 40 | 8),
        (HEAD + 8, 5000),
        (RING, 0xDEADBEEF),
        (RING, 1 << 63 | 2 << 56 | 16),
        (RING, 1 << 63 | 1 << 56 | 8000),
        (RING + 16, 0xFFFF_FFFF_FFFF_FFFF),
    ],
)
def test_damage_is_said_and_the_rest_is_shown(namespace: Path, word: int, value: int) -> None:
    q = isthmus.Queue("q", type=bytes, persistent=True)
    q.put_many([b"aaaaaaaa", b"b"])
    q.close()
    put_word(namespace / "q", word, value)
    found = isthmus.inspect("q")
    assert (found.kind, found.attributes["type"]) == ("queue", "bytes")
    assert "damaged" in str(found.problem)
    assert found.messages == []
    isthmus.remove("q")


@pytest.mark.parametrize("attributes", [0x80, 0x98])
def test_a_damaged_header_is_said(namespace: Path, attributes: int) -> None:
    isthmus.Queue("q", type=bytes, persistent=True).close()
    put_word(namespace / "q", attributes, 1 << 62)
    found = isthmus.inspect("q")
    assert found.kind == "queue"
    assert found.problem
    assert found.messages == []
    isthmus.remove("q")


def test_what_cannot_be_used_says_why(namespace: Path) -> None:
    isthmus.Queue("q", type=bytes, persistent=True).close()
    os.truncate(namespace / "q", 20_000)
    assert "truncated" in str(isthmus.inspect("q").problem)
    put_word(namespace / "q", 8, 77, 4)
    (namespace / "foreign").write_bytes(b"no object" * 2000)
    found = isthmus.inspect("foreign")
    assert (found.kind, found.attached, found.messages) == ("?", [], [])
    assert "not an object" in str(found.problem)
    with pytest.raises(isthmus.IncompatibleError):
        isthmus.remove("foreign")
    assert (namespace / "foreign").exists()
    isthmus.remove("q")
    assert not (namespace / "q").exists()


def test_a_mutex_and_who_has_it(spawn: Callable[..., Peer]) -> None:
    with isthmus.Mutex("m") as lock:
        held = isthmus.inspect("m")
        assert held.state == {
            "held": True,
            "owner": os.getpid(),
            "owner_alive": True,
            "owner_died": None,
            "holders": [os.getpid()],
            "waiters": [],
        }
        lock.release()
        assert isthmus.inspect("m").state["held"] is False
        peer = spawn(
            "import isthmus, sys; isthmus.Mutex('m').acquire(); print('held', flush=True); sys.stdin.read()"
        )
        peer.expect("held")
        peer.kill()
        assert isthmus.inspect("m").state["owner_alive"] is False
        with pytest.raises(isthmus.OwnerDied):
            lock.acquire()
        died = isthmus.inspect("m").state
        assert (died["held"], died["owner_died"]["pid"]) == (False, peer.pid)
        assert died["owner_died"]["since"] > 0
        with lock.recover():
            now = isthmus.inspect("m").state
            assert (now["held"], now["owner"], now["owner_died"]["pid"]) == (True, os.getpid(), peer.pid)
        lock.acquire()


def test_a_value_and_its_number() -> None:
    with isthmus.Value("v", 2.5, persistent=True) as value:
        found = isthmus.inspect("v")
        assert (found.kind, found.attributes, found.state) == ("value", {"type": "float"}, {"value": 2.5})
        value.unlink()


def test_names_that_are_not_there_or_cannot_be() -> None:
    for call in (isthmus.inspect, isthmus.remove):
        with pytest.raises(FileNotFoundError):
            call("nothing")
        with pytest.raises(ValueError, match="slash"):
            call("a/b")


def test_a_removed_name_is_free_and_its_users_keep_what_they_have(other_namespace: Path) -> None:
    with isthmus.Queue("q", type=bytes, namespace=other_namespace) as old:
        old.put(b"old")
        isthmus.remove("q", other_namespace)
        with isthmus.Queue.create("q", type=bytes, namespace=other_namespace) as new:
            assert isthmus.inspect("q", namespace=other_namespace).state["depth"] == 0
            assert (old.get(), new.empty()) == (b"old", True)


def test_from_many_threads_at_once() -> None:
    with isthmus.Queue("q", type=bytes, capacity=1 << 16) as q:
        stop = threading.Event()
        wrong: list[str] = []

        def look() -> None:
            while not stop.is_set():
                found = isthmus.inspect("q")
                wrong.extend(repr(one) for one in found.messages if one.data != b"%d" % one.number)
                wrong.extend([found.problem] if found.problem else [])

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(3000):
            q.put(b"%d" % number)
            if number > 20:
                q.get()
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        q.get_many(100, 0)
