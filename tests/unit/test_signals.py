"""`isthmus.signals`: sending, to the process that was meant and to none else."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import isthmus
from isthmus import signals
from programs import Program
from signallers import ask, signaller
from support import PATIENCE, Peer, process_state, wait_until

RT = int(signal.SIGRTMIN)
Start = Callable[..., Peer]

WAITS = """
    import signal, sys
    def tell(number, frame):
        print("got", number, flush=True)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN):
        signal.signal(number, tell)
    print("ready", flush=True)
    sys.stdin.read()
    """


@pytest.fixture
def program() -> Iterator[Program]:
    """The C program at the other end."""
    with signaller() as found:
        yield found


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A foreign program that does nothing for a long time."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def gone(process: subprocess.Popen[bytes]) -> int:
    """Ends and collects a process; its number, which is nobody's (for now)."""
    process.kill()
    process.wait()
    return process.pid


# --------------------------------------------------------------------------------------------- who


def test_every_kind_of_object_that_stands_for_a_process(spawn: Start) -> None:
    peer = spawn(WAITS)
    peer.expect("ready")
    asked: list[Any] = [peer.pid, peer.process, psutil.Process(peer.pid), signals.ProcessHandle(peer.pid)]
    for target in asked:
        signals.send(target, signal.SIGUSR1)
        peer.expect(f"got {int(signal.SIGUSR1)}")
    asked[-1].close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(1000,))
    with pytest.raises(ValueError, match="not started"):
        signals.send(process, signal.SIGTERM)
    process.start()
    handle = signals.ProcessHandle(process)
    assert (handle.pid, handle.alive) == (process.pid, True)
    signals.send(process, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError, match=r"has ended|no process"):
        signals.send(process, signal.SIGTERM)
    assert not handle.alive
    handle.close()


def test_processes_of_asyncio() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        signals.send(process, signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            signals.send(process, signal.SIGTERM)

    asyncio.run(main())


def test_a_handle_says_what_it_is(sleeper: subprocess.Popen[bytes]) -> None:
    handle = signals.ProcessHandle(sleeper)
    again = signals.ProcessHandle(handle)
    assert (handle.pid, handle.alive, handle.closed, handle.status()) == (sleeper.pid, True, False, None)
    assert repr(handle) == f"<isthmus.signals.ProcessHandle {sleeper.pid} (alive)>"
    handle.close()
    handle.close()
    assert repr(handle) == f"<isthmus.signals.ProcessHandle {sleeper.pid} (closed)>"
    assert handle.closed
    for call in (handle.fileno, handle.status, lambda: handle.send(15), lambda: handle.alive):
        with pytest.raises(isthmus.ClosedError):
            call()
    with again:
        gone(sleeper)
        assert not again.alive
        assert again.status() == -signal.SIGKILL
        assert "(ended)" in repr(again)
    assert again.closed


def test_handles_give_their_descriptors_back(sleeper: subprocess.Popen[bytes]) -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        signals.send(sleeper, signal.SIGCONT)
        signals.ProcessHandle(sleeper)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_process_that_has_ended_is_not_there(sleeper: subprocess.Popen[bytes]) -> None:
    handle = signals.ProcessHandle(sleeper.pid)
    sleeper.kill()
    wait_until(lambda: process_state(sleeper.pid) == "Z", "the zombie")
    for target in (handle, sleeper.pid):  # kill(2) would say that all is well
        with pytest.raises(ProcessLookupError, match=f"process {sleeper.pid} has ended"):
            signals.send(target, signal.SIGTERM)
        with pytest.raises(ProcessLookupError, match=f"process {sleeper.pid} has ended"):
            signals.sigqueue(target, RT, 1)
    sleeper.wait()
    targets: list[Any] = [handle, sleeper.pid, sleeper]
    for target in targets:
        with pytest.raises(ProcessLookupError, match=r"has ended|there is no process"):
            signals.send(target, signal.SIGTERM)
    handle.close()


def reuse(pid: int) -> subprocess.Popen[bytes]:
    """Another process of the same number; the number has to be free."""
    last = Path("/proc/sys/kernel/ns_last_pid")

    def attempt() -> subprocess.Popen[bytes] | None:
        last.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "1000"])
        if process.pid == pid:
            return process
        gone(process)
        return None

    found = wait_until(attempt, f"the kernel to give number {pid} out again")
    assert found is not None
    return found


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="choosing the number of the next process takes root")
def test_the_next_process_of_the_number_is_never_hit() -> None:
    first = subprocess.Popen(["sleep", "1000"])
    by_psutil = psutil.Process(first.pid)
    handle = signals.ProcessHandle(first.pid)
    pid = gone(first)
    time.sleep(0.02)  # psutil tells processes apart by when they began, in hundredths of a second
    second = reuse(pid)
    try:
        os.kill(pid, 0)  # by number there is somebody
        for target in (handle, first, by_psutil):
            for call in (
                lambda target: signals.send(target, signal.SIGKILL),
                lambda target: signals.sigqueue(target, RT, 1),
                signals.resume,
                signals.stop,
            ):
                with pytest.raises(ProcessLookupError):
                    call(target)
        assert signals.terminate(first).status == -signal.SIGKILL  # how the first one ended
        assert not handle.alive
        assert second.poll() is None
        assert process_state(pid) not in ("", "T", "Z")
    finally:
        gone(second)
        handle.close()


# --------------------------------------------------------------------------------------------- what


@pytest.mark.parametrize("number", [-1, 0, 32, 33, 65, 1000])
def test_what_is_no_signal_is_refused(number: int) -> None:
    for call in (signals.send, signals.sigqueue):
        with pytest.raises(ValueError, match=rf"signal is {number}: there are 1 to 31 and"):
            call(os.getpid(), number)


def test_what_is_no_process_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pid is 0: it takes 1 or more"):
        signals.send(0, signal.SIGTERM)  # kill(2) would take it for the own process group
    with pytest.raises(ValueError, match=r"pid is -1"):
        signals.send(-1, signal.SIGTERM)  # and this for everybody
    with pytest.raises(TypeError, match="signal is 'SIGTERM'"):
        signals.send(os.getpid(), "SIGTERM")  # type: ignore[arg-type]
    for wrong in ("init", 1.5, None):
        with pytest.raises(TypeError, match="is no process"):
            signals.send(wrong, signal.SIGTERM)  # type: ignore[arg-type]


def test_a_thread_is_no_process() -> None:
    with isthmus.signals.on_signal(print, RT):  # has a thread
        others = {int(path.name) for path in Path("/proc/self/task").iterdir()} - {os.getpid()}
        with pytest.raises(ProcessLookupError, match="no process"):
            signals.send(others.pop(), signal.SIGTERM)


def test_a_value_is_a_c_int(program: Program) -> None:
    for value in (-(2**31) - 1, 2**31, 10**30):
        with pytest.raises(OverflowError, match=f"value is {value}: a signal carries a C int"):
            signals.sigqueue(program.pid, RT, value)
        with pytest.raises(OverflowError, match=f"value is {value}: a signal carries a C int"):
            signals.Alarm(1, signal=RT, value=value)
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError, match="a signal carries a C int"):
            signals.sigqueue(program.pid, RT, wrong)  # type: ignore[arg-type]
    for value in (0, 1, -1, 2**31 - 1, -(2**31)):
        signals.sigqueue(program.pid, RT, value)
        answer = ask(program, "take", RT, 1)
        assert answer == f"code -1 pid {os.getpid()} uid {os.getuid()} first {value} last {value} in order"


def test_thousands_go_to_a_c_program_in_order(program: Program) -> None:
    with signals.ProcessHandle(program.pid) as handle:
        for number in range(5000):
            handle.sigqueue(RT, number)
    answer = ask(program, "take", RT, 5000)
    assert answer == f"code -1 pid {os.getpid()} uid {os.getuid()} first 0 last 4999 in order"


def test_the_limit_of_the_receiver_is_named(program: Program) -> None:
    status = Path("/proc/self/status").read_text()
    used = int(status.split("SigQ:")[1].split("/")[0])
    assert ask(program, "limit", used + 20) == "0"
    sent, caught = 0, ""
    while not caught:
        try:
            signals.sigqueue(program.pid, RT, sent)
        except isthmus.Full as error:
            caught = str(error)
        else:
            sent += 1
    assert "RLIMIT_SIGPENDING (ulimit -i) is reached" in caught
    assert 0 < sent <= 20
    assert f"{int(used + 20)} are queued" in caught
    assert f"SIGRTMIN cannot be queued for process {program.pid}" in caught
    with pytest.raises(isthmus.Timeout):
        signals.sigqueue(program.pid, RT, sent, timeout=0.01)
    # A signal without a number goes through, but is not queued any more: it is said in the docs.
    signals.send(program.pid, signal.SIGUSR1)
    assert ask(program, "pending", signal.SIGUSR1) == "1"
    assert ask(program, "take", RT, sent).endswith(f"first 0 last {sent - 1} in order")


def test_a_sender_waits_for_room(program: Program) -> None:
    assert ask(
        program, "limit", int(Path("/proc/self/status").read_text().split("SigQ:")[1].split("/")[0]) + 50
    )
    program.send(f"take {RT} 3000")
    with signals.ProcessHandle(program.pid) as handle:
        for number in range(3000):
            handle.sigqueue(RT, number, timeout=None)
    assert program.line().endswith("first 0 last 2999 in order")


@pytest.mark.parametrize("how", ["killed", "stopped, then killed"])
def test_a_sender_that_waits_for_room_hears_of_the_end(program: Program, how: str) -> None:
    ask(program, "limit", 0)
    killer = f"import os, time; time.sleep(0.2); print('now', flush=True); os.kill({program.pid}, 9)"
    if how != "killed":
        program.stop()
    with subprocess.Popen([sys.executable, "-c", killer], stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            signals.sigqueue(program.pid, RT, 1, timeout=None)
        except ProcessLookupError as error:
            assert "has ended" in str(error)  # noqa: PT017 - see below
        # Or it was just dying: then the kernel takes every signal for it, and drops it. Never before.
        assert select.select([process.stdout], [], [], 0)[0]
    assert signals.wait_for_exit(program.process, timeout=PATIENCE) == -9


# --------------------------------------------------------------------------------------------- groups


def test_a_group_gets_it_all(spawn: Start) -> None:
    code = (
        "import subprocess, sys\n"
        "children = [subprocess.Popen(['sleep', '1000']) for _ in range(3)]\n"
        "print(*(child.pid for child in children), flush=True)\n"
        "print(*(child.wait() for child in children), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        pids = [int(pid) for pid in leader.stdout.readline().split()]
        handle = signals.ProcessHandle(leader)
        handle.send(signal.SIGCONT, group=True)
        assert not {process_state(pid) for pid in pids} & {"", "T", "Z"}
        # The leader dies, its group lives on, and can still be reached without a race.
        gone(leader)
        with pytest.raises(ProcessLookupError):
            handle.send(signal.SIGTERM)
        handle.sigqueue(signal.SIGTERM, 7, group=True)
        wait_until(lambda: all(process_state(pid) in ("", "Z") for pid in pids), "the group to end")
        handle.close()


def test_a_group_whose_leader_is_gone_is_reached_by_number() -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        pid = int(leader.stdout.readline())
        leader.wait()
        signals.send(leader.pid, signal.SIGTERM, group=True)
        wait_until(lambda: process_state(pid) in ("", "Z"), "the rest of the group to end")
        with pytest.raises(ProcessLookupError):
            signals.sigqueue(leader.pid, RT, 1, group=True)


def test_numbers_to_a_group(spawn: Start) -> None:
    code = """
        import os, signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
        os.setpgid(0, 0)
        from isthmus import signals
        def read(name):
            with signals.Receiver(signal.SIGRTMIN) as receiver:
                os.write(1, name)
                print(*(receiver.get(30).value for _ in range(100)), flush=True)
        child = os.fork()
        if child == 0:
            receiver = signals.Receiver(signal.SIGRTMIN)
            os.write(1, b"child\\n")  # in one piece: both write there
            assert [receiver.get(30).value for _ in range(100)] == list(range(100))
            os._exit(0)
        read(b"parent\\n")
        print(os.waitpid(child, 0)[1], flush=True)
        """
    peer = spawn(code)
    assert {peer.line(), peer.line()} == {"child", "parent"}
    with signals.ProcessHandle(peer.pid) as handle:
        for number in range(100):
            handle.sigqueue(RT, number, group=True)
    peer.expect(" ".join(map(str, range(100))))
    peer.expect("0")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_a_process_of_another_user_is_denied() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.path, sep='\\n')"], capture_output=True, check=True
    )
    assert done.stdout
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            signals.send(os.getppid(), signal.SIGCONT)  # allowed within a session
            signals.send(os.getppid(), signal.SIGTERM)
        except PermissionError as error:
            os._exit(7 if "belongs to another user" in str(error) else 8)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# --------------------------------------------------------------------------------------------- names


def test_public_names_are_typed_documented_and_pickle() -> None:
    assert signals.__all__ == sorted(signals.__all__)
    for name in signals.__all__:
        value = getattr(signals, name)
        assert value.__module__ == "isthmus.signals"
        assert value.__doc__, name
        assert pickle.loads(pickle.dumps(value)) is value
        if isinstance(value, type):
            for member in vars(value):
                assert member.startswith("_") or getattr(value, member).__doc__, f"{name}.{member}"


def test_it_is_there_without_an_import_of_its_own(spawn: Start) -> None:
    code = "import isthmus, sys; assert 'isthmus.signals' not in sys.modules; print(isthmus.signals.send)"
    assert "function send" in spawn(code).finish()
