"""Queues of the kernel among others: limits, C programs, posix_ipc, deaths, Ctrl+C, notices, listing."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import isthmus
from isthmus import posix_mq, signals
from programs import Program
from support import PATIENCE, Peer, wait_until

Start = Callable[..., Peer]


class Job(msgspec.Struct):
    id: int


# ---------------------------------------------------------------------------------------- limits


OWN_LIMITS = """
        import ctypes, os, sys, threading
        from pathlib import Path
        import isthmus
        assert ctypes.CDLL(None).unshare(0x0800_0000) == 0  # CLONE_NEWIPC: queues and limits of its own

        def sysctl(name, value):
            Path("/proc/sys/fs/mqueue", name).write_text(str(value))
"""
"""The beginning of a child's code: limits are its own, and the machine's stay as they are."""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="sets limits in a namespace of its own: needs root")
def test_large_messages_go_through_where_the_limits_allow_them(spawn: Start) -> None:
    peer = spawn(
        OWN_LIMITS
        + """
        sysctl("msgsize_max", 400_000)
        for limit in (8192, 8193, 300_000):
            with isthmus.PosixQueue.create("/large", maxsize=2, message_max=limit, type=bytes) as mq:
                for message in (b"", b"x", os.urandom(limit)):
                    mq.put(message, 0)
                    mq.put(message)
                    assert mq.get(0) == message
                    assert mq.get_many(5) == [message]
                thread = threading.Timer(0.05, mq.put, [bytes(limit)])
                thread.start()
                assert mq.get() == bytes(limit)
                thread.join()
                mq.unlink()
        print("done", flush=True)
        """
    )
    peer.expect("done")
    peer.finish()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="sets limits in a namespace of its own: needs root")
def test_errors_name_the_limit_on_the_number_of_queues(spawn: Start) -> None:
    peer = spawn(
        OWN_LIMITS
        + """
        sysctl("queues_max", 2)
        ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP of CAP_SYS_RESOURCE, and then exec
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
        """,
        """
try:
    import isthmus
    for number in range(3):
        isthmus.PosixQueue.create(f"/many-{number}", maxsize=1, message_max=8)
except isthmus.NoSpaceError as error:
    print(number, error, flush=True)
""",
    )
    text = peer.line()
    assert text.startswith("2 ")
    for word in ("there are 2", "/proc/sys/fs/mqueue/queues_max", "sysctl fs.mqueue.queues_max"):
        assert word in text
    peer.finish()


def limited(code: str) -> str:
    """Runs code as a user without the privilege to go beyond limits; gives what it prints."""
    drop = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        if os.geteuid() == 0:
            libc.prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE
    """
    peer = Peer(
        f"""
        {drop}
        import sys
        if len(sys.argv) == 1:
            os.execv(sys.executable, [sys.executable, "-c", {code!r}])
        """
    )
    try:
        return peer.finish()
    finally:
        peer.reap()


def test_errors_name_the_sysctl_in_the_way(mq_name: str) -> None:
    sysctl = Path("/proc/sys/fs/mqueue")
    most = int((sysctl / "msg_max").read_text())
    largest = int((sysctl / "msgsize_max").read_text())
    out = limited(f"""
import isthmus
for options in ({{"maxsize": {most + 1}, "message_max": 8}}, {{"maxsize": 1, "message_max": {largest + 1}}}):
    try:
        isthmus.PosixQueue({mq_name!r}, **options)
    except ValueError as error:
        print(error)
""")
    first, second = out.splitlines()
    assert f"maxsize={most + 1} is over {most}" in first
    assert "/proc/sys/fs/mqueue/msg_max" in first
    assert f"sysctl fs.mqueue.msg_max={most + 1}" in first
    assert f"message_max={largest + 1} is over {largest}" in second
    assert "/proc/sys/fs/mqueue/msgsize_max" in second


def test_what_no_kernel_allows_is_refused_even_to_root(mq_name: str) -> None:
    wrong: list[dict[str, Any]] = [
        {"maxsize": 70_000, "message_max": 1},
        {"maxsize": 1, "message_max": 1 << 40},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=r"/proc/sys/fs/mqueue|65536"):
            isthmus.PosixQueue(mq_name, **options)
    wrong = [{"maxsize": 0}, {"message_max": -1}]
    for options in wrong:
        with pytest.raises(ValueError, match="1 or more"):
            isthmus.PosixQueue(mq_name, **options)


def test_errors_name_the_rlimit_in_the_way_and_tell_it_from_descriptors(mq_name: str, spawn: Start) -> None:
    peer = spawn(
        """
        import os, resource, sys, isthmus
        name = sys.argv[1]
        before = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1]
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (1000, before))
        try:
            isthmus.PosixQueue(name, maxsize=10, message_max=100)
        except isthmus.NoSpaceError as error:
            print(error, flush=True)
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (before, before))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        try:
            while True:
                os.open("/", os.O_PATH)
        except OSError:
            pass
        try:
            isthmus.PosixQueue(name, maxsize=10, message_max=100)
        except isthmus.IsthmusError as error:
            print("wrong", error, flush=True)
        except OSError as error:
            print(error, flush=True)
        """,
        mq_name,
    )
    text = peer.line()
    for word in ("RLIMIT_MSGQUEUE", "1960 bytes", "1000", "ulimit -q"):
        assert word in text
    assert "Errno 24" in peer.line()
    peer.finish()


# ---------------------------------------------------------------------------------------- C and posix_ipc


def test_a_c_program_receives_what_we_send(
    mq: isthmus.PosixQueue[bytes], mq_program: Callable[[], Program]
) -> None:
    program = mq_program()
    program.send(f"open {mq.name}")
    program.expect("ok")
    program.send("attributes")
    program.expect("4 512 0")
    mq.put(b"low")
    mq.put(b"high", priority=31)
    for expected in ("31 4 high", "0 3 low"):
        program.send("receive")
        program.expect(expected)
    program.send("receive")  # waits for us
    wait_until(mq.empty, "an empty queue")
    mq.put(b"late")
    program.expect("0 4 late")
    program.finish()


def test_we_receive_what_a_c_program_sends_into_a_queue_of_its_own(
    mq_name: str, mq_program: Callable[[], Program]
) -> None:
    program = mq_program()
    program.send(f"create {mq_name} 3 64")
    program.expect("ok")
    with isthmus.Queue.open(f"posix-mq://{mq_name}") as mq:
        made: Any = mq
        assert (made.maxsize, made.message_max) == (3, 64)
        for line in ("send 0 one", "send 9 two", "blob 0 64 7"):
            program.send(line)
            program.expect("sent")
        assert made.get_with_priority() == (b"two", 9)
        assert made.get_many(9) == [b"one", b"\7" * 64]
    program.finish()


def test_there_and_back_through_a_c_program(mq_name: str, mq_program: Callable[[], Program]) -> None:
    with (
        isthmus.PosixQueue.create(mq_name, maxsize=5, message_max=128) as there,
        isthmus.PosixQueue.create(f"{mq_name}-back", maxsize=5, message_max=128) as back,
    ):
        program = mq_program()
        program.send(f"open {mq_name}")
        program.expect("ok")
        program.send(f"echo {mq_name}-back 2000")
        program.expect("ready")
        sent = [os.urandom(number % 129) for number in range(2000)]
        sender = threading.Thread(target=there.put_many, args=(sent,))
        sender.start()
        got: list[bytes] = []
        while len(got) < len(sent):
            got += back.get_many(100, PATIENCE)
        assert got == sent
        sender.join()
        program.expect("done")
        program.finish()


def test_posix_ipc_on_the_other_end(mq: isthmus.PosixQueue[bytes]) -> None:
    posix_ipc: Any = pytest.importorskip("posix_ipc", reason="of the extra [test]")
    other = posix_ipc.MessageQueue(mq.name)
    assert (other.max_messages, other.max_message_size) == (4, 512)
    other.send(b"from posix_ipc", priority=3)
    assert mq.get_with_priority() == (b"from posix_ipc", 3)
    mq.put(b"to posix_ipc", priority=4)
    assert other.receive() == (b"to posix_ipc", 4)
    other.close()


# ---------------------------------------------------------------------------------------- processes


def test_handles_go_to_children_and_pickle_by_name(mq_name: str, spawn: Start) -> None:
    with isthmus.PosixQueue(mq_name, type=int, access="w", priorities=9) as mq:
        peer = spawn(
            """
            import pickle, sys
            mq = pickle.loads(bytes.fromhex(sys.argv[1]))
            mq.put(5, priority=8)
            print(mq.access, mq.priorities, mq.type.__name__, flush=True)
            """,
            pickle.dumps(mq).hex(),
        )
        peer.expect("w 9 int")
        peer.finish()
        with isthmus.PosixQueue.open(mq_name, type=int) as taker:
            assert taker.get_with_priority() == (5, 8)
        pid = os.fork()
        if pid == 0:
            mq.put(6)
            mq.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        mq.put(7)  # the child has closed its own


def test_a_forked_child_has_nothing_of_what_its_parent_has_received(mq_name: str) -> None:
    with isthmus.PosixQueue(mq_name, type=Job) as mq, isthmus.PosixQueue.open(mq_name) as raw:
        mq.put(Job(1))
        raw.put(b"bad")
        mq.put(Job(2))
        assert mq.get_many(5) == [Job(1)]
        pid = os.fork()
        if pid == 0:
            try:
                mq.get(0)
            except isthmus.Empty:
                os._exit(0 if mq.qsize() == 0 else 2)
            except isthmus.InvalidMessage:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(isthmus.InvalidMessage):
            mq.get(0)
        assert mq.get(0) == Job(2)


TAKER = """
    import os, sys, isthmus
    mq = isthmus.PosixQueue.open(sys.argv[1])
    print("ready", flush=True)
    while True:
        os.write(1, mq.get() + b"\\n")
"""


def test_killed_and_stopped_consumers_hang_nobody(mq_name: str, spawn: Start) -> None:
    """Each message goes to one of two; one is stopped, then killed; the other gets all that is left."""
    with isthmus.PosixQueue.create(mq_name, maxsize=4, message_max=64) as mq:
        doomed = spawn(TAKER, mq_name)
        doomed.expect("ready")
        mq.put(b"first")
        doomed.expect("first")
        doomed.stop()
        for number in range(4):
            mq.put(b"%d" % number, PATIENCE)
        # The stopped one was asleep in the kernel, which may have given it one message.
        steady = spawn(TAKER, mq_name)
        steady.expect("ready")
        got = [steady.line() for _ in range(3)]
        doomed.kill()
        for number in range(4, 200):
            mq.put(b"%d" % number, PATIENCE)
        got += [steady.line() for _ in range(196)]
        mq.put(b"end", PATIENCE)
        while (line := steady.line()) != "end":
            got.append(line)
        assert sorted(map(int, got)) == sorted(set(map(int, got)))
        assert len(got) >= 199
        assert got == sorted(got, key=int)


def test_a_killed_and_a_stopped_producer_hang_nobody(mq_name: str, mq_program: Callable[[], Program]) -> None:
    with isthmus.PosixQueue.create(mq_name, maxsize=2, message_max=64) as mq:
        program = mq_program()
        program.send(f"open {mq_name}")
        program.expect("ok")
        for _ in range(3):
            program.send("send 0 more")  # the third waits for room
        program.expect("sent")
        program.expect("sent")
        program.stop()
        assert mq.get_many(9) == [b"more", b"more"] or mq.qsize() == 0
        program.kill()
        mq.put(b"ours", PATIENCE)
        rest = []
        while not mq.empty():
            rest.append(mq.get(PATIENCE))
        assert rest[-1] == b"ours"
        assert len(rest) <= 2


def test_ctrl_c_ends_every_wait(mq_name: str, spawn: Start) -> None:
    code = """
        import sys, isthmus
        mq = isthmus.PosixQueue.open(sys.argv[1])
        calls = {
            "get": mq.get, "many": lambda: mq.get_many(3), "next": lambda: next(mq),
            "readable": mq.wait_readable,
            "put": lambda: [mq.put(b"") for _ in range(9)],
            "put_many": lambda: mq.put_many([b""] * 9), "low": lambda: mq.wait_writable(below=0.1),
        }
        print("ready", flush=True)
        try:
            calls[sys.argv[2]]()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    with isthmus.PosixQueue.create(mq_name, maxsize=2, message_max=64) as mq:
        for call in ("get", "many", "readable", "next", "put", "put_many", "low"):
            if call == "low":
                mq.put(b"")
            peer = spawn(code, mq_name, call)
            peer.expect("ready")
            if call.startswith("put"):
                wait_until(mq.full, "a full queue")
            time.sleep(0.03)  # asleep by now; not needed to pass
            peer.interrupt()
            peer.expect("interrupted")
            peer.finish()
            while not mq.empty():
                mq.get()


def test_signal_handlers_run_during_a_wait_and_the_wait_goes_on(mq: isthmus.PosixQueue[bytes]) -> None:
    ran: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: ran.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        timer = threading.Timer(0.2, mq.put, [b"at last"])
        timer.start()
        assert mq.get() == b"at last"
        assert len(ran) > 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        timer.join()


def test_many_threads_and_processes_lose_nothing(mq_name: str, spawn: Start) -> None:
    code = """
        import sys, isthmus
        with isthmus.PosixQueue.open(sys.argv[1], type=int) as mq:
            for number in range(int(sys.argv[2]), int(sys.argv[2]) + 1000):
                mq.put(number)
    """
    with isthmus.PosixQueue.create(mq_name, type=int, maxsize=8, message_max=64) as mq:
        got: list[int] = []

        def take() -> None:
            while True:
                number = mq.get(PATIENCE)
                if number < 0:
                    return
                got.append(number)

        takers = [threading.Thread(target=take) for _ in range(3)]
        for taker in takers:
            taker.start()
        givers = [spawn(code, mq_name, first) for first in (0, 1000, 2000)]
        for giver in givers:
            giver.finish()
        for _ in takers:
            mq.put(-1)
        for taker in takers:
            taker.join(PATIENCE)
        assert sorted(got) == list(range(3000))


# ---------------------------------------------------------------------------------------- notices


def test_a_notice_by_a_function_comes_once(mq: isthmus.PosixQueue[bytes]) -> None:
    came = threading.Semaphore(0)
    mq.notify(came.release)
    assert not came.acquire(timeout=0.05)
    mq.put(b"1")
    assert came.acquire(timeout=PATIENCE)
    mq.put(b"2")  # not into an empty queue, and nobody is registered
    assert mq.get_many(9) == [b"1", b"2"]
    mq.put(b"3")
    assert not came.acquire(timeout=0.05)
    assert mq.get() == b"3"
    mq.notify(came.release)
    mq.put(b"4")
    assert came.acquire(timeout=PATIENCE)


def test_a_notice_can_be_taken_back_and_replaced(mq: isthmus.PosixQueue[bytes]) -> None:
    first, second = threading.Semaphore(0), threading.Semaphore(0)
    mq.notify(first.release)
    mq.notify(second.release)
    mq.put(b"1")
    assert second.acquire(timeout=PATIENCE)
    assert mq.get() == b"1"
    mq.notify(second.release)
    mq.notify(None)
    assert mq.stats().registered is None
    mq.put(b"2")
    assert not second.acquire(timeout=0.05)
    assert not first.acquire(timeout=0)
    mq.notify(None)  # again does nothing


def test_a_notice_by_a_signal_carries_its_payload(
    mq: isthmus.PosixQueue[bytes], mq_program: Callable[[], Program]
) -> None:
    # Blocked in every thread, whoever started one before: the default action would end the tests.
    with signals.Receiver(signal.SIGUSR2) as receiver:
        program = mq_program()
        program.send(f"open {mq.name}")
        program.expect("ok")
        mq.notify(signal.SIGUSR2, payload=-42)
        program.send("send 0 hello")
        program.expect("sent")
        info = receiver.get(PATIENCE)
        assert info.signal == signal.SIGUSR2
        assert info.code == -3  # SI_MESGQ
        assert (info.pid, info.value) == (program.pid, -42)
        program.finish()


def test_the_kernel_takes_one_process_and_we_say_which(
    mq: isthmus.PosixQueue[bytes], mq_program: Callable[[], Program]
) -> None:
    program = mq_program()
    program.send(f"open {mq.name}")
    program.expect("ok")
    program.send("notify")
    program.expect("registered")
    with pytest.raises(OSError, match=f"process {program.pid} is registered"):
        mq.notify(signal.SIGUSR2)
    assert mq.stats().registered == program.pid
    program.kill()
    wait_until(lambda: mq.stats().registered is None, "the kernel to forget the dead")
    mq.notify(signal.SIGUSR2)
    assert mq.stats().registered == os.getpid()
    for wrong in (0, 65, -1):
        with pytest.raises(ValueError, match=str(wrong)):
            mq.notify(wrong)
    text: Any = "SIGUSR1"
    with pytest.raises(TypeError, match="SIGUSR1"):
        mq.notify(text)
    assert mq.stats().registered == os.getpid()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_function_that_fails_is_reported_and_harms_nobody(
    mq: isthmus.PosixQueue[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.append(report.exc_value))

    def fail() -> None:
        raise RuntimeError("in the notice")

    mq.notify(fail)
    mq.put(b"")
    wait_until(lambda: seen, "the report")
    assert "in the notice" in str(seen[0])
    assert mq.get() == b""


# ---------------------------------------------------------------------------------------- listing


def test_listing_shows_queues_or_says_what_root_has_to_do(
    mq: isthmus.PosixQueue[bytes], spawn: Start
) -> None:
    if posix_mq.mounted() is None:
        with pytest.raises(isthmus.Unsupported, match="mount -t mqueue"):
            posix_mq.queues()
    else:
        assert mq.name in [one.name for one in posix_mq.queues()]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts the kernel's list of queues: needs root")
def test_listing_where_the_list_is_mounted(
    mq: isthmus.PosixQueue[bytes], spawn: Start, tmp_path: Path
) -> None:
    mq.put(b"12345")
    mq.notify(signal.SIGUSR2)
    peer = spawn(
        """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
        assert libc.unshare(CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        assert libc.mount(b"none", os.fsencode(sys.argv[1]), b"mqueue", 0, None) == 0, ctypes.get_errno()
        from isthmus import posix_mq
        for one in posix_mq.queues():
            if one.name == sys.argv[2]:
                print(*one, flush=True)
                one.unlink()
        print(sys.argv[2] in [one.name for one in posix_mq.queues()], flush=True)
        """,
        tmp_path,
        mq.name,
    )
    peer.expect(f"{mq.name} 1 4 512 5 {os.getpid()} {os.geteuid()} {0o600}")
    peer.expect("False")
    peer.finish()
