"""`signals.graceful_shutdown`: a service is asked to end, and ends what it does."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

import isthmus
from isthmus import signals
from queues import drain, fill
from support import Peer, process_state, wait_until

Start = Callable[..., Peer]
ASKING = [signal.SIGTERM, signal.SIGINT]

SERVICE = """
    import signal, sys, threading, time
    import isthmus
    from isthmus import signals

    def say(*words):
        print(*words, flush=True)
    """


def asleep(peer: Peer) -> None:
    """Until it waits for something, or has ended, which the next line says with its errors."""
    wait_until(lambda: process_state(peer.pid) in "SZ", "it to wait")


# Each is a body that would wait for ever: of `ENDLESS` for its end, of `WAITS` for something to come.
WAITS = {
    "queue": [
        "isthmus.Queue(type=bytes).get()",
        "isthmus.Queue(type=bytes).lease()",
        "isthmus.Queue(type=bytes).get_view()",
        "isthmus.Queue(type=bytes).get_many(5)",
        "isthmus.Queue(type=bytes).wait_readable()",
        "isthmus.select(isthmus.Queue(type=bytes), isthmus.Queue(type=int))",
    ],
    "kernel": [
        "kernel.get()",
        "kernel.get_many(5)",
        "kernel.get_with_priority(1000)",
        "kernel.wait_readable()",
        "isthmus.select(kernel, isthmus.Queue(type=bytes))",
    ],
    "sync": [
        "isthmus.Event().wait()",
        "with isthmus.Condition() as changed: changed.wait()",
        "with isthmus.Condition() as changed: changed.wait_for(lambda: False, 1000)",
        "isthmus.Barrier(parties=2).wait()",
    ],
    "stream": [
        "stream().recv()",
        "stream().recv(1000)",
        "stream().poll(None)",
        "stream().recv_many()",
        "stream().recv_into(bytearray(10))",
        "stream('raw').read(10)",
        "stream('raw').read_until()",
        "stream('raw').recv_into(bytearray(10))",
        "stream().recv_file(null)",
        "stream('raw').recv_file(null)",
        "stream('raw').makefile().read(10)",
        "stream('lines').recv()",
        "isthmus.select(stream())",
    ],
    "socket": [
        "with isthmus.Listener('unix://@' + name) as listener: listener.accept()",
        "with isthmus.Listener('tcp://127.0.0.1:0') as listener: listener.accept(1000)",
        "with isthmus.Datagram(at='unix://@' + name, type=bytes) as datagram: datagram.recv()",
        "with isthmus.Datagram(at='udp://127.0.0.1:0', type=bytes) as datagram: datagram.recv_from(1000)",
    ],
    "pipe": [
        "with isthmus.Pipe(type=bytes) as pipe: pipe.reader.recv()",
        "with isthmus.FifoServer('/dev/shm/' + name) as server: server.recv()",
        "with isthmus.Fifo('/dev/shm/' + name, type=bytes) as fifo: fifo.reader().recv()",
    ],
    "signals": [
        "with signals.Receiver(signal.SIGRTMIN) as receiver: receiver.get()",
        "with signals.Timer(1000) as timer: timer.get()",
        "signals.wait_for_exit(os.getppid())",
    ],
}
ENDLESS = [
    "[0 for _ in isthmus.Queue(type=bytes)]",
    "[0 for _ in kernel]",
    "[0 for _ in stream()]",
    "with isthmus.Listener('unix://@' + name) as listener: list(listener)",
    "with isthmus.Datagram(at='unix://@' + name, type=bytes) as datagram: list(datagram)",
    "with isthmus.FifoServer('/dev/shm/' + name) as server: list(server)",
    "stop.wait()",
]


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.parametrize("kind", [*WAITS, "endless"])
def test_every_wait_for_work_ends(spawn: Start, kind: str, number: signal.Signals) -> None:
    peer = spawn(
        SERVICE
        + """
    import os, pathlib
    name = f"isthmus-shutdown-{os.getpid()}"
    kernel = isthmus.PosixQueue("/" + name)
    kernel.unlink()
    streams = []
    def stream(framing="messages"):
        streams.extend(isthmus.Stream.pair(framing=framing, type=bytes if framing == "messages" else None))
        return streams[-1]
    null = open(os.devnull, "wb")
    for body in sys.stdin:
        with signals.graceful_shutdown() as stop:
            say("ready")
            exec(body)
            say("left by itself")
        assert stop
        say("ended", int(stop.signal))
    pathlib.Path("/dev/shm", name).unlink(missing_ok=True)
    for each in (null, *streams):
        each.close()
    sys.exit(stop.exit_code)
    """
    )
    for body in ENDLESS if kind == "endless" else WAITS[kind]:
        peer.send(body)
        peer.expect("ready")
        asleep(peer)
        peer.process.send_signal(number)
        if kind == "endless":
            peer.expect("left by itself")
        peer.expect(f"ended {int(number)}")
    assert peer.end()[0] == 128 + number


def test_waits_for_locks_and_room_go_on(spawn: Start) -> None:
    """They are no waits for work: the job in hand needs them."""
    ticket, book = isthmus.Semaphore("ticket", 0), isthmus.RWLock("book")
    with isthmus.Queue("full", type=bytes, capacity=1 << 16) as full:
        jobs: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("ticket.acquire()", lambda: None, ticket.release),
            ("book.write.acquire(); book.write.release()", book.read.acquire, book.read.release),
            ("book.read.acquire(); book.read.release()", book.write.acquire, book.write.release),
            ("full.put(bytes(5000))", lambda: fill(full, 5000), full.get),
            ("full.wait_writable(below=0.1)", lambda: fill(full, 5000), lambda: drain(full)),
            (
                "isthmus.select(isthmus.Writable(full, below=0.1))",
                lambda: fill(full, 5000),
                lambda: drain(full),
            ),
        ]
        peer = spawn(
            SERVICE
            + """
    ticket, book = isthmus.Semaphore.open("ticket"), isthmus.RWLock.open("book")
    full = isthmus.Queue.open("full", type=bytes)
    with signals.graceful_shutdown() as stop:
        stop.request()
        for body in sys.stdin:
            say("waiting")
            exec(body)
            say("done")
    """
        )
        for body, begin, end in jobs:
            begin()
            peer.send(body)
            peer.expect("waiting")
            asleep(peer)
            time.sleep(0.25)  # longer than a slice of a wait
            end()
            peer.expect("done")
        peer.finish()
        drain(full)
    ticket.close()
    book.close()


def test_what_is_there_is_taken_and_a_part_stays(spawn: Start) -> None:
    """A stream goes on where it was: who reads outside of the block misses nothing."""
    spawn(
        SERVICE
        + """
    here, there = isthmus.Stream.pair()
    there.send(b"first")
    there.send(b"x" * 100_000)
    raw, other = isthmus.Stream.pair(framing="raw")
    other.send(b"half a ")
    quiet, later = isthmus.Stream.pair(framing="raw")
    file = quiet.makefile()
    events = isthmus.Event()
    events.set()
    kernel = isthmus.PosixQueue(f"/isthmus-shutdown-{__import__('os').getpid()}")
    kernel.unlink()
    kernel.put(b"job")
    with signals.graceful_shutdown() as stop:
        stop.request()
        assert isthmus.select(here, kernel) == [here, kernel]
        assert here.recv() == b"first" and len(here.recv()) == 100_000
        assert here.poll(0) is False
        assert events.wait() and kernel.wait_readable() and kernel.get() == b"job"
        for read in (lambda: raw.read(10), raw.read_until, lambda: file.read(3), here.recv,
                     lambda: kernel.get(1000), kernel.wait_readable, lambda: here.poll(1)):
            try:
                say(read())
            except isthmus.ShutDown as error:
                assert "asked to end" in str(error), error
        for empty in (lambda: here.recv(0), lambda: kernel.get(0)):
            try:
                say(empty())
            except isthmus.Empty:
                pass
        assert isthmus.select(here, kernel, timeout=0) == []
    other.send(b"job")
    there.send(b"second")
    later.send(b"more")
    later.close()
    assert (raw.read(10), file.read(3), file.read(3), here.recv()) == (b"half a job", b"mor", b"e", b"second")
    for each in (here, there, raw, other, quiet, later):
        each.close()
    """
    ).finish()


@pytest.mark.parametrize("number", ASKING)
def test_asked_before_it_waits(spawn: Start, number: signal.Signals) -> None:
    """The signal comes between the look at `stop` and the wait."""
    peer = spawn(
        SERVICE
        + f"""
    import os
    queue = isthmus.Queue(type=bytes)
    queue.put(b"last")
    with signals.graceful_shutdown() as stop:
        os.kill(os.getpid(), {int(number)})
        say(queue.get())  # what is there is still taken
        queue.get()
    say("ended")
    """
    )
    peer.expect("b'last'")
    peer.expect("ended")
    peer.finish()


def test_the_job_in_hand_is_finished_and_the_next_one_is_not_begun(spawn: Start) -> None:
    with isthmus.Queue("jobs", type=int) as jobs, isthmus.Queue("results", type=int) as results:
        peer = spawn(
            SERVICE
            + """
    jobs, results = isthmus.Queue.open("jobs", type=int), isthmus.Queue.open("results", type=int)
    with signals.graceful_shutdown() as stop:
        for job in stop.each(jobs):
            say("working")
            sys.stdin.readline()
            results.put(job)
    say("ended")
    """
        )
        for number in range(5):
            jobs.put(number)
        peer.expect("working")
        peer.send()
        peer.expect("working")
        signals.send(peer.process, signal.SIGTERM)
        peer.send()
        peer.expect("ended")
        assert [results.get(), results.get()] == [0, 1]
        assert jobs.get_many(5) == [2, 3, 4]  # nothing is lost, and nothing else was shut down
        jobs.put(5)
        assert jobs.get() == 5


def test_what_gets_work_done_goes_on(spawn: Start) -> None:
    """`put` into a full queue and a lock: the job in hand waits for them after it was asked to end."""
    ledger = isthmus.Mutex("ledger")
    with isthmus.Queue("results", type=bytes, capacity=16384) as results, ledger:  # holds it
        while True:
            try:
                results.put(b"x" * 1000, 0)
            except isthmus.Full:
                break
        peer = spawn(
            SERVICE
            + """
    results, ledger = isthmus.Queue.open("results", type=bytes), isthmus.Mutex.open("ledger")
    with signals.graceful_shutdown() as stop:
        say("ready")
        while not stop:
            time.sleep(0.01)
        say("putting")
        results.put(b"y" * 1000)
        say("locking")
        with ledger:
            say("done")
    """
        )
        peer.expect("ready")
        signals.send(peer.process, signal.SIGTERM)
        peer.expect("putting")
        asleep(peer)
        time.sleep(0.3)  # longer than a slice of a wait
        signals.send(peer.process, signal.SIGTERM)  # a second one changes nothing
        results.get_many(100)
        peer.expect("locking")
        time.sleep(0.3)
        ledger.release()
        peer.expect("done")
        peer.finish()
        ledger.acquire()
        with contextlib.suppress(isthmus.Empty):  # it may have been among those above
            results.get(0)
    ledger.close()


def test_queues_that_are_given_are_shut_down(spawn: Start) -> None:
    with isthmus.Queue("inbox", type=int) as inbox:
        peer = spawn(
            SERVICE
            + """
    inbox = isthmus.Queue.open("inbox", type=int)
    with signals.graceful_shutdown(inbox) as stop:
        say("ready")
        for job in inbox:  # all that is there is done
            say(job)
    say("ended")
    """
        )
        peer.expect("ready")
        asleep(peer)
        signals.stop(peer.process)
        for number in range(3):
            inbox.put(number)
        signals.send(peer.process, signal.SIGTERM)
        signals.resume(peer.process)
        for number in range(3):
            peer.expect(str(number))
        peer.expect("ended")
        with pytest.raises(isthmus.ShutDown):
            inbox.put(3)


def test_threads_end_too(spawn: Start) -> None:
    peer = spawn(
        SERVICE
        + """
    queue = isthmus.Queue(type=bytes)
    ended = []
    def work(get):
        try:
            get()
        except isthmus.ShutDown:
            ended.append(True)
    with signals.graceful_shutdown() as stop:
        timer = signals.Timer(1000)
        event, (stream, other) = isthmus.Event(), isthmus.Stream.pair()
        gets = [queue.get, queue.lease, queue.wait_readable, timer.get, event.wait, stream.recv,
                stream.recv, lambda: isthmus.select(queue)]  # two of the stream: one has it, one waits for it
        threads = [threading.Thread(target=work, args=(get,)) for get in gets]
        for thread in threads:
            thread.start()
        say("ready")
        stop.wait()
        for thread in threads:
            thread.join()
    say(len(ended))
    stream.close()
    other.close()
    """
    )
    peer.expect("ready")
    signals.send(peer.process, signal.SIGTERM)
    peer.expect("8")
    peer.finish()


def test_a_second_ctrl_c_ends_at_once(spawn: Start) -> None:
    peer = spawn(
        SERVICE
        + """
    try:
        with signals.graceful_shutdown() as stop:
            say("ready")
            while not stop:
                time.sleep(0.01)
            say("finishing")
            full = isthmus.Queue(type=bytes, capacity=16384)
            while True:
                full.put(b"x" * 1000)
    except KeyboardInterrupt:
        say("interrupted")
    """
    )
    peer.expect("ready")
    peer.interrupt()
    peer.expect("finishing")
    peer.interrupt()
    peer.expect("interrupted")
    peer.finish()


def test_shielded_work_may_wait(spawn: Start) -> None:
    with isthmus.Queue("answers", type=int) as answers:
        peer = spawn(
            SERVICE
            + """
    answers = isthmus.Queue.open("answers", type=int)
    with signals.graceful_shutdown() as stop:
        say("ready")
        while not stop:
            time.sleep(0.01)
        with stop.shielded():
            say("asked")
            say(answers.get())
        try:
            answers.get()
        except isthmus.ShutDown as error:
            say(error)
    answers.get()  # and outside all is as before
    say("outside")
    """
        )
        peer.expect("ready")
        signals.send(peer.process, signal.SIGTERM)
        peer.expect("asked")
        asleep(peer)
        answers.put(42)
        peer.expect("42")
        peer.expect("this process was asked to end (graceful_shutdown)")
        answers.put(43)
        peer.expect("outside")
        peer.finish()


def test_handlers_and_what_was_ignored_are_as_before(spawn: Start) -> None:
    spawn(
        SERVICE
        + """
    import os
    def mine(*args): calls.append(args[0])
    calls = []
    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a background job of a script
    with signals.graceful_shutdown() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop
        stop.request()
        assert stop.signal == signal.SIGTERM and stop.wait(0) and list(stop.each([1, 2])) == []
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    with signals.graceful_shutdown(signals=[signal.SIGHUP]) as stop:  # again, and for another signal
        assert not stop
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal == signal.SIGHUP
        os.kill(os.getpid(), signal.SIGTERM)
        assert calls == [signal.SIGTERM]
        try:
            with signals.graceful_shutdown():
                pass
        except RuntimeError as error:
            assert "there is one" in str(error)
    """
    ).finish()


def test_what_the_job_in_hand_logs_is_written(spawn: Start) -> None:
    """The listener's thread waits for records: it goes on to its own `stop()`."""
    peer = spawn(
        SERVICE
        + """
    import logging, isthmus.logging
    class Says(logging.Handler):
        def emit(self, record):
            say(record.getMessage())
    with isthmus.Queue("logs", type=bytes) as logs, isthmus.logging.QueueListener(logs, Says()):
        logger = logging.Logger("service")
        logger.addHandler(isthmus.logging.QueueHandler(logs))
        with signals.graceful_shutdown() as stop:
            while logs.stats().consumers_waiting == 0:  # the thread waits
                time.sleep(0.001)
            stop.request()
            while logs.stats().consumers_waiting:  # and was told
                time.sleep(0.001)
            logger.warning("last words")
    """
    )
    peer.expect("last words")
    peer.finish()


def test_only_in_the_main_thread() -> None:
    said: list[BaseException] = []

    def work() -> None:
        try:
            signals.graceful_shutdown().__enter__()
        except RuntimeError as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "in the main thread" in str(said[0])


def test_nothing_of_it_stays(spawn: Start) -> None:
    gc.collect()  # what earlier tests have left
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with signals.graceful_shutdown() as stop:
        assert not stop.wait(0)
        assert not stop.wait(0.01)
        assert list(stop.each([1, 2])) == [1, 2]
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_children_act_on_signals_of_their_own_and_leave_the_ends_alone(spawn: Start, how: str) -> None:
    start = {
        "fork": "pid = os.fork()\n        if pid == 0: worker(); os._exit(0)",
        "multiprocessing": (
            "process = multiprocessing.get_context('fork').Process(target=worker)\n"
            "        process.start(); pid = process.pid"
        ),
    }[how]
    peer = spawn(
        SERVICE
        + f"""
    import multiprocessing, os
    inbox, said = isthmus.Queue(type=int), isthmus.Queue(type=str)
    def worker():
        with signals.graceful_shutdown() as own:
            said.put("waiting")
            try:
                inbox.get()
            except isthmus.ShutDown:
                said.put("asked")
    with signals.graceful_shutdown(inbox) as stop:
        {start}
        assert said.get() == "waiting"
        signals.send(pid, signal.SIGTERM)
        assert said.get() == "asked"
        assert not stop
        inbox.put(1)  # was not shut down by the child
        os.waitpid(pid, 0)
        stop.request()
        if os.fork() == 0:
            os._exit(stop.requested)  # a child was not asked
        assert os.wait()[1] == 0
    assert inbox.get() == 1
    said.close()
    """
    )
    peer.finish()


def test_supervisors_end_their_workers() -> None:
    """A service in a process group, ended as `systemctl stop` and docker do."""
    code = """
import subprocess
from isthmus import signals
with signals.graceful_shutdown() as stop:
    worker = subprocess.Popen(["sleep", "1000"])
    print(worker.pid, flush=True)
    signals.wait_for_exit(worker)
print(signals.terminate(worker, 5), flush=True)
"""
    with subprocess.Popen(["python", "-c", code], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        assert signals.terminate(service, 20) == (0, False)
        assert service.stdout.read().strip() == "Termination(status=-15, killed=False)"
        assert process_state(pid) == ""
