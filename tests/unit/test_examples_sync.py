"""The examples of synchronization do what they say, and the deadlock is named."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import isthmus
from commands import isthmus_command
from support import PATIENCE, object_files, wait_until

ROOT = Path(__file__).parents[2]

LAST = {
    "bounded_buffer.py": "100 items, each once; never more than 4 in the buffer",
    "readers_writers.py": "400 coins moved by 2 writers, 600 sums by 3 readers, 0 wrong",
    "dining_philosophers.py": "3 philosophers, 300 meals, no deadlock",
}


@pytest.mark.parametrize("name", LAST)
def test_it_ends_and_says_what_it_did(name: str, namespace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, LAST[name] + "\n", "")
    assert object_files(namespace) == []


def test_the_deadlock_is_named() -> None:
    program = [sys.executable, str(ROOT / "examples" / "dining_philosophers.py"), "--deadlock"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            (found,) = wait_until(lambda: isthmus.doctor().deadlocks, "the deadlock to be seen")
            assert sorted(found.objects) == ["fork-0", "fork-1", "fork-2"]
            assert len(set(found.pids)) == 3
            done = isthmus_command("doctor")
            assert done.returncode == 1
            assert done.stdout.startswith("Deadlock: ")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
