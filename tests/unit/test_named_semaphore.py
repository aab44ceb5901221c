"""`NamedSemaphore`: a counter that C programs and posix_ipc share."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from kernel_peers import fresh_name
from programs import Program
from support import PATIENCE, Peer, process_state, wait_until

Start = Callable[..., Peer]
Programs = Callable[[], Program]


def file_of(name: str) -> Path:
    return Path("/dev/shm") / f"sem.{name.removeprefix('/')}"


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a semaphore, removed afterwards."""
    made = fresh_name()
    yield made
    file_of(made).unlink(missing_ok=True)


@pytest.fixture
def seats(name: str) -> Iterator[isthmus.NamedSemaphore]:
    """A semaphore of 2."""
    handle = isthmus.NamedSemaphore.create(name, 2)
    yield handle
    handle.close()


# ---------------------------------------------------------------------------------------- counting


def test_takes_and_gives(seats: isthmus.NamedSemaphore) -> None:
    assert seats.value == 2
    assert seats.acquire() is True
    assert seats.acquire(0) is True
    assert seats.value == 0
    assert seats.acquire(0) is False
    seats.release()
    seats.release(3)
    assert seats.value == 4
    assert seats.acquire(timeout=5)


def test_a_with_block_takes_one_and_gives_it_back(seats: isthmus.NamedSemaphore) -> None:
    with seats as same:
        assert same is seats
        assert seats.value == 1
    assert seats.value == 2
    with pytest.raises(RuntimeError, match="inside"), seats:
        raise RuntimeError("inside")
    assert seats.value == 2
    assert not seats.closed


@pytest.mark.parametrize("timeout", [0.001, 0.05, 0.45])
def test_a_timeout_is_waited_out_in_full(name: str, timeout: float) -> None:
    semaphore = isthmus.NamedSemaphore(name, 0)
    start = time.monotonic()
    assert semaphore.acquire(timeout) is False
    assert time.monotonic() - start >= timeout
    assert semaphore.value == 0


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_timeout_that_is_none_is_refused(seats: isthmus.NamedSemaphore, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        seats.acquire(timeout)
    assert seats.value == 2


@pytest.mark.parametrize("timeout", [None, 1e9, 1e300])
def test_a_wait_ends_when_somebody_gives(name: str, timeout: float | None) -> None:
    semaphore = isthmus.NamedSemaphore(name, 0)
    timer = threading.Timer(0.02, semaphore.release)
    timer.start()
    assert semaphore.acquire(timeout)
    timer.join()
    assert semaphore.value == 0


def test_the_largest_value_is_never_passed(name: str) -> None:
    semaphore = isthmus.NamedSemaphore(name, 2**31 - 2)
    semaphore.release()
    with pytest.raises(OverflowError, match="2147483647"):
        semaphore.release()
    assert semaphore.value == 2**31 - 1
    for n in (0, -1, 2**31):
        with pytest.raises(ValueError, match=str(n)):
            semaphore.release(n)


@pytest.mark.parametrize("initial", [-1, 2**31, 2**64])
def test_an_initial_value_that_is_none_is_refused(name: str, initial: int) -> None:
    with pytest.raises(ValueError, match=f"{initial}.*2147483647"):
        isthmus.NamedSemaphore(name, initial)
    assert not file_of(name).exists()


# ---------------------------------------------------------------------------------------- names and handles


def test_create_insists_on_new_and_open_on_existing(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=file_of(name).name):
        isthmus.NamedSemaphore.open(name)
    first = isthmus.NamedSemaphore.create(name, 5)
    with pytest.raises(FileExistsError, match=file_of(name).name):
        isthmus.NamedSemaphore.create(name, 9)
    second, third = isthmus.NamedSemaphore(name, 9), isthmus.NamedSemaphore.open(name.removeprefix("/"))
    assert first.name == second.name == third.name == name
    second.acquire()
    assert first.value == second.value == third.value == 4
    first.close()
    assert third.acquire(0)
    assert second.value == 3


def test_it_stays_with_its_value_until_unlink(name: str) -> None:
    isthmus.NamedSemaphore(name, 3).close()
    semaphore = isthmus.NamedSemaphore(name, 7)
    assert semaphore.value == 3
    semaphore.unlink()
    assert not file_of(name).exists()
    assert semaphore.acquire(0)
    with pytest.raises(FileNotFoundError):
        semaphore.unlink()
    assert isthmus.NamedSemaphore(name, 7).value == 7  # another one by now
    assert semaphore.value == 2


def test_permissions_are_those_asked_for_less_the_umask(name: str) -> None:
    before = os.umask(0o027)
    try:
        isthmus.NamedSemaphore.create(name, 1, mode=0o666)
    finally:
        os.umask(before)
    assert file_of(name).stat().st_mode & 0o777 == 0o640
    for mode in (-1, 0o1000):
        with pytest.raises(ValueError, match="permission bits"):
            isthmus.NamedSemaphore(name, mode=mode)


@pytest.mark.parametrize("bad", ["", "/", "//x", "/a/b", "/..", "/nul\0", "/" + "n" * 252])
def test_a_bad_name_is_refused_and_said_why(bad: str) -> None:
    with pytest.raises(ValueError, match="the name of a POSIX semaphore"):
        isthmus.NamedSemaphore(bad)


def test_the_longest_name_works() -> None:
    name = fresh_name().ljust(252, "n")
    semaphore = isthmus.NamedSemaphore(name)
    semaphore.unlink()


def test_a_closed_handle_says_so_in_every_call(name: str) -> None:
    semaphore = isthmus.NamedSemaphore(name)
    semaphore.close()
    semaphore.close()
    calls: list[Callable[[], object]] = [
        semaphore.acquire,
        semaphore.release,
        lambda: semaphore.value,
        semaphore.__enter__,
        lambda: pickle.dumps(semaphore),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert "closed" in repr(semaphore)


def mapped(name: str) -> bool:
    # By number: the C library makes the file under another name first, and that is what the kernel shows.
    inode = str(file_of(name).stat().st_ino)
    return any(line.split()[4] == inode for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_handle_that_is_only_dropped_is_closed(name: str) -> None:
    first, second = isthmus.NamedSemaphore(name), isthmus.NamedSemaphore(name)
    assert mapped(name)
    del first
    gc.collect()
    assert second.acquire(0)
    second.close()
    assert not mapped(name)


def test_closing_ends_the_waits_of_other_threads(name: str) -> None:
    semaphore = isthmus.NamedSemaphore(name, 0)
    ended: list[type] = []

    def wait() -> None:
        try:
            semaphore.acquire()
        except isthmus.ClosedError as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    semaphore.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == [isthmus.ClosedError] * 3
    assert not mapped(name)


def test_what_is_no_semaphore_is_refused_and_not_mapped(name: str) -> None:
    for size in (0, 1, 16, 31):
        file_of(name).write_bytes(bytes(size))
        for make in (isthmus.NamedSemaphore, isthmus.NamedSemaphore.open):
            with pytest.raises(isthmus.IncompatibleError, match=f"{size} bytes"):
                make(name)


def test_repr_says_name_and_value(seats: isthmus.NamedSemaphore) -> None:
    assert repr(seats) == f"<isthmus.NamedSemaphore {seats.name!r} = 2>"


def test_listing_shows_value_owner_and_mode(seats: isthmus.NamedSemaphore, name: str) -> None:
    from isthmus import named_semaphore

    other = fresh_name()
    file_of(other).write_bytes(b"no semaphore")
    try:
        found = {one.name: one for one in named_semaphore.semaphores()}
    finally:
        file_of(other).unlink()
    assert (found[name].value, found[name].uid, found[name].mode) == (2, os.geteuid(), 0o600)
    assert abs(found[name].created - time.time()) < PATIENCE
    assert found[other].value is None
    found[name].unlink()
    with pytest.raises(FileNotFoundError):
        named_semaphore.unlink(name)
    with pytest.raises(FileNotFoundError):
        found[name].unlink()


# ---------------------------------------------------------------------------------------- others


def test_a_c_program_takes_what_we_give(seats: isthmus.NamedSemaphore, semaphore_program: Programs) -> None:
    program = semaphore_program()
    program.send(f"open {seats.name}")
    program.expect("ok")
    program.send("value")
    program.expect("2")
    for _ in range(2):
        program.send("wait")
        program.expect("taken")
    program.send("try")
    program.expect("none")
    program.send("wait")
    wait_until(lambda: process_state(program.pid) == "S", "the program to sleep")
    seats.release()
    program.expect("taken")
    assert seats.value == 0
    program.finish()


def test_we_take_what_a_c_program_gives(name: str, semaphore_program: Programs) -> None:
    program = semaphore_program()
    program.send(f"create {name} 1")
    program.expect("ok")
    semaphore = isthmus.NamedSemaphore(name, 99)
    assert semaphore.acquire(0)
    assert not semaphore.acquire(0)
    threading.Timer(0.05, program.send, ["post"]).start()
    assert semaphore.acquire(PATIENCE)
    program.expect("given")
    program.finish()


def test_posix_ipc_on_the_other_end(seats: isthmus.NamedSemaphore) -> None:
    posix_ipc: Any = pytest.importorskip("posix_ipc", reason="of the extra [test]")
    other = posix_ipc.Semaphore(seats.name)
    other.acquire(0)
    assert seats.value == other.value == 1
    seats.acquire()
    with pytest.raises(posix_ipc.BusyError):
        other.acquire(0)
    other.release()
    assert seats.acquire(0)
    other.close()
    seats.release()


def test_processes_exclude_each_other(name: str, tmp_path: Path, spawn: Start) -> None:
    code = """
        import sys, isthmus
        from pathlib import Path
        one, file = isthmus.NamedSemaphore.open(sys.argv[1]), Path(sys.argv[2])
        for _ in range(300):
            with one:
                file.write_text(str(int(file.read_text()) + 1))
    """
    isthmus.NamedSemaphore.create(name, 1)
    file = tmp_path / "count"
    file.write_text("0")
    for peer in [spawn(code, name, file) for _ in range(3)]:
        peer.finish()
    assert file.read_text() == "900"


def test_handles_go_to_children_and_pickle_by_name(seats: isthmus.NamedSemaphore, spawn: Start) -> None:
    peer = spawn(
        """
        import pickle, sys
        semaphore = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(semaphore.name, semaphore.acquire(0), flush=True)
        """,
        pickle.dumps(seats).hex(),
    )
    peer.expect(f"{seats.name} True")
    peer.finish()
    assert seats.value == 1
    pid = os.fork()
    if pid == 0:
        taken = seats.acquire(0)
        seats.close()
        os._exit(0 if taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seats.value == 0  # nothing comes back from who is gone


def test_what_a_killed_process_had_taken_is_gone_and_its_wait_is_not_in_the_way(
    seats: isthmus.NamedSemaphore, spawn: Start
) -> None:
    code = """
        import sys, isthmus
        semaphore = isthmus.NamedSemaphore.open(sys.argv[1])
        semaphore.acquire()
        print("has one", flush=True)
        semaphore.acquire()
        print("has two", flush=True)
        semaphore.acquire()
    """
    peer = spawn(code, seats.name)
    peer.expect("has one")
    peer.expect("has two")
    wait_until(lambda: process_state(peer.pid) == "S", "the peer to sleep")
    peer.stop()  # a stopped waiter holds nobody up
    seats.release()
    assert seats.acquire(PATIENCE)
    peer.kill()
    assert seats.value == 0
    seats.release()
    assert seats.acquire(PATIENCE)
    assert not seats.acquire(0.05)


def test_ctrl_c_ends_a_wait_and_takes_nothing(name: str, spawn: Start) -> None:
    semaphore = isthmus.NamedSemaphore(name, 0)
    for call in ("semaphore.acquire()", "semaphore.acquire(60)", "semaphore.__enter__()"):
        peer = spawn(
            f"""
            import sys, isthmus
            semaphore = isthmus.NamedSemaphore.open(sys.argv[1])
            print("ready", flush=True)
            try:
                {call}
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            """,
            name,
        )
        peer.expect("ready")
        time.sleep(0.03)  # asleep by now; not needed to pass
        peer.interrupt()
        peer.expect("interrupted")
        peer.finish()
    semaphore.release()
    assert semaphore.acquire(0)


def test_signal_handlers_run_during_a_wait_and_the_wait_goes_on(name: str) -> None:
    semaphore = isthmus.NamedSemaphore(name, 0)
    ran: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: ran.append(number))
    timer = threading.Timer(0.2, semaphore.release)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        timer.start()
        assert semaphore.acquire()
        assert len(ran) > 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        timer.join()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_another_users_semaphore_says_so(name: str) -> None:
    isthmus.NamedSemaphore.create(name, 1).close()
    pid = os.fork()
    if pid == 0:
        os.setgid(65534)
        os.setuid(65534)
        failures = 0
        for call in (isthmus.NamedSemaphore, isthmus.NamedSemaphore.open):
            try:
                call(name)
                failures += 1
            except PermissionError as error:
                failures += file_of(name).name not in str(error)
        os._exit(failures)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
