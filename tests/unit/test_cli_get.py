"""`isthmus get`: what is written, and that no message is lost or written twice, whatever ends the command."""

import contextlib
import fcntl
import json
import os
import pickle
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import isthmus
from commands import (
    COMMAND,
    assert_error,
    errors_of,
    isthmus_command,
    on_terminal,
    piped,
    running,
    wait_for_waiting,
)
from support import PATIENCE, Peer, wait_until


class Job(msgspec.Struct):
    id: int


class Marker:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def jobs() -> Iterator[isthmus.Queue[bytes]]:
    """A persistent queue of bytes."""
    with isthmus.Queue("jobs", type=bytes, persistent=True) as q:
        yield q
        q.unlink()


def fill(q: isthmus.Queue[bytes], count: int) -> list[bytes]:
    messages = [b"%d" % number for number in range(count)]
    q.put_many(messages)
    return messages


def rest(q: isthmus.Queue[bytes]) -> list[bytes]:
    """What is left, after what the dead held came back."""
    q.stats()
    found = []
    with contextlib.suppress(isthmus.Empty):
        while True:
            found.append(q.get(0))
    return found


def test_all_that_is_there_is_written_a_line_each(jobs: isthmus.Queue[bytes]) -> None:
    jobs.put_many([b"one", b"", b"\xff two"])
    assert piped(b"", "get", "jobs") == (0, b"one\n\n\xff two\n", "")
    assert piped(b"", "get", "jobs") == (0, b"", "")
    assert jobs.empty()


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--null"], b"a\nb\0\0\xff\0"),
        (["--whole"], b"a\nb\xff"),
        (["--json"], b'"a\\nb"\n""\n{"base64":"/w=="}\n'),
        (["--raw"], b"a\nb\n\n\xff\n"),
    ],
)
def test_messages_are_kept_apart_as_asked_for(
    jobs: isthmus.Queue[bytes], options: list[str], written: bytes
) -> None:
    messages = [b"a\nb", b"", b"\xff"]
    jobs.put_many(messages)
    assert piped(b"", "get", "jobs", *options) == (0, written, "")
    if options in (["--null"], ["--json"]):
        assert piped(written, "put", "jobs", *options) == (0, b"", "")
        assert jobs.get_many(9) == messages


def test_as_many_as_asked_for(jobs: isthmus.Queue[bytes]) -> None:
    fill(jobs, 3)
    assert piped(b"", "get", "jobs", "-n", "2") == (0, b"0\n1\n", "")
    assert piped(b"", "get", "jobs", "-n", "2") == (3, b"2\n", "isthmus: 1 of 2 messages came\n")
    assert piped(b"", "get", "jobs", "-n", "1", "--timeout", "0.01").returncode == 3


def test_it_waits_as_long_as_asked_for(jobs: isthmus.Queue[bytes]) -> None:
    with running("get", "jobs", "-n", "1", "--timeout", "100") as process:
        wait_for_waiting("jobs", "to_get")
        jobs.put(b"late")
        assert process.stdout is not None
        assert process.stdout.read() == b"late\n"
        assert errors_of(process, 0) == ""


def test_followed_each_message_is_written_at_once(jobs: isthmus.Queue[bytes]) -> None:
    with running("get", "jobs", "--follow") as process:
        assert process.stdout is not None
        for number in range(5):
            jobs.put(b"%d" % number)
            assert process.stdout.readline() == b"%d\n" % number
        jobs.shutdown()
        assert process.stdout.read() == b""
        assert errors_of(process, 0) == ""


@pytest.mark.parametrize("killed", [False, True])
def test_followed_it_ends_with_the_producers(spawn: Callable[..., Peer], killed: bool) -> None:
    producer = spawn(
        """
        import isthmus, sys
        q = isthmus.Queue("ending", type=bytes, ends_with_producers=True)
        q.put(b"a")
        print("put", flush=True)
        sys.stdin.readline()
        """
    )
    producer.expect("put")
    with running("get", "ending", "--follow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a\n"
        wait_for_waiting("ending", "to_get")
        if killed:
            producer.kill()
            assert f"process {producer.pid}, the last producer, was killed" in errors_of(process, 1)
        else:
            producer.finish()
            assert errors_of(process, 0) == ""


@pytest.mark.parametrize(
    ("type", "values", "written"),
    [
        (str, ["a", "naïve"], "a\nnaïve\n".encode()),
        (int, [1, -2], b"1\n-2\n"),
        (dict, [{"a": [None, True]}, {}], b'{"a":[null,true]}\n{}\n'),
        (dict[str, list[int]], [{"a": [1]}], b'{"a":[1]}\n'),
        (float, [0.5, float("inf"), float("nan")], b"0.5\nInfinity\nNaN\n"),
        (list[float | None], [[None, float("-inf")]], b"[null,-Infinity]\n"),
        (set[int], [{3}], b"[3]\n"),
    ],
)
def test_typed_messages_are_json_and_go_back_as_they_came(
    type: object, values: list[object], written: bytes
) -> None:
    with isthmus.Queue("typed", type=type) as q:
        q.put_many(values)
        assert piped(b"", "get", "typed") == (0, written, "")
        assert piped(written, "put", "typed") == (0, b"", "")
        assert list(map(repr, q.get_many(9))) == list(map(repr, values))


def test_pickles_are_not_unpickled_unasked(tmp_path: Path) -> None:
    trap = tmp_path / "unpickled"
    with isthmus.Queue("objects", type=object) as q:
        q.put(Marker(trap))
        q.put({"a": 1})
        done = piped(b"", "get", "objects")
        assert done[:2] == (1, b"")
        assert "--unpickle" in done.stderr
        isthmus_command("inspect", "objects")
        isthmus_command("inspect", "objects", "--json")
        assert q.qsize() == 2
        raw = piped(b"", "get", "objects", "-n", "1", "--raw", "--whole").stdout
        assert not trap.exists()
        assert pickle.loads(raw) is None
        assert trap.exists()
        assert piped(b"", "get", "objects", "--unpickle") == (0, b'{"a":1}\n', "")
        q.put(q.stats)
        done = piped(b"", "get", "objects", "--unpickle")
        assert done[:2] == (1, b"")
        assert "cannot be written as JSON" in done.stderr
        assert q.get() is not None


@pytest.mark.parametrize("type", [np.ndarray, Job])
def test_types_that_only_programs_know_come_raw_or_not_at_all(type: object) -> None:
    value: object = Job(id=1) if type is Job else np.arange(3)
    with isthmus.Queue("foreign", type=type) as q:
        q.put(value)
        done = piped(b"", "get", "foreign")
        assert done[:2] == (1, b"")
        assert "the shell does not know" in done.stderr
        assert "--raw" in done.stderr
        raw = piped(b"", "get", "foreign", "--raw", "--json")
        assert raw.returncode == 0
        assert q.empty()
        assert piped(raw.stdout, "put", "foreign", "--raw", "--json") == (0, b"", "")
        assert repr(q.get(0)) == repr(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("nothere", "there is no 'nothere' in /"), ("lock", "'lock' is a mutex, no queue")],
)
def test_what_is_no_queue_is_an_error(name: str, text: str) -> None:
    with isthmus.Mutex("lock"):
        assert_error(isthmus_command("get", name), 1, text)


def test_a_message_that_is_damaged_does_not_stop_the_others() -> None:
    with isthmus.Queue("typed", type=dict) as q:
        piped(b'{"base64": "/w=="}\n', "put", "typed", "--raw", "--json")
        q.put({"a": 1})
        done = piped(b"", "get", "typed")
        assert (done.returncode, done.stdout) == (1, b'{"a":1}\n')
        assert "message 0 is damaged and kept among the dead" in done.stderr
        assert len(q.dead) == 1
        q.dead.get()


def test_without_a_reader_nothing_is_taken(jobs: isthmus.Queue[bytes]) -> None:
    messages = fill(jobs, 3)
    reading, writing = os.pipe()
    os.close(reading)
    with running("get", "jobs", stdout=writing) as process:
        os.close(writing)
        assert errors_of(process, 0) == ""
    assert [one.deliveries for one in isthmus.inspect("jobs").messages] == [0, 0, 0]
    assert rest(jobs) == messages


@pytest.mark.parametrize("length", [10, 3000, 70_000, 1_000_000])
def test_a_reader_that_goes_away_loses_only_what_was_written(jobs: isthmus.Queue[bytes], length: int) -> None:
    messages = [b"%0*d" % (length, number) for number in range(3)]
    jobs.put_many(messages)
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with running("get", "jobs", "--follow", stdout=writing) as process:
        os.close(writing)
        read = b""
        while len(read) < length + 1 + min(length, 5):  # a message and the beginning of the next one
            read += os.read(reading, min(length, 1000))
        os.close(reading)
        assert errors_of(process, 0) == ""
    left = rest(jobs)
    written = (len(read) + room) // (length + 1)
    assert left == messages[3 - len(left) :]
    assert 3 - len(left) <= written
    assert (length < 70_000) or len(left) >= 1


def test_a_reader_that_goes_away_is_noticed_while_nothing_comes(jobs: isthmus.Queue[bytes]) -> None:
    reading, writing = os.pipe()
    with running("get", "jobs", "--follow", stdout=writing) as process:
        os.close(writing)
        wait_for_waiting("jobs", "to_get")
        os.close(reading)
        assert errors_of(process, 0) == ""


def test_a_full_disk_loses_nothing(jobs: isthmus.Queue[bytes]) -> None:
    messages = fill(jobs, 3)
    with Path("/dev/full").open("wb") as full, running("get", "jobs", stdout=full) as process:
        assert "No space left" in errors_of(process, 1)
    assert rest(jobs) == messages


def test_a_closed_output_loses_nothing(jobs: isthmus.Queue[bytes]) -> None:
    messages = fill(jobs, 3)
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" 1>&-', "sh", *COMMAND, "get", "jobs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert_error(done, 1, "standard output cannot be written")
    assert rest(jobs) == messages


def blocked(process: subprocess.Popen[bytes], q: isthmus.Queue[bytes]) -> None:
    """Waits until the command has a message in hand and cannot write all of it."""
    wait_until(lambda: q.stats().leased == 1, "a message to be leased")
    wait_until(
        lambda: (
            "poll" in Path(f"/proc/{process.pid}/wchan").read_text()
            or Path(f"/proc/{process.pid}/syscall").read_text().split()[0] in ("7", "271", "73")
        ),
        "the command to wait for its reader",
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_ended_while_it_writes_the_message_stays(jobs: isthmus.Queue[bytes], number: int, code: int) -> None:
    message = bytes(range(256)) * 4096
    jobs.put(message)
    with running("get", "jobs") as process:
        blocked(process, jobs)
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
        said = errors_of(process, code)
        assert said == {130: "", 143: "isthmus: error: ended by SIGTERM\n", -9: ""}[code]
    assert rest(jobs) == [message]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_ended_while_it_waits(jobs: isthmus.Queue[bytes], number: int, code: int) -> None:
    with running("get", "jobs", "--follow") as process:
        wait_for_waiting("jobs", "to_get")
        process.send_signal(number)
        said = errors_of(process, code)
    assert said == (
        "" if number == signal.SIGINT else f"isthmus: error: ended by {signal.Signals(number).name}\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("length", [6, 9000])
def test_interrupted_anywhere_each_message_is_written_or_stays(
    jobs: isthmus.Queue[bytes], number: int, length: int
) -> None:
    random_numbers = random.Random(length)
    count = 20_000 if length < 100 else 300
    for _ in range(8):
        messages = [b"%0*d" % (length, number) for number in range(count)]
        jobs.put_many(messages)
        with running("get", "jobs") as process:
            assert process.stdout is not None
            first = process.stdout.read(length + 1)
            time.sleep(random_numbers.random() / 100)
            process.send_signal(number)
            written = first + process.stdout.read()
            process.wait(PATIENCE)
        whole = written.split(b"\n")
        cut = whole.pop()
        left = rest(jobs)
        assert whole + left == messages
        # Of the message that was being written there may be the beginning.
        assert left[0].startswith(cut) if left else not cut


def test_killed_anywhere_nothing_is_lost(jobs: isthmus.Queue[bytes]) -> None:
    random_numbers = random.Random(3)
    for _ in range(5):
        messages = fill(jobs, 20_000)
        with running("get", "jobs") as process:
            assert process.stdout is not None
            first = process.stdout.read(2)
            time.sleep(random_numbers.random() / 100)
            process.kill()
            written = (first + process.stdout.read()).split(b"\n")[:-1]
            process.wait(PATIENCE)
        left = rest(jobs)
        # Killed between writing and acknowledging, the last one comes again.
        assert written + left in (messages, written + messages[len(written) - 1 :])


def test_a_reader_that_does_not_block_gets_everything(jobs: isthmus.Queue[bytes]) -> None:
    messages = [b"%05d" % number * 300 for number in range(200)]
    jobs.put_many(messages)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with running("get", "jobs", stdout=writing) as process, os.fdopen(reading, "rb") as output:
        os.close(writing)
        assert output.read().splitlines() == messages
        assert errors_of(process, 0) == ""


def test_several_share_the_messages(jobs: isthmus.Queue[bytes]) -> None:
    with running("get", "jobs", "--follow") as one, running("get", "jobs", "--follow") as other:
        wait_for_waiting("jobs", "to_get", 2)
        messages = fill(jobs, 5000)
        jobs.shutdown()
        written = [process.communicate(timeout=PATIENCE)[0].split() for process in (one, other)]
    assert sorted(written[0] + written[1], key=int) == messages
    assert all(part == sorted(part, key=int) for part in written)


def test_on_a_terminal_messages_cannot_move_the_cursor(jobs: isthmus.Queue[bytes]) -> None:
    jobs.put("naïve \x1b[2J\x07".encode())
    jobs.put(b"\xff\n")
    code, shown = on_terminal("get", "jobs", PYTHONIOENCODING="utf-8")
    assert (code, shown) == (0, "naïve \\x1b[2J\\x07\r\n\\xff\\n\r\n")


def test_what_the_dead_had_on_lease_comes_first(
    jobs: isthmus.Queue[bytes], spawn: Callable[..., Peer]
) -> None:
    fill(jobs, 3)
    peer = spawn(
        """
        import isthmus, sys
        q = isthmus.Queue.open("jobs", type=bytes)
        lease = q.lease()
        print("leased", flush=True)
        sys.stdin.readline()
        """
    )
    peer.expect("leased")
    peer.kill()
    assert piped(b"", "get", "jobs").stdout == b"0\n1\n2\n"


def test_json_lines_are_one_line_each(jobs: isthmus.Queue[bytes]) -> None:
    text = 'line\nbreaks\r\u2028 and "quotes"'
    jobs.put(text.encode())
    out = piped(b"", "get", "jobs", "--json").stdout
    assert out.count(b"\n") == 1
    assert json.loads(out) == text
