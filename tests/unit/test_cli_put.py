"""`isthmus put`: what becomes a message, what is refused with which words, and how many were put."""

import json
import pickle
import random
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

import isthmus
from commands import COMMAND, errors_of, piped, running, wait_for_waiting
from support import PATIENCE, wait_until


class Job(msgspec.Struct):
    id: int


def taken(name: str, type: object = bytes) -> list[object]:
    """Everything in the queue, which is then removed."""
    with isthmus.Queue.open(name, type=type) as q:
        messages = q.get_many(10**6, 0) if q.qsize() else []
        q.unlink()
    return messages


@pytest.mark.parametrize(
    ("data", "options", "messages"),
    [
        (b"one\ntwo\n\nthree", [], [b"one", b"two", b"", b"three"]),
        (b"one\r\ntwo\n", [], [b"one\r", b"two"]),
        (b"", [], []),
        (b"\n", [], [b""]),
        (b"a\nb\0\0c", ["--null"], [b"a\nb", b"", b"c"]),
        (b"a\0", ["--null"], [b"a"]),
        (b"", ["--null"], []),
        (b"all\nof\0it\n", ["--whole"], [b"all\nof\0it\n"]),
        (b"", ["--whole"], [b""]),
        (b'"a"\n\n{"base64": "AP8="}\n', ["--json"], [b"a", b"\0\xff"]),
    ],
)
def test_input_is_cut_into_messages(data: bytes, options: list[str], messages: list[bytes]) -> None:
    assert piped(data, "put", "jobs", *options) == (0, b"", "")
    assert isthmus.inspect("jobs").persistent
    assert taken("jobs") == messages


@pytest.mark.parametrize("cut", [1, 4095, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("options", [[], ["--null"], ["--whole"]])
def test_messages_of_every_length_come_whole(cut: int, options: list[str]) -> None:
    data = random.Random(cut).randbytes(300_000).replace(b"\n", b"x").replace(b"\0", b"y")
    end = {"--null": b"\0", "--whole": b""}.get("".join(options), b"\n")
    assert piped(data[:cut] + end + data[cut:], "put", "jobs", *options).returncode == 0
    whole = [data[:cut], data[cut:]] if end else [data]
    assert taken("jobs") == whole


def test_a_new_queue_is_as_asked_for() -> None:
    options = ["--type", "str", "--capacity", "128K", "--priorities", "3", "--priority", "2"]
    assert piped("naïve\n".encode(), "put", "jobs", *options) == (0, b"", "")
    found = isthmus.inspect("jobs")
    assert (found.attributes["capacity"], found.attributes["priorities"]) == (128 << 10, 3)
    assert [one.priority for one in found.messages] == [2]
    assert taken("jobs", str) == ["naïve"]


def test_one_that_exists_is_used_as_it_is() -> None:
    with isthmus.Queue("jobs", type=bytes, capacity=1 << 16) as q:
        assert piped(b"a\n", "put", "jobs") == (0, b"", "")
        assert piped(b"b\n", "put", "jobs", "--type", "bytes", "--capacity", "64K").returncode == 0
        done = piped(b"c\n", "put", "jobs", "--capacity", "1M")
        assert done.returncode == 1
        assert "capacity=65536 and capacity=1048576 was asked for" in done.stderr
        done = piped(b"c\n", "put", "jobs", "--type", "dict")
        assert done.returncode == 1
        assert "bytes" in done.stderr
        assert "type=dict" in done.stderr
        assert not isthmus.inspect("jobs").persistent
        assert q.get_many(9) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("type", "lines", "messages"),
    [
        ("dict", b'{"a": [1, null]}\n\n {}\n', [{"a": [1, None]}, {}]),
        ("int", b"1\n-2", [1, -2]),
        ("list[int]", b"[1,2]\n[]\n", [[1, 2], []]),
        ("dict[str, float | None]", b'{"a": 0.5}\n{"b": null}\n', [{"a": 0.5}, {"b": None}]),
        ("float", b"1e3\nNaN\n-Infinity\n", [1000.0, float("nan"), float("-inf")]),
        ("tuple[str, ...]", b'["a", "b"]\n', [("a", "b")]),
        ("object", b'{"a": {"b": [true]}}\n"text"\n', [{"a": {"b": [True]}}, "text"]),
    ],
)
def test_typed_queues_take_lines_of_json(type: str, lines: bytes, messages: list[object]) -> None:
    assert piped(lines, "put", "jobs", "--type", type) == (0, b"", "")
    assert isthmus.inspect("jobs").attributes["type"] == type
    kind = {"object": object}.get(type) or eval(type)
    assert list(map(repr, taken("jobs", kind))) == list(map(repr, messages))


@pytest.mark.parametrize(
    ("type", "options", "data", "text", "count"),
    [
        ("dict", [], b'{}\n{}\n{"a": }\n{}\n', "line 3: JSON is malformed", 2),
        ("int", [], b"1\nxyz\n", "line 2: JSON is malformed", 1),
        ("int", [], b"1\n\n2.5\n", "line 3: Expected `int`, got `float`", 1),
        ("int", ["--whole"], b"1 2", "the input: JSON is malformed", 0),
        ("str", [], b"a\n\xff\n", "line 2: 'utf-8' codec can't decode byte 0xff", 1),
        ("bytes", ["--json"], b'"a"\n1\n', 'line 2: a string or {"base64": "…"} is needed', 1),
        ("bytes", ["--json"], b'{"base64": "?"}\n', "line 1: no base64", 0),
        ("bytes", ["--null"], b"a\0" + b"x" * 200_000, "record 2 is too large", 1),
        ("bytes", [], b"x" * 200_000 + b"\nb\n", "line 1 is too large", 0),
        ("bytes", ["--whole"], b"x" * 200_000, "the input is too large", 0),
    ],
)
def test_what_is_no_message_is_named_and_what_was_before_is_put(
    type: str, options: list[str], data: bytes, text: str, count: int
) -> None:
    done = piped(data, "put", "jobs", "--type", type, "--capacity", "64K", *options)
    assert done.returncode == 1
    assert done.stderr.startswith(f"isthmus: error: {text}")
    assert done.stderr.endswith(f"; {count} message{'s were' if count != 1 else ' was'} put\n")
    assert isthmus.inspect("jobs").state["depth"] == count
    isthmus.remove("jobs")


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (np.ndarray, "the shell does not know arrays; with --raw it moves them as they are encoded"),
        (Job, "the shell does not know messages of type Job; with --raw"),
        (isthmus.Codec("dict", bytes, bytes), "the shell does not know messages of type dict"),
    ],
)
def test_types_that_only_programs_know_are_refused(type: object, text: str) -> None:
    with isthmus.Queue("jobs", type=type) as q:
        done = piped(b"{}\n", "put", "jobs")
        assert done.returncode == 1
        assert done.stderr.startswith(f"isthmus: error: {text}")
        assert q.empty()


def test_messages_that_are_encoded_already_go_in_as_they_are() -> None:
    with isthmus.Queue("jobs", type=Job) as q:
        encoded = msgspec.msgpack.encode(Job(id=7))
        assert piped(encoded, "put", "jobs", "--raw", "--whole") == (0, b"", "")
        assert q.get() == Job(id=7)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "x" * 300, "a\nb"])
def test_a_name_that_cannot_be_is_a_wrong_argument(name: str) -> None:
    done = piped(b"", "put", name)
    assert done.returncode == 2
    assert "cannot be a name" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--null", "--whole"], "not allowed with"),
        (["--timeout", "-1"], "'-1' is not a number of seconds"),
        (["--timeout", "soon"], "'soon' is not a number of seconds"),
        (["--type", "Job"], "'Job' is no type such as"),
        (["--type", "__import__('os')"], "is no type such as"),
        (["--priority", "1"], "--priority 1: the queue has 1 level of priority, from 0"),
    ],
)
def test_wrong_options_say_what_is_wrong(options: list[str], text: str) -> None:
    done = piped(b"", "put", "jobs", *options)
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr


def test_another_kind_of_object_is_no_queue() -> None:
    with isthmus.Mutex("lock"):
        done = piped(b"", "put", "lock")
    assert (done.returncode, done.stderr) == (1, "isthmus: error: 'lock' is a mutex, no queue\n")


def test_without_room_in_time_it_says_how_many_were_put() -> None:
    lines = b"%s\n" % (b"x" * 999) * 100
    for timeout in ("0", "0.05"):
        done = piped(lines, "put", "jobs", "--capacity", "64K", "--timeout", timeout)
        inside = isthmus.inspect("jobs").state["depth"]
        count = inside if timeout == "0" else 0
        assert 0 < inside < 100
        were = f"{count} messages were put"
        assert (done.returncode, done.stderr) == (
            3,
            f"isthmus: error: no room in the queue for {timeout} s; {were}\n",
        )
    isthmus.remove("jobs")


def test_a_full_queue_is_waited_for() -> None:
    numbers = [b"%0999d" % number for number in range(90)]
    with isthmus.Queue("jobs", type=bytes, capacity=1 << 16) as q, running("put", "jobs") as process:
        assert process.stdin is not None
        process.stdin.write(b"\n".join(numbers))
        process.stdin.close()
        wait_for_waiting("jobs", "to_put")
        assert [q.get(PATIENCE) for _ in numbers] == numbers
        assert errors_of(process, 0) == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_ended_while_it_waits_for_room_it_says_how_many_were_put(number: int, code: int) -> None:
    with isthmus.Queue("jobs", type=bytes, capacity=1 << 16) as q, running("put", "jobs") as process:
        assert process.stdin is not None
        process.stdin.write(b"%s\n" % (b"x" * 999) * 60)
        process.stdin.flush()
        wait_for_waiting("jobs", "to_put")
        process.send_signal(number)
        said = errors_of(process, code)
        assert said.startswith(f"isthmus: {q.qsize()} messages were put\n")
        assert said.count("\n") == (1 if number == signal.SIGINT else 2)
        while not q.empty():
            q.get()


def test_interrupted_anywhere_the_count_is_exact() -> None:
    numbers = random.Random(1)
    with isthmus.Queue("jobs", type=bytes, capacity=32 << 20) as q:
        for _ in range(12):
            source = "import sys\nfor i in range(10**7): sys.stdout.write(f'{i}\\n')"
            with subprocess.Popen(
                [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as lines:
                process = subprocess.Popen(
                    [*COMMAND, "put", "jobs"],
                    stdin=lines.stdout,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                with process:
                    wait_until(lambda: q.qsize() > 0, "the first message")
                    time.sleep(numbers.random() / 50)
                    process.send_signal(signal.SIGINT)
                    said = errors_of(process, 130)
                lines.kill()
            depth = q.qsize()
            assert said == f"isthmus: {depth:,} message{'s were' if depth > 1 else ' was'} put\n"
            assert q.get_many(depth) == [b"%d" % number for number in range(depth)]


def test_killed_in_the_middle_what_it_put_is_there() -> None:
    with isthmus.Queue("jobs", type=bytes, capacity=1 << 16) as q, running("put", "jobs") as process:
        assert process.stdin is not None
        process.stdin.write(b"\n".join(b"%d" % number for number in range(10_000)))
        process.stdin.flush()
        wait_for_waiting("jobs", "to_put")
        process.kill()
        process.wait(PATIENCE)
        depth = q.qsize()
        assert q.get_many(depth) == [b"%d" % number for number in range(depth)]
        assert q.empty()


def test_a_queue_that_was_shut_down_takes_nothing() -> None:
    with isthmus.Queue("jobs", type=bytes) as q:
        q.shutdown()
        done = piped(b"a\n", "put", "jobs")
    assert done.returncode == 1
    assert "it was shut down; 0 messages were put" in done.stderr


def test_the_last_one_of_a_queue_that_does_not_stay_says_what_goes_with_it() -> None:
    q = isthmus.Queue("jobs", type=bytes)
    with running("put", "jobs") as process:
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        wait_until(lambda: len(isthmus.inspect("jobs").attached) == 2, "put to open the queue")
        q.close()
        process.stdin.close()
        said = errors_of(process, 0)
    assert said.startswith("isthmus: warning: ")
    assert "1 message" in said


def test_lines_are_put_as_they_come() -> None:
    with isthmus.Queue("jobs", type=bytes) as q:
        for options in ([], ["--null"]):
            with running("put", "jobs", *options) as process:
                assert process.stdin is not None
                for number in range(3):
                    process.stdin.write(b"%d%s" % (number, b"\0" if options else b"\n"))
                    process.stdin.flush()
                    assert q.get(PATIENCE) == b"%d" % number
                process.stdin.close()
                assert errors_of(process, 0) == ""


def test_without_an_input_it_says_so() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" 0<&-', "sh", *COMMAND, "put", "jobs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "isthmus: error: standard input is closed\n")


def test_it_was_pickled_where_the_queue_is_of_objects() -> None:
    piped(b'{"a": 1}\n', "put", "jobs", "--type", "object")
    (message,) = isthmus.inspect("jobs").messages
    assert pickle.loads(message.data) == {"a": 1}
    assert json.loads(piped(b"", "get", "jobs", "--unpickle").stdout) == {"a": 1}
    isthmus.remove("jobs")
