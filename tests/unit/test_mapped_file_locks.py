"""`MappedFile.lock`: ranges, threads, processes, C programs, fork, deaths."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import forking
import isthmus
from programs import Program, compiled
from support import Peer, process_state, wait_until

Start = Callable[..., Peer]

LOCKER = r"""
/* Commands by lines, for classic locks: lock | try | share | free START LENGTH. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char line[200], word[20];
    long start, length;
    int fd = open(argv[argc - 1], O_RDWR);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%19s %ld %ld", word, &start, &length) != 3) continue;
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
        if (!strcmp(word, "share")) lock.l_type = F_RDLCK;
        if (!strcmp(word, "free")) lock.l_type = F_UNLCK;
        int bad = fcntl(fd, strcmp(word, "lock") ? F_SETLK : F_SETLKW, &lock);
        puts(!bad ? "ok" : errno == EAGAIN || errno == EACCES ? "taken" : "error");
        fflush(stdout);
    }
    return 0;
}
"""

HOLDER = """
import sys, isthmus
file = isthmus.MappedFile(sys.argv[1])
lock = file.lock(0, 100)
assert lock.acquire(20)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 1000 bytes."""
    found = tmp_path / "data"
    found.write_bytes(bytes(1000))
    return found


@pytest.fixture
def file(path: Path) -> Iterator[isthmus.MappedFile]:
    """The file, open."""
    with isthmus.MappedFile(path) as found:
        yield found


@pytest.fixture
def program(path: Path) -> Iterator[Program]:
    """A C program that locks with fcntl."""
    started = Program(compiled(LOCKER), path)
    yield started
    started.reap()


def tell(program: Program, command: str) -> str:
    program.send(command)
    return program.line()


def free_for_others(
    file: isthmus.MappedFile, offset: int, length: int | None, *, shared: bool = False
) -> bool:
    """Whether another thread could take the range at once."""

    def attempt() -> bool:
        lock = file.lock(offset, length, shared=shared)
        if not lock.acquire(0):
            return False
        lock.release()
        return True

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()


# ---------------------------------------------------------------------------------------- ranges


def test_a_range_excludes_those_that_overlap_and_no_others(file: isthmus.MappedFile) -> None:
    lock = file.lock(100, 50)
    with lock as taken:
        assert taken.held
        for offset, length, free in [
            (100, 50, False), (0, 101, False), (149, 1, False), (149, None, False), (0, None, False),
            (0, 100, True), (150, 10, True), (150, None, True), (1 << 40, 5, True),
        ]:  # fmt: skip
            assert free_for_others(file, offset, length) is free, (offset, length)
    assert not lock.held
    assert free_for_others(file, 0, None)


def test_shared_locks_exclude_only_exclusive_ones(file: isthmus.MappedFile) -> None:
    with file.lock(0, 10, shared=True):
        assert free_for_others(file, 0, 10, shared=True)
        assert not free_for_others(file, 0, 10)
    with file.lock(0, 10):
        assert not free_for_others(file, 0, 10, shared=True)


def test_acquire_and_release(file: isthmus.MappedFile) -> None:
    lock = file.lock(0, 10)
    assert lock.acquire() is True
    assert lock.acquire(0) is False
    assert file.lock(5, 1).acquire(0) is False
    for timeout in (None, 1):
        with pytest.raises(isthmus.DeadlockError):
            lock.acquire(timeout)
    lock.release()
    with pytest.raises(isthmus.NotOwnerError):
        lock.release()
    assert lock.acquire(0) is True
    assert repr(lock) == "<isthmus.RangeLock exclusive on bytes 0 to 10, held>"
    lock.release()
    assert repr(file.lock(5, shared=True)) == "<isthmus.RangeLock shared on bytes 5 to the end>"


def test_a_thread_that_would_wait_for_itself_is_told(file: isthmus.MappedFile, path: Path) -> None:
    with file.lock(0, 100), isthmus.MappedFile(path) as again:
        for other in (file, again):
            for shared in (False, True):
                with pytest.raises(isthmus.DeadlockError, match="0 to 100"):
                    other.lock(99, 5, shared=shared).acquire()
        with file.lock(100, 5), again.lock(200):
            pass
    with file.lock(0, 100, shared=True):
        with file.lock(50, 100, shared=True):
            pass
        with pytest.raises(isthmus.DeadlockError):
            file.lock(50, 100).acquire(1)


def test_arguments_that_are_none(file: isthmus.MappedFile) -> None:
    for offset, length in ((-1, 5), (0, 0), (0, -5)):
        with pytest.raises(ValueError, match=str(length)):
            file.lock(offset, length)
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            file.lock().acquire(timeout)


def test_a_file_for_reading_gives_shared_locks(path: Path, file: isthmus.MappedFile) -> None:
    with isthmus.MappedFile(path, access="read") as only, only.lock(0, 10, shared=True):
        assert not free_for_others(file, 0, 10)


# ---------------------------------------------------------------------------------------- waiting


def test_a_timeout_says_false_and_leaves_nothing(file: isthmus.MappedFile) -> None:
    gc.collect()  # what earlier tests have left
    before = len(list(Path("/proc/self/fd").iterdir()))
    with file.lock(0, 100), ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        assert pool.submit(file.lock(0, 10).acquire, 0.05).result() is False
        assert time.monotonic() - begun >= 0.05
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_waiter_gets_it_when_it_is_released(file: isthmus.MappedFile, timeout: float | None) -> None:
    with ThreadPoolExecutor(1) as pool:
        with file.lock(0, 10):
            waits = pool.submit(file.lock(0, 10).acquire, timeout)
            time.sleep(0.02)
            assert not waits.done()
        assert waits.result() is True


def test_threads_that_share_one_lock_wait_for_each_other(file: isthmus.MappedFile) -> None:
    lock, inside, seen = file.lock(0, 8), 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(50):
            with lock:
                inside += 1
                seen.append(inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 200


def test_processes_lose_no_update_under_it(path: Path, file: isthmus.MappedFile, spawn: Start) -> None:
    code = """
        import sys, isthmus
        file = isthmus.MappedFile(sys.argv[1])
        lock = file.lock(0, 8)
        timeout = None if sys.argv[2] == "None" else float(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(300):
            assert lock.acquire(timeout)
            number = int.from_bytes(file.read(0, 8), "little")
            file.write(0, (number + 1).to_bytes(8, "little"))
            lock.release()
    """
    peers = [spawn(code, path, timeout) for timeout in (None, None, 60.0)]
    for peer in peers:
        peer.expect("ready")
    for peer in peers:
        peer.send()
    for peer in peers:
        peer.finish()
    assert file.view("Q")[0] == 900


def test_ctrl_c_at_any_moment_leaves_no_lock_behind(path: Path, spawn: Start) -> None:
    """Whichever instruction it comes at: what was not returned as taken is free."""
    peer = spawn(
        """
        import itertools, signal, sys, isthmus
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        file = isthmus.MappedFile(sys.argv[1])
        lock, other = file.lock(0, 10), file.lock(0, 10)
        interrupted = 0
        pause = itertools.cycle([0.0001 + 0.00001 * n for n in range(97)])
        while interrupted < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, next(pause))
                while True:
                    lock.acquire(60)
                    lock.release()
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if lock.held:
                lock.release()
            assert other.acquire(0), "somebody has it, and nobody knows who"
            other.release()
            assert lock.acquire(0), "nobody can have it any more"
            lock.release()
        """,
        path,
    )
    peer.finish()


def asleep(peer: Peer) -> Callable[[], bool]:
    return lambda: process_state(peer.pid) == "S"


def test_ctrl_c_ends_the_wait(path: Path, file: isthmus.MappedFile, spawn: Start) -> None:
    with file.lock():
        for timeout in ("", "60"):
            peer = spawn(
                f"""
                import sys, isthmus
                lock = isthmus.MappedFile(sys.argv[1]).lock(0, 10)
                try:
                    print("waits", flush=True)
                    lock.acquire({timeout})
                except KeyboardInterrupt:
                    assert not lock.held
                    print("interrupted", flush=True)
                """,
                path,
            )
            peer.expect("waits")
            wait_until(asleep(peer), "it to wait")
            peer.interrupt()
            peer.expect("interrupted")
            peer.finish()


# ---------------------------------------------------------------------------------------- other programs


def test_a_c_program_with_classic_locks_is_excluded_and_excludes(
    file: isthmus.MappedFile, program: Program
) -> None:
    with file.lock(0, 100):
        assert tell(program, "try 50 10") == "taken"
        assert tell(program, "share 50 10") == "taken"
        assert tell(program, "try 100 10") == "ok"
        assert not file.lock(105, 1).acquire(0)
        assert tell(program, "free 100 10") == "ok"
    assert tell(program, "share 0 10") == "ok"
    assert file.lock(0, 10).acquire(0) is False
    with file.lock(0, 10, shared=True):
        pass
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(file.lock(0, 10).acquire)
        program.kill()
        assert waits.result() is True


def test_closing_another_handle_of_the_file_drops_no_lock(
    file: isthmus.MappedFile, path: Path, program: Program
) -> None:
    """What classic locks do, and nobody expects."""
    with file.lock(0, 10):
        isthmus.MappedFile(path).close()
        path.read_bytes()
        view = file.view()
        del view
        assert tell(program, "try 0 10") == "taken"


# ---------------------------------------------------------------------------------------- close, fork, death


def test_close_ends_its_locks_and_views_keep_none(file: isthmus.MappedFile, path: Path) -> None:
    other = isthmus.MappedFile(path)
    view, lock = other.view(), other.lock(0, 10)
    lock.acquire()
    other.close()
    assert not lock.held
    assert free_for_others(file, 0, 10)
    lock.release()
    view[0] = 1


def test_a_block_in_which_the_file_is_closed_ends_in_peace(file: isthmus.MappedFile, path: Path) -> None:
    with isthmus.MappedFile(path) as other, other.lock(0, 10):
        other.close()
    assert free_for_others(file, 0, 10)


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_close_ends_waiting_or_lets_it_come_to_nothing(
    file: isthmus.MappedFile, path: Path, timeout: float | None
) -> None:
    other = isthmus.MappedFile(path)
    with ThreadPoolExecutor(1) as pool:
        with file.lock(0, 10):
            waits = pool.submit(other.lock(0, 10).acquire, timeout)
            time.sleep(0.02)
            other.close()
        with pytest.raises(isthmus.ClosedError):
            waits.result()
    assert free_for_others(file, 0, 10)


def test_a_lock_that_is_only_dropped_is_released(file: isthmus.MappedFile) -> None:
    lock = file.lock(0, 10)
    lock.acquire()
    del lock
    gc.collect()
    assert free_for_others(file, 0, 10)


def test_the_lock_of_a_killed_process_is_free(file: isthmus.MappedFile, path: Path, spawn: Start) -> None:
    peer = spawn(HOLDER, path)
    peer.expect("held")
    assert not file.lock(0, 100).acquire(0)
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(file.lock(0, 50, shared=True).acquire, timeout) for timeout in (None, 60.0)]
        peer.kill()
        assert [each.result() for each in waits] == [True, True]


def test_a_stopped_holder_keeps_it(file: isthmus.MappedFile, path: Path, spawn: Start) -> None:
    peer = spawn(HOLDER, path)
    peer.expect("held")
    peer.stop()
    assert file.lock(0, 100).acquire(0.2) is False
    peer.resume()
    peer.finish()
    assert file.lock(0, 100).acquire(20) is True


def test_a_forked_child_neither_has_the_lock_nor_keeps_it(path: Path) -> None:
    forking.run(
        """
file = isthmus.MappedFile(sys.argv[1])
again = isthmus.MappedFile(sys.argv[1])
view = file.view()
lock = file.lock(0, 10)
lock.acquire()
r, w = os.pipe()
told, tell = os.pipe()
def work():
    os.close(w)
    assert not lock.held
    lock.release()                          # does nothing here
    assert not again.lock(0, 10).acquire(0), "the child's end released the parent's lock"
    assert not lock.acquire(0)
    os.write(tell, b"x")
    os.read(r, 1)                           # the parent has released it; this child still has file and view
    assert lock.acquire(20)
    lock.release()
pid = child(work)
os.read(told, 1)
def outside():
    assert not again.lock(0, 10).acquire(0)
join(child(outside))
lock.release()
os.write(w, b"x")
join(pid)
assert lock.acquire(0)
""",
        path,
    )


def test_a_child_that_lives_on_does_not_keep_the_lock_of_its_killed_parent(
    file: isthmus.MappedFile, path: Path, spawn: Start
) -> None:
    peer = spawn(
        """
        import os, sys, threading, time, isthmus
        file = isthmus.MappedFile(sys.argv[1])
        view = file.view()
        lock = file.lock(0, 10)
        taken = threading.Event()
        def take():
            with lock:
                taken.set()
                time.sleep(600)
        threading.Thread(target=take, daemon=True).start()
        taken.wait()
        child = os.fork()
        if child == 0:
            time.sleep(600)
        print(child, flush=True)
        time.sleep(600)
        """,
        path,
    )
    child = int(peer.line())
    try:
        assert not file.lock(0, 10).acquire(0)
        peer.process.kill()
        assert file.lock(0, 10).acquire(20) is True
        os.kill(child, 0)
    finally:
        os.kill(child, 9)


def test_a_child_forked_while_a_thread_waits_does_not_keep_what_that_thread_gets(
    file: isthmus.MappedFile, path: Path, spawn: Start
) -> None:
    with file.lock(0, 10):
        peer = spawn(
            """
            import os, sys, threading, time, isthmus
            lock = isthmus.MappedFile(sys.argv[1]).lock(0, 10)
            def take():
                lock.acquire()
                print("taken", flush=True)
                time.sleep(600)
            thread = threading.Thread(target=take, daemon=True)
            thread.start()
            stat = f"/proc/self/task/{thread.native_id}/stat"
            while open(stat).read().rpartition(")")[2].split()[0] != "S":
                pass
            child = os.fork()
            if child == 0:
                time.sleep(600)
            print(child, flush=True)
            time.sleep(600)
            """,
            path,
        )
        child = int(peer.line())
    try:
        peer.expect("taken")
        assert not free_for_others(file, 0, 10)
        peer.process.kill()
        assert file.lock(0, 10).acquire(20) is True
        os.kill(child, 0)
    finally:
        os.kill(child, 9)
