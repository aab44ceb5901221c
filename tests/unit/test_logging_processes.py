"""`isthmus.logging` among processes that fork, log in threads, and are killed."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Callable

import isthmus
import isthmus.logging
from isthmus.logging import QueueListener
from logs import Keeping, handler, logger, queue, received
from support import Peer, run_python, wait_until

__all__ = ["handler", "logger", "queue"]

Start = Callable[..., Peer]


CONFIGURED = """
    import logging, logging.config, os, sys, threading
    logging.config.dictConfig({
        "version": 1,
        "handlers": {
            "out": {
                "class": "isthmus.logging.QueueHandler", "queue": "logs", "timeout": 20.0, "level": "INFO",
            },
        },
        "root": {"level": "DEBUG", "handlers": ["out"]},
    })
    def log(thread, count):
        mine = logging.getLogger(f"work.{thread}")
        for number in range(count):
            mine.debug("not sent")
            mine.info("%d %d %s", thread, number, "x" * (number % 300))
"""


def check_order(keeping: Keeping, pid: int, threads: int) -> list[int]:
    """Of each thread of a process all records from the first on came, whole, in order; how many."""
    counts = [0] * threads
    for record in keeping.records:
        if record.process == pid:
            thread, number, *filling = record.getMessage().split(" ")
            assert record.name == f"work.{thread}"
            assert int(number) == counts[int(thread)]
            assert filling == ["x" * (int(number) % 300)]
            counts[int(thread)] += 1
    return counts


def test_processes_and_threads_log_by_name_and_one_is_killed(
    queue: isthmus.Queue[bytes], spawn: Start
) -> None:
    keeping = Keeping()
    code = (
        CONFIGURED
        + """
    pool = [threading.Thread(target=log, args=(number, int(sys.argv[1]))) for number in range(2)]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in pool: thread.start()
    for thread in pool: thread.join()
    logging.shutdown()
    """
    )
    with QueueListener(queue, keeping):
        peers = [spawn(code, 1000) for _ in range(2)]
        doomed = spawn(code, 1_000_000)
        for peer in (*peers, doomed):
            peer.expect("ready")
            peer.send()
        wait_until(lambda: sum(one.process == doomed.pid for one in keeping.records) > 200, "its records")
        doomed.kill()
        for peer in peers:
            peer.finish()
    for peer in peers:
        assert check_order(keeping, peer.pid, 2) == [1000, 1000]
    assert sum(check_order(keeping, doomed.pid, 2)) > 200
    assert {one.process for one in keeping.records} == {peer.pid for peer in (*peers, doomed)}


def test_forked_while_other_threads_log(queue: isthmus.Queue[bytes], spawn: Start) -> None:
    keeping = Keeping()
    peer = spawn(
        CONFIGURED
        + """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork under threads
    thread = threading.Thread(target=log, args=(1, 3000))
    thread.start()
    children = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            log(0, 50)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
    print(*children, flush=True)
    """
    )
    with QueueListener(queue, keeping):
        children = [int(pid) for pid in peer.line(patience=60).split()]
        peer.finish()
    assert len(children) == 20
    for pid in children:
        assert check_order(keeping, pid, 1) == [50]
    assert check_order(keeping, peer.pid, 2) == [0, 3000]


def test_a_listener_elsewhere_is_killed_and_another_takes_over(
    queue: isthmus.Queue[bytes], logger: logging.Logger, spawn: Start
) -> None:
    peer = spawn("""
        import logging, sys, isthmus.logging
        handler = logging.StreamHandler(sys.stdout)
        with isthmus.logging.QueueListener("logs", handler):
            sys.stdin.readline()
    """)
    logger.info("first")
    peer.expect("first")
    peer.kill()
    logger.info("second")
    assert [record.getMessage() for record in received(queue)] == ["second"]


def test_a_forked_child_has_no_listener_and_can_start_its_own() -> None:
    out = run_python("""
        import logging, os, sys, warnings, isthmus, isthmus.logging
        warnings.simplefilter("ignore", DeprecationWarning)
        with isthmus.Queue(type=bytes) as queue:
            handler = isthmus.logging.QueueHandler(queue)
            listener = isthmus.logging.QueueListener(queue, logging.StreamHandler(sys.stdout))
            listener.start()
            listener.stop()
            listener.start()
            pid = os.fork()
            if pid == 0:
                listener.stop()  # its parent's: nothing is taken
                listener.start()
                listener.stop()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            handler.handle(logging.makeLogRecord({"levelno": 20, "msg": "of the parent"}))
            listener.stop()
    """)
    assert out == "of the parent\n"


def test_the_death_of_the_last_one_who_logs_is_told(spawn: Start) -> None:
    keeping = Keeping()
    with isthmus.Queue("ends", type=bytes, ends_with_producers=True) as queue:
        listener = QueueListener(queue, keeping)
        listener.start()
        peer = spawn("""
            import logging, sys, isthmus.logging
            handler = isthmus.logging.QueueHandler("ends")
            handler.handle(logging.makeLogRecord({"levelno": 20, "msg": "alive"}))
            print("ready", flush=True)
            sys.stdin.readline()
        """)
        peer.expect("ready")
        peer.kill()
        wait_until(lambda: len(keeping.records) == 2, "the end")
        listener.stop()
    assert keeping.texts[0] == "alive"
    assert str(peer.pid) in keeping.texts[1]
