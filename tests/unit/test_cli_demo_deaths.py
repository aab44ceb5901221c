"""Processes of the demo that die, stop or are interrupted: it says so, and nothing is left behind."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import COMMAND
from support import PATIENCE, object_files, process_state, wait_until


@pytest.fixture(scope="module")
def large_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to count that it takes seconds; one file with many names."""
    root = tmp_path_factory.mktemp("large")
    first = root / "0"
    first.write_text("".join(f"word{n % 5000} and some more text\n" for n in range(100_000)))
    for number in range(1, 12):
        os.link(first, root / str(number))
    return root


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def role_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    at = words.index(b"isthmus.cli._demo_worker") if b"isthmus.cli._demo_worker" in words else -2
    return words[at + 1].decode() if at >= 0 else ""


class Running:
    """A demo at work: all of its processes are there and some pieces are counted."""

    def __init__(self, namespace: Path, *arguments: str) -> None:
        self.namespace = namespace
        self.process = subprocess.Popen(
            [*COMMAND, "demo", "--workers", "3", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: len(self.pids("worker")) == 3 and self.pids("reader"), "the demo's processes")
        self.all = children_of(self.process.pid)
        # A reader that has used CPU time after its start is reading; workers then count.
        wait_until(
            lambda: all(self._has_objects_open(pid) for pid in self.all), "the demo to open its queues"
        )

    def pids(self, role: str) -> list[int]:
        return [pid for pid in children_of(self.process.pid) if role_of(pid) == role]

    def _has_objects_open(self, pid: int) -> bool:
        try:
            text = Path(f"/proc/{pid}/maps").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True  # ended already: the wait is over, and the test will say what it misses
        return "-results" in text and "-tasks" in text

    def end(self, code: int) -> tuple[str, str]:
        out, errors = self.process.communicate(timeout=2 * PATIENCE)
        assert self.process.returncode == code, (out, errors)
        assert "Traceback" not in errors
        self.assert_nothing_left()
        return out, errors

    def assert_nothing_left(self) -> None:
        wait_until(lambda: all(process_state(pid) in ("", "Z") for pid in self.all), "the processes to end")
        wait_until(lambda: object_files(self.namespace) == [], f"names to go: {object_files(self.namespace)}")


@pytest.fixture
def running(large_tree: Path, namespace: Path) -> Iterator[Running]:
    demo = Running(namespace, str(large_tree))
    yield demo
    for pid in demo.all:
        if process_state(pid) not in ("", "Z"):
            os.kill(pid, signal.SIGKILL)
    demo.process.kill()
    demo.process.communicate()


def test_a_worker_killed_is_reported_and_nothing_hangs(running: Running) -> None:
    victim = running.pids("worker")[1]
    os.kill(victim, signal.SIGKILL)
    out, errors = running.end(1)
    assert out == ""
    assert f"worker 2 (pid {victim}) was killed by SIGKILL" in errors


def test_the_reader_killed_is_reported_too(running: Running) -> None:
    (victim,) = running.pids("reader")
    os.kill(victim, signal.SIGKILL)
    _, errors = running.end(1)
    assert f"the reader (pid {victim}) was killed by SIGKILL" in errors


def test_all_workers_killed_at_once(running: Running) -> None:
    for victim in running.pids("worker"):
        os.kill(victim, signal.SIGKILL)
    _, errors = running.end(1)
    assert "was killed by SIGKILL" in errors


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGINT, 130, "isthmus: interrupted\n"),
        (signal.SIGTERM, 143, "isthmus: error: ended by SIGTERM\n"),
        (signal.SIGHUP, 129, "isthmus: error: ended by SIGHUP\n"),
    ],
)
def test_interrupted_it_ends_all_its_processes(
    running: Running, number: signal.Signals, code: int, text: str
) -> None:
    running.process.send_signal(number)
    out, errors = running.end(code)
    assert (out, errors) == ("", text)


def test_an_impatient_user_presses_ctrl_c_again_and_again(running: Running) -> None:
    for _ in range(20):
        running.process.send_signal(signal.SIGINT)
        try:
            running.process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        break
    _, errors = running.end(130)
    assert errors == "isthmus: interrupted\n"


def test_ctrl_c_on_a_terminal_reaches_only_the_collector(running: Running) -> None:
    groups = {os.getpgid(pid) for pid in running.all}
    assert os.getpgid(running.process.pid) not in groups
    running.process.send_signal(signal.SIGINT)
    running.end(130)


def test_the_collector_killed_its_processes_end_by_themselves(running: Running) -> None:
    running.process.kill()
    running.end(-signal.SIGKILL)


def test_a_stopped_worker_is_not_dead(running: Running) -> None:
    victim = running.pids("worker")[0]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: process_state(victim) == "T", "the worker to stop")
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(1.0)
    os.kill(victim, signal.SIGCONT)
    out, errors = running.end(0)
    assert re.fullmatch(r"(queues: .*\n|alone: .*\n)*", errors)  # how far it was, on a slow machine
    assert re.search(r"^agree +yes", out, re.MULTILINE)
