"""`Fifo`: writers and readers that are killed or stopped, come and go, or fork."""

from __future__ import annotations

import functools
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import forking
import isthmus
from streams import SENDER, blob, in_thread, number_of, when_some_is_inside
from support import PATIENCE, Peer, Watchdog, run_python, wait_until

Start = Callable[..., Peer]
TESTS = Path(__file__).parents[1]


def test_a_writer_killed_in_a_large_message_disturbs_nobody(fifo: isthmus.Fifo[bytes], spawn: Start) -> None:
    reader = fifo.reader()
    victim = spawn(SENDER, TESTS, fifo.path, 0, 1, 50_000_000)
    victim.expect("open")
    while not reader._partial:
        with pytest.raises(isthmus.Empty):
            reader.recv(0)  # takes what there is of it
    victim.kill()
    survivor = spawn(SENDER, TESTS, fifo.path, 10, 3, 100_000)
    assert [number_of(reader.recv(PATIENCE)) for _ in range(3)] == [10, 11, 12]
    survivor.finish()
    assert len(reader._partial) == 1
    reader._partial[next(iter(reader._partial))].touched -= 60  # as if it were long ago
    fifo.writer().send(bytes(10_000))
    assert len(reader.recv(PATIENCE)) == 10_000
    assert (reader._partial, reader.abandoned) == ({}, 1)


def test_a_stopped_writer_disturbs_nobody_and_goes_on(fifo: isthmus.Fifo[bytes], spawn: Start) -> None:
    reader = fifo.reader()
    slow = spawn(SENDER, TESTS, fifo.path, 0, 1, 20_000_000)
    slow.expect("open")
    while not reader._partial:
        with pytest.raises(isthmus.Empty):
            reader.recv(0)
    slow.stop()
    other = spawn(SENDER, TESTS, fifo.path, 10, 2, 50_000)
    assert [number_of(reader.recv(PATIENCE)) for _ in range(2)] == [10, 11]
    other.finish()
    slow.resume()
    assert number_of(reader.recv(PATIENCE)) == 0
    slow.finish()


def test_writers_killed_at_random(fifo: isthmus.Fifo[bytes], spawn: Start) -> None:
    """Whole messages only, and the survivors' all: nothing is lost or torn but what the dead were sending."""
    reader = fifo.reader()
    endless = SENDER.replace("range(first, first + count)", "range(first, first + 10**6)")
    survivor = spawn(SENDER, TESTS, fifo.path, 1 << 24, 300, 9000)
    victims = [spawn(endless, TESTS, fifo.path, number << 20, 0, 30_000) for number in range(2)]
    got: list[int] = []
    dog, killed = Watchdog(), 2
    while sum(number >= 1 << 24 for number in got) < 300:
        got.append(number_of(reader.recv(PATIENCE)))
        dog.check(len(got))
        if len(got) % 40 == 0 and killed < 8:
            victims.pop(0).kill()
            victims.append(spawn(endless, TESTS, fifo.path, killed << 20, 0, 30_000))
            killed += 1
    survivor.finish()
    for peer in victims:
        peer.kill()
    for owner in {number >> 20 for number in got}:
        own = [number for number in got if number >> 20 == owner]
        assert own == list(range(own[0], own[0] + len(own)))


def test_readers_come_and_go(fifo: isthmus.Fifo[bytes], spawn: Start) -> None:
    code = """
        import isthmus, sys, time
        reader = isthmus.Fifo.open(sys.argv[1], type=bytes).reader(20)
        print("reads", flush=True)
        print(reader.recv(20).decode(), flush=True)
        time.sleep(600)
        """
    first = spawn(code, fifo.path)
    first.expect("reads")
    writer = fifo.writer(PATIENCE)
    second = spawn(code, fifo.path)  # waits for its turn
    writer.send(b"for the first")
    first.expect("for the first")
    with pytest.raises(isthmus.Timeout, match="another process reads messages"):
        fifo.reader(0.05)
    writer.send(b"for the second")
    first.kill()  # had not taken it
    second.expect("reads")
    second.expect("for the second")
    second.kill()
    wait_until(lambda: refused(writer), "the reader to be gone")
    third = fifo.reader(PATIENCE)
    writer.send(b"for the third")
    assert third.recv(0) == b"for the third"


def refused(writer: isthmus.FifoWriter[bytes]) -> bool:
    try:
        writer.send(b"x", 0)
    except isthmus.ShutDown:
        return True
    except isthmus.Full:
        pass
    return False


def test_the_reader_gone_in_the_middle(fifo: isthmus.Fifo[bytes]) -> None:
    reader, writer = fifo.reader(), fifo.writer()
    closing = in_thread(lambda: when_some_is_inside(reader, reader.close))
    with pytest.raises(isthmus.PeerDied, match="of 50000000 bytes went"):
        writer.send(bytes(50_000_000))
    closing.join()
    for size in (1, 100_000):
        with pytest.raises(isthmus.ShutDown, match="nobody reads"):
            writer.send(bytes(size))


def test_a_patient_writer_waits_for_the_next_reader(fifo: isthmus.Fifo[bytes]) -> None:
    first = fifo.reader()
    writer = fifo.writer(patient=True)
    first.close()
    for size in (10, 100_000):
        with pytest.raises(isthmus.Full, match="nobody reads"):
            writer.send(blob(0, size), 0.05)
    for size in (10, 3_000_000):
        thread = in_thread(functools.partial(writer.send, blob(1, size)))
        time.sleep(0.05)
        reader = fifo.reader()
        assert number_of(reader.recv(PATIENCE)) == 1
        thread.join()
        reader.close()
    first = fifo.reader()
    thread = in_thread(functools.partial(writer.send, blob(2, 3_000_000)))
    with pytest.raises(isthmus.Empty):
        first.recv(0)
    first.close()  # in the middle: the next gets all of it
    time.sleep(0.3)
    second = fifo.reader()
    assert number_of(second.recv(PATIENCE)) == 2
    thread.join()


def test_sigpipe_never_kills(tmp_path: Path) -> None:
    out = run_python(
        """
        import isthmus, signal, sys
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        fifo = isthmus.Fifo(sys.argv[1], type=bytes)
        reader, writer = fifo.reader(), fifo.writer()
        reader.close()
        for size in (1, 100_000):
            try:
                writer.send(bytes(size))
            except isthmus.ShutDown:
                print("shut down")
        """,
        tmp_path / "f",
    )
    assert out == "shut down\n" * 2


def test_forked_children(tmp_path: Path) -> None:
    out = forking.run(
        textwrap.dedent("""
        fifo = isthmus.Fifo(sys.argv[1], type=bytes)
        reader, writer = fifo.reader(), fifo.writer()
        def work():
            try:
                reader.recv(5)
            except isthmus.ClosedError:
                writer.send(b"from the child" * 1000)
        join(child(work))
        assert reader.recv(5) == b"from the child" * 1000
        say("done")
        """),
        tmp_path / "f",
    )
    assert out == "done\n"
