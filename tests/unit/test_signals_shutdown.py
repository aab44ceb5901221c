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
    """Until it waits for something."""
    wait_until(lambda: process_state(peer.pid) == "S", "it to wait")


# Each is a body that would wait for ever.
WAITS = {
    "get": "isthmus.Queue(type=bytes).get()",
    "iteration": "[0 for _ in isthmus.Queue(type=bytes)]",
    "lease": "isthmus.Queue(type=bytes).lease()",
    "view": "isthmus.Queue(type=bytes).get_view()",
    "many": "isthmus.Queue(type=bytes).get_many(5)",
    "receiver": "signals.Receiver(signal.SIGRTMIN).get()",
    "timer": "signals.Timer(1000).get()",
    "exit": "signals.wait_for_exit(__import__('os').getppid())",
    "pipe": "pipe = isthmus.Pipe(type=bytes); pipe.reader.recv()",
    "fifo": "isthmus.Fifo(__import__('os').environ['ISTHMUS_NAMESPACE'] + '/f', type=bytes).reader().recv()",
    "sleep": "stop.wait()",
}


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.parametrize("wait", WAITS)
def test_every_wait_for_work_ends(spawn: Start, wait: str, number: signal.Signals) -> None:
    peer = spawn(
        SERVICE
        + f"""
    with signals.graceful_shutdown() as stop:
        assert not stop and stop.signal is None and stop.exit_code == 0
        say("ready")
        {WAITS[wait]}
        say("left by itself")
    assert stop
    say("ended", int(stop.signal))
    sys.exit(stop.exit_code)
    """
    )
    peer.expect("ready")
    asleep(peer)
    signals.send(peer.process, number)
    line = peer.line()
    if line == "left by itself":
        assert wait in ("iteration", "sleep")
        line = peer.line()
    assert line == f"ended {int(number)}"
    assert peer.end()[0] == 128 + number


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
        threads = [threading.Thread(target=work, args=(get,)) for get in (queue.get, queue.lease, timer.get)]
        for thread in threads:
            thread.start()
        say("ready")
        stop.wait()
        for thread in threads:
            thread.join()
    say(len(ended))
    """
    )
    peer.expect("ready")
    signals.send(peer.process, signal.SIGTERM)
    peer.expect("3")
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
