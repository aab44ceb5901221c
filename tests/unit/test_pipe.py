"""`Pipe`: bytes and messages between processes, whatever becomes of the other end."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forking
import isthmus
from isthmus import _descriptors as descriptors
from streams import blob, compiled, echo_back, number_of, open_fds, program, send_blobs
from support import PATIENCE, Watchdog, process_state, run_python, wait_until

SIZES = [0, 1, 4, 100, 4083, 4084, 4085, 4092, 65_524, 65_528, 65_536, 300_000, 1_500_000, 7, 7]
"""Of blobs, which have 8 bytes more: around PIPE_BUF, around what is read ahead, beyond every capacity."""
WAYS = ["nowait", "careful", "nonblocking"]


@dataclass
class Job:
    """A message."""

    name: str
    size: int


@pytest.fixture
def messages() -> Iterator[isthmus.Pipe[bytes]]:
    """A pipe for messages of bytes."""
    with isthmus.Pipe(type=bytes) as pipe:
        yield pipe


@pytest.fixture
def stream() -> Iterator[isthmus.Pipe[Any]]:
    """A pipe for bytes."""
    with isthmus.Pipe() as pipe:
        yield pipe


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[isthmus.Pipe[Any]], None]:
    """Makes the ends of a pipe work in one of the three ways there are, whatever this kernel has."""

    def change(pipe: isthmus.Pipe[Any]) -> None:
        for end in (pipe.reader, pipe.writer):
            if request.param == "nonblocking":
                os.set_blocking(end._fd, False)
            calls = descriptors.calls_for(end._fd, careful=request.param == "careful")
            end._take_back()
            end._read_now, end._write_now = calls
            end._hand_out()

    return change


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def fill(writer: isthmus.PipeWriter[Any]) -> int:
    """Writes until there is no room."""
    count = 0
    while True:
        try:
            writer.send(b"x" * 1000, timeout=0)
        except isthmus.Full:
            return count
        count += 1


def send_twice(writer: isthmus.PipeWriter[Any], value: object) -> None:
    writer.send(value)
    writer.send(value, timeout=PATIENCE)


def note(found: list[type[BaseException]], call: Callable[..., object], *args: object) -> None:
    """Writes down the type of what a call raises."""
    try:
        call(*args)
    except isthmus.IsthmusError as error:
        found.append(type(error))


def feed(writer: isthmus.PipeWriter[Any], data: bytes) -> None:
    """Writes bytes, and closes."""
    with writer:
        writer.write(data)


# ---------------------------------------------------------------------------------------- messages


def test_messages_of_all_sizes_arrive_whole_and_in_order(
    messages: isthmus.Pipe[bytes], way: Callable[[isthmus.Pipe[Any]], None]
) -> None:
    way(messages)
    thread = in_thread(lambda: send_blobs(messages.writer, SIZES))
    for number, size in enumerate(SIZES):
        assert messages.reader.recv(PATIENCE) == blob(number, size)
    with pytest.raises(isthmus.ShutDown):
        messages.reader.recv()
    thread.join()


def test_what_is_sent_with_a_timeout_is_the_same_to_the_receiver(
    messages: isthmus.Pipe[bytes], way: Callable[[isthmus.Pipe[Any]], None]
) -> None:
    way(messages)

    def send() -> None:
        for number, size in enumerate(SIZES):
            messages.writer.send(blob(number, size), timeout=PATIENCE)
        messages.writer.close()

    thread = in_thread(send)
    assert [number_of(message) for message in messages.reader] == list(range(len(SIZES)))
    thread.join()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Job, Job("a", 1)),
        (list[int], list(range(50_000))),
        (dict[str, bytes], {"a": bytes(10), "b": bytes(100_000)}),
        (object, {1: {2, 3}, "x": b"y" * 200_000}),
        (Job | int, 7),
        (str, "é" * 3000),
    ],
)
def test_types_are_encoded_and_decoded(kind: Any, value: object) -> None:
    with isthmus.Pipe(type=kind) as pipe:
        thread = in_thread(lambda: send_twice(pipe.writer, value))
        assert pipe.reader.recv(PATIENCE) == value
        assert pipe.reader.recv(PATIENCE) == value
        thread.join()


def test_arrays_keep_dtype_and_shape() -> None:
    with isthmus.Pipe(type=np.ndarray) as pipe:
        for shape in ((3, 4), (0,), (500, 300)):
            array = np.arange(np.prod(shape), dtype="<f4").reshape(shape)
            thread = in_thread(lambda array=array: pipe.writer.send(array))  # type: ignore[misc]
            got = pipe.reader.recv(PATIENCE)
            thread.join()
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)


def test_a_codec_of_the_users_own() -> None:
    codec = isthmus.Codec(
        "point/1", lambda point: b"%d,%d" % point, lambda data: tuple(bytes(data).split(b","))
    )
    with isthmus.Pipe(type=codec) as pipe:
        pipe.writer.send((1, 2))
        assert pipe.reader.recv(0) == (b"1", b"2")


def test_buffers_go_in_and_bytes_come_out(messages: isthmus.Pipe[bytes]) -> None:
    writer: Any = messages.writer
    for given in (bytearray(b"abc"), memoryview(b"abc"), np.frombuffer(b"abc", dtype="u1")):
        writer.send(given)
        got = messages.reader.recv(0)
        assert (type(got), got) == (bytes, b"abc")
    for wrong in ("abc", 3, None):
        with pytest.raises(TypeError, match="buffer protocol"):
            writer.send(wrong)


def test_what_is_not_of_the_type_is_said_and_the_next_is_taken() -> None:
    reader, writer = isthmus.Pipe()
    typed = isthmus.PipeReader(os.dup(reader.fileno()), type=Job)
    with reader, writer, typed:
        for text in (b"\x81\xa1x\x01", b"\xc1"):
            writer.write(len(text).to_bytes(4, "little") + text)
            with pytest.raises(isthmus.InvalidMessage, match="Job") as caught:
                typed.recv(0)
            assert caught.value.data == text
        with isthmus.PipeWriter(os.dup(writer.fileno()), type=Job) as good:
            good.send(Job("b", 2))
        assert typed.recv(0) == Job("b", 2)


def test_many_at_once(messages: isthmus.Pipe[bytes]) -> None:
    given = [b"%d" % number * (number % 90) for number in range(1000)]
    big = [*given[:10], bytes(100_000), *given[10:20]]
    thread = in_thread(lambda: messages.writer.send_many([*given, *big]))
    got: list[bytes] = []
    while len(got) < len(given) + len(big):
        got += messages.reader.recv_many(most=50, timeout=PATIENCE)
    assert got == [*given, *big]
    thread.join()
    with pytest.raises(isthmus.Empty):
        messages.reader.recv_many(timeout=0)
    room = fill(messages.writer)
    assert room > 0
    with pytest.raises(isthmus.Full) as caught:
        messages.writer.send_many([bytes(1500), bytes(1500)], timeout=0)
    assert caught.value.sent == 0
    for _ in range(room):
        messages.reader.recv(0)
    with pytest.raises(isthmus.Full) as caught:
        messages.writer.send_many([b"y" * 3000] * 1000, timeout=0)
    sent = caught.value.sent
    assert 0 < sent < 1000
    assert len(messages.reader.recv_many(timeout=0)) <= sent
    with pytest.raises(ValueError, match="most=0"):
        messages.reader.recv_many(0)


def test_sizes_have_limits(stream: isthmus.Pipe[Any]) -> None:
    with isthmus.Pipe(type=bytes, limit=100) as pipe:
        pipe.writer.send(bytes(100))
        for timeout in (None, 1):
            with pytest.raises(isthmus.TooLarge, match="101 bytes is over the limit of 100") as caught:
                pipe.writer.send(bytes(101), timeout)
            assert (caught.value.size, caught.value.limit) == (101, 100)
        assert pipe.reader.recv(0) == bytes(100)
    stream.writer.write((1 << 29).to_bytes(4, "little") + b"rest")
    with isthmus.PipeReader(stream.reader, type=bytes) as reader:
        for _ in range(2):
            with pytest.raises(isthmus.TooLarge, match=str(1 << 29)):
                reader.recv(0)
    for limit in (-1, 1 << 31):
        with pytest.raises(ValueError, match="limit="):
            isthmus.Pipe(type=bytes, limit=limit)


def test_bytes_and_messages_are_not_mixed(messages: isthmus.Pipe[bytes], stream: isthmus.Pipe[Any]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: messages.reader.read(timeout=0),
        lambda: messages.reader.readline(timeout=0),
        lambda: messages.reader.splice_to(messages.writer),
        lambda: messages.writer.write(b"x"),
        lambda: messages.writer.splice_from(messages.reader),
        lambda: stream.writer.send(b"x"),
        lambda: stream.writer.send(b"x", timeout=1),
        lambda: stream.reader.recv(0),
    ]
    for call in calls:
        with pytest.raises(isthmus.Unsupported):
            call()


# ---------------------------------------------------------------------------------------- waiting


def test_timeouts_of_the_receiver(messages: isthmus.Pipe[bytes]) -> None:
    for timeout in (0, 0.05):
        with pytest.raises(isthmus.Empty):
            messages.reader.recv(timeout)
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout is"):
            messages.reader.recv(wrong)


def test_half_a_message_stays_for_the_next_call(stream: isthmus.Pipe[Any]) -> None:
    data = blob(3, 200_000)
    frame = len(data).to_bytes(4, "little") + data
    reader: isthmus.PipeReader[bytes] = isthmus.PipeReader(stream.reader, type=bytes)
    with reader:
        for start, end in ((0, 2), (2, 5), (5, 100_000), (100_000, len(frame) - 1)):
            stream.writer.write(frame[start:end])
            with pytest.raises(isthmus.Empty):
                reader.recv(0)
        stream.writer.write(frame[-1:] + b"\1\0\0\0z")
        assert reader.recv(0) == data
        assert reader.recv(0) == b"z"


@pytest.mark.parametrize("size", [3000, 1_000_000])
def test_a_message_that_found_no_room_is_never_received(
    messages: isthmus.Pipe[bytes], size: int, way: Callable[[isthmus.Pipe[Any]], None]
) -> None:
    way(messages)
    before = fill(messages.writer) if size == 3000 else 0
    for timeout in (0, 0.05):
        with pytest.raises(isthmus.Full) as caught:
            messages.writer.send(bytes(size), timeout)
        assert caught.value.sent == 0
    sender = in_thread(lambda: messages.writer.send(b"after", PATIENCE))  # what is missing goes first
    got = [messages.reader.recv(PATIENCE) for _ in range(before + 1)]
    assert got == [b"x" * 1000] * before + [b"after"]
    sender.join()
    with pytest.raises(isthmus.Empty):
        messages.reader.recv(0)


def test_flush_pays_what_a_timeout_left_behind(messages: isthmus.Pipe[bytes]) -> None:
    messages.writer.flush(0)
    with pytest.raises(isthmus.Full):
        messages.writer.send(bytes(1_000_000), 0)
    with pytest.raises(isthmus.Full):
        messages.writer.flush(0)
    got: list[bytes] = []
    reader = in_thread(lambda: got.extend(messages.reader))
    messages.writer.flush(PATIENCE)
    messages.writer.close()
    reader.join()
    assert got == []


def test_closing_after_half_a_message_that_was_given_up_is_an_end_in_the_middle(
    messages: isthmus.Pipe[bytes],
) -> None:
    with pytest.raises(isthmus.Full):
        messages.writer.send(bytes(1_000_000), 0)
    messages.writer.close()
    for _ in range(2):
        with pytest.raises(isthmus.PeerDied, match="1000005 bytes came"):
            messages.reader.recv(PATIENCE)


def test_closing_in_another_thread_ends_the_waits() -> None:
    calls: list[Callable[[isthmus.Pipe[bytes]], object]] = [
        lambda pipe: pipe.reader.recv(),
        lambda pipe: pipe.reader.recv(PATIENCE),
        lambda pipe: pipe.writer.send(bytes(5_000_000)),
    ]
    for number, call in enumerate(calls):
        with isthmus.Pipe(type=bytes) as pipe:
            found: list[type[BaseException]] = []

            thread = in_thread(functools.partial(note, found, call, pipe))
            time.sleep(0.05)
            (pipe.writer if number == 2 else pipe.reader).close()
            thread.join(PATIENCE)
            assert found == [isthmus.ClosedError]


def send_some(writer: isthmus.PipeWriter[bytes], first: int, sizes: list[int]) -> None:
    for number in range(60):
        writer.send(blob(first + number, sizes[number % len(sizes)]))


def test_threads_share_the_ends(messages: isthmus.Pipe[bytes]) -> None:
    sizes = [10, 5000, 100_000]
    counts = [0] * 4
    senders = [
        in_thread(functools.partial(send_some, messages.writer, first, sizes)) for first in (0, 1000, 2000)
    ]
    got: list[int] = []

    def receive(index: int) -> None:
        while True:
            try:
                message = messages.reader.recv()
            except isthmus.ShutDown:
                return
            got.append(number_of(message))
            counts[index] += 1

    receivers = [in_thread(lambda index=index: receive(index)) for index in range(4)]  # type: ignore[misc]
    for thread in senders:
        thread.join()
    messages.writer.close()
    for thread in receivers:
        thread.join()
    assert sorted(got) == [first + n for first in (0, 1000, 2000) for n in range(60)]


@pytest.mark.parametrize(
    "call",
    [
        "reader.recv()",
        "reader.recv(60)",
        "writer.send(bytes(10_000_000))",
        "writer.send(bytes(10_000_000), 60)",
        "writer.send_many([b'x'] * 1_000_000)",
    ],
)
def test_ctrl_c_ends_every_wait_and_nothing_is_torn(call: str) -> None:
    out = run_python(
        f"""
        import isthmus, os, signal, threading
        pipe = isthmus.Pipe(type=bytes)
        reader, writer = pipe
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted")
        thread = threading.Thread(target=writer.send, args=(b"next",))
        thread.start()
        while (got := reader.recv(20)) != b"next":
            assert got == b"x" or got == bytes(10_000_000), len(got)
        thread.join()
        """
    )
    assert out == "interrupted\n"


def test_ctrl_c_at_any_moment_loses_no_place_in_the_stream() -> None:
    out = run_python(
        """
        import isthmus, os, random, signal, sys, threading, time
        sys.path.insert(0, sys.argv[1])
        from streams import blob, number_of
        there, back = isthmus.Pipe.two_way(type=bytes)
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            there.close()
            for number in range(30_000):
                back.send(blob(number, (number * 37) % 9000))
            os._exit(0)
        back.close()
        stop, go = threading.Event(), threading.Event()
        def press():
            go.wait()
            while not stop.wait(random.random() * 0.002):
                os.kill(os.getpid(), signal.SIGINT)
        signals = threading.Thread(target=press)
        signals.start()
        pressed, last, got = 0, -1, 0
        while True:
            try:
                go.set()
                try:
                    message = there.recv(20)
                except isthmus.ShutDown:
                    break
                number = number_of(message)
                assert number > last, (number, last)
                last = number
                got += 1
            except KeyboardInterrupt:
                pressed += 1
        while True:
            try:
                stop.set()
                signals.join()
                break
            except KeyboardInterrupt:
                pass
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(pressed > 20, last, got > 29_000)
        """,
        Path(__file__).parents[1],
    )
    assert out == "True 29999 True\n"


# ---------------------------------------------------------------------------------------- the other end


def test_a_clean_end_is_shut_down_and_bytes_before_it_arrive(messages: isthmus.Pipe[bytes]) -> None:
    messages.writer.send(b"last")
    messages.writer.close()
    assert messages.reader.recv(0) == b"last"
    for _ in range(2):
        with pytest.raises(isthmus.ShutDown, match="nothing more will come"):
            messages.reader.recv()
    assert list(messages.reader) == []


def test_nobody_reads_any_more(messages: isthmus.Pipe[bytes], stream: isthmus.Pipe[Any]) -> None:
    messages.reader.close()
    for message in (b"x", bytes(100_000)):
        for timeout in (None, 0, 1):
            with pytest.raises(isthmus.ShutDown, match="nobody will read"):
                messages.writer.send(message, timeout)
    with pytest.raises(isthmus.ShutDown):
        messages.writer.send_many([b"a", b"b"])
    stream.reader.close()
    with pytest.raises(isthmus.ShutDown):
        stream.writer.write(b"x")
    with pytest.raises(isthmus.ShutDown), Path("/dev/zero").open("rb") as zeros:
        stream.writer.splice_from(zeros, 100)


def test_a_sender_killed_in_the_middle_of_a_message(messages: isthmus.Pipe[bytes]) -> None:
    code = """
        import isthmus
        writer = isthmus.PipeWriter(1, type=bytes)
        writer.send(b"whole")
        writer.send(bytes(10_000_000))
        """
    with program(code, stdout=messages.writer) as process:
        messages.writer.close()
        assert messages.reader.recv(PATIENCE) == b"whole"
        wait_until(
            lambda: descriptors.is_ready(messages.reader.fileno(), select.POLLIN), "some of it to come"
        )
        process.kill()
        process.wait()
        with pytest.raises(isthmus.PeerDied, match="of 10000004 bytes came"):
            messages.reader.recv(PATIENCE)


def test_a_receiver_killed_in_the_middle_of_a_message(messages: isthmus.Pipe[bytes]) -> None:
    code = "import isthmus, time; isthmus.PipeReader(0, type=bytes).recv(); time.sleep(600)"
    with program(code, stdin=messages.reader) as process:
        messages.reader.close()
        messages.writer.send(b"first")
        sender = threading.Timer(0.1, process.kill)
        sender.start()
        with pytest.raises(isthmus.PeerDied, match="bytes went"):
            messages.writer.send(bytes(50_000_000))
        with pytest.raises(isthmus.ShutDown):
            messages.writer.send(b"x")
        sender.join()


def test_a_stopped_receiver_delays_and_loses_nothing(messages: isthmus.Pipe[bytes]) -> None:
    code = """
        import isthmus, zlib
        reader = isthmus.PipeReader(0, type=bytes)
        print(sum(zlib.crc32(message) for message in reader))
        """
    import zlib

    with program(code, stdin=messages.reader, stdout=subprocess.PIPE) as process:
        messages.reader.close()
        messages.writer.send(b"go")
        process.send_signal(signal.SIGSTOP)
        count = 0
        while True:
            try:
                messages.writer.send(blob(count, 50_000), timeout=0.1)
            except isthmus.Full:
                break
            count += 1
        process.send_signal(signal.SIGCONT)
        messages.writer.close()
        out, _ = process.communicate(timeout=PATIENCE)
        # What was given up when it was full is filled up by closing only where there is room.
        if process.returncode == 0:
            assert int(out) == zlib.crc32(b"go") + sum(zlib.crc32(blob(n, 50_000)) for n in range(count))


@pytest.mark.parametrize("action", ["SIG_DFL", "SIG_IGN"])
def test_sigpipe_never_kills(action: str) -> None:
    out = run_python(
        f"""
        import isthmus, os, signal
        signal.signal(signal.SIGPIPE, signal.{action})
        reader, writer = isthmus.Pipe(type=bytes)
        raw, into = isthmus.Pipe()
        reader.close()
        raw.close()
        for call in (
            lambda: writer.send(b"x"),
            lambda: writer.send(bytes(100_000), 1),
            lambda: into.write(b"x"),
            lambda: into.splice_from(open("/dev/zero", "rb"), 10),
        ):
            try:
                call()
            except isthmus.ShutDown:
                print("shut down")
        assert not signal.sigpending()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        """
    )
    assert out == "shut down\n" * 4


def sleeps(pid: int) -> bool:
    return process_state(pid) == "S"


def test_killed_at_random_the_other_end_is_told(messages: isthmus.Pipe[bytes]) -> None:
    """Senders are killed under load: whole messages before, then an end, and never a hang."""
    dog = Watchdog()
    ends: list[type[BaseException]] = []
    for turn in range(8):
        reader, writer = isthmus.Pipe(type=bytes)
        code = """
            import isthmus, itertools, sys
            sys.path.insert(0, sys.argv[1])
            from streams import blob
            writer = isthmus.PipeWriter(1, type=bytes)
            for number in itertools.count():
                writer.send(blob(number, (number * 7919) % 150_000))
            """
        with program(code, Path(__file__).parents[1], stdout=writer) as process:
            writer.close()
            got = 0
            while True:
                try:
                    message = reader.recv(PATIENCE)
                except (isthmus.ShutDown, isthmus.PeerDied) as error:
                    ends.append(type(error))
                    break
                assert number_of(message) == got
                got += 1
                if got == 20 + 31 * turn:
                    if turn % 2:
                        # Nobody reads: soon it sleeps in a message that the pipe has no room for.
                        wait_until(functools.partial(sleeps, process.pid), "the sender to be held up")
                        time.sleep(0.02)
                    process.kill()
                dog.check(got)
        reader.close()
    assert len(ends) == 8
    assert isthmus.PeerDied in ends


# ---------------------------------------------------------------------------------------- related processes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_ends_go_to_children_of_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    ours, theirs = isthmus.Pipe.two_way(type=list[int])
    child = context.Process(target=echo_back, args=(theirs,))
    child.start()
    theirs.close()
    with ours:
        for size in (1, 1000, 100_000):
            ours.send(list(range(size)))
            assert ours.recv(PATIENCE) == list(range(size))
        if method != "fork":  # a forked child has our writing end too, and would wait for ever
            ours.writer.close()
            with pytest.raises(isthmus.ShutDown):
                ours.recv(PATIENCE)
        else:
            child.kill()
    child.join(PATIENCE)
    assert child.exitcode == (-signal.SIGKILL if method == "fork" else 0)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_one_end_alone_goes_too(method: str) -> None:
    pipe = isthmus.Pipe(type=bytes)
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=send_blobs, args=(pipe.writer, SIZES))
    child.start()
    reader = pipe.as_reader()
    assert [number_of(message) for message in reader] == list(range(len(SIZES)))
    child.join(PATIENCE)
    assert child.exitcode == 0


def test_each_process_keeps_one_end_of_a_forked_pipe() -> None:
    out = forking.run(
        textwrap.dedent("""
        pipe = isthmus.Pipe(type=bytes)
        def work():
            writer = pipe.as_writer()
            for number in range(1000):
                writer.send(b"%d" % number)
        pid = child(work)
        assert [int(message) for message in pipe.as_reader()] == list(range(1000))
        join(pid)
        say("done")
        """)
    )
    assert out == "done\n"


def test_what_a_parent_read_ahead_is_not_the_childs() -> None:
    out = forking.run(
        textwrap.dedent("""
        pipe = isthmus.Pipe(type=bytes)
        pipe.writer.send(b"1")
        pipe.writer.send(b"2")
        assert pipe.reader.recv() == b"1"
        def work():
            try:
                pipe.reader.recv(5)
            except isthmus.Unsupported as error:
                say(error)
        join(child(work))
        assert pipe.reader.recv(0) == b"2"
        join(child(lambda: pipe.writer.send(b"3")))  # with nothing read ahead the end works on
        assert pipe.reader.recv(0) == b"3"
        """)
    )
    assert "5 bytes ahead" in out


def test_pickled_otherwise_an_end_is_opened_through_proc(messages: isthmus.Pipe[bytes]) -> None:
    reader = pickle.loads(pickle.dumps(messages.reader))
    writer = pickle.loads(pickle.dumps(messages.writer))
    assert reader.type is bytes
    messages.close()
    writer.send(blob(1, 200_000))
    assert reader.recv(0) == blob(1, 200_000)
    # Its own descriptor does not block; handed to a program it does, as that expects.
    assert not os.get_blocking(writer._fd)
    with program("print('from a program')", stdout=writer):
        assert os.get_blocking(writer._fd)
        writer.send(b"x")
    writer.close()
    reader.close()


def test_an_end_whose_sender_has_gone_says_so(messages: isthmus.Pipe[bytes]) -> None:
    sent = pickle.dumps(messages.reader)
    messages.writer.send(b"1")
    messages.writer.send(b"2")
    assert messages.reader.recv(0) == b"1"
    with pytest.raises(isthmus.Unsupported, match="read 5 bytes ahead"):
        pickle.dumps(messages.reader)
    messages.close()
    with pytest.raises(FileNotFoundError, match="closed it"):
        pickle.loads(sent)
    with pytest.raises(isthmus.ClosedError):
        pickle.dumps(messages.reader)
    other = isthmus.Pipe()  # has the same numbers
    assert other.reader.fileno() in {3, *range(500)}
    with pytest.raises(FileNotFoundError):
        pickle.loads(sent)
    other.close()


def test_a_descriptor_passed_over_a_socket(messages: isthmus.Pipe[bytes]) -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        socket.send_fds(left, [b"x"], [messages.reader.fileno()])
        _, (fd,), _, _ = socket.recv_fds(right, 1, 1)
    with isthmus.PipeReader(fd, type=bytes) as reader:
        messages.writer.send(b"hello")
        assert reader.recv(0) == b"hello"


# ---------------------------------------------------------------------------------------- programs


def test_standard_streams_of_any_program() -> None:
    there, back = isthmus.Pipe(), isthmus.Pipe()
    with subprocess.Popen(
        ["sort", "-r"], stdin=there.reader.fileno(), stdout=back.writer.fileno()
    ) as process:
        writer, reader = there.as_writer(), back.as_reader()
        writer.write(b"a\nc\n")
        writer.write(b"b\n")
        writer.close()
        assert list(reader) == [b"c\n", b"b\n", b"a\n"]
        assert process.wait() == 0
    reader.close()


def test_two_way_to_a_program_and_it_keeps_blocking_descriptors() -> None:
    ours, theirs = isthmus.Pipe.two_way()
    code = """
        import os, sys
        assert os.get_blocking(0) and os.get_blocking(1)
        for line in sys.stdin:
            print(line.strip().upper(), flush=True)
        """
    with program(code, stdin=theirs.reader, stdout=theirs.writer) as process:
        theirs.close()
        for word in (b"one\n", b"two\n"):
            ours.write(word)
            assert ours.readline(PATIENCE) == word.upper()
        ours.writer.close()
        assert ours.read(timeout=PATIENCE) == b""
        assert process.wait(PATIENCE) == 0
    ours.close()


def test_a_c_program_speaks_the_frames(tmp_path: Path) -> None:
    echo = compiled(
        """
        #include <stdint.h>
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) {
            uint32_t size;
            while (fread(&size, 4, 1, stdin) == 1) {
                char *data = malloc(size + 1);
                if (fread(data, 1, size, stdin) != size) return 1;
                for (uint32_t i = 0; i < size; i++) data[i] ^= 0x20;
                fwrite(&size, 4, 1, stdout);
                fwrite(data, 1, size, stdout);
                fflush(stdout);
                free(data);
            }
            return 0;
        }
        """,
        tmp_path,
    )
    ours, theirs = isthmus.Pipe.two_way(type=bytes)
    with subprocess.Popen([echo], stdin=theirs.reader.fileno(), stdout=theirs.writer.fileno()) as process:
        theirs.close()
        for size in (0, 5, 100_000):
            ours.send(b"a" * size)
            assert ours.recv(PATIENCE) == b"A" * size
        ours.writer.close()
        assert process.wait(PATIENCE) == 0
    ours.close()


# ---------------------------------------------------------------------------------------- bytes


def test_reading_bytes(stream: isthmus.Pipe[Any], way: Callable[[isthmus.Pipe[Any]], None]) -> None:
    way(stream)
    reader, writer = stream
    assert writer.write(b"one\ntwo\nthree") == 13
    assert reader.read(2) == b"on"
    assert reader.readline(0) == b"e\n"
    assert reader.read_exactly(3) == b"two"
    with pytest.raises(isthmus.Empty):
        reader.read_exactly(100, 0)
    assert reader.readline(0) == b"\n"
    with pytest.raises(isthmus.Empty):
        reader.readline(0.01)
    writer.write(b"!\n")
    buffer = bytearray(4)
    assert reader.readinto(buffer) == 4
    assert buffer == b"thre"
    assert reader.read(0, timeout=0) == b""
    assert reader.read_exactly(3) == b"e!\n"
    with pytest.raises(isthmus.Empty):
        reader.readinto(buffer, 0)
    writer.write(b"tail")
    assert reader.readinto(buffer, 0) == 4
    writer.write(b"12345")
    writer.close()
    with pytest.raises(isthmus.PeerDied, match="5 of 6 bytes came"):
        reader.read_exactly(6)
    assert reader.read_all() == b"12345"
    assert (reader.read(), reader.readline(), reader.readinto(buffer), reader.read_all()) == (
        b"",
        b"",
        0,
        b"",
    )
    with pytest.raises(isthmus.ShutDown):
        reader.read_exactly(1)
    with pytest.raises(ValueError, match="size=-1"):
        reader.read(-1)


def test_writing_bytes_says_how_many_went(stream: isthmus.Pipe[Any]) -> None:
    data = os.urandom(3_000_000)
    with pytest.raises(isthmus.Full) as caught:
        stream.writer.write(data, timeout=0.05)
    sent = caught.value.sent
    assert sent == stream.reader.capacity
    thread = in_thread(lambda: feed(stream.writer, data[sent:]))
    assert stream.reader.read_all(PATIENCE) == data
    thread.join()


def test_lines_of_any_length(stream: isthmus.Pipe[Any]) -> None:
    lines = [b"x" * size + b"\n" for size in (0, 1, 65_535, 65_536, 300_000, 3)] + [b"no end"]
    thread = in_thread(lambda: feed(stream.writer, b"".join(lines)))
    assert list(stream.reader) == lines
    thread.join()


def test_splice_between_pipes_and_files(tmp_path: Path) -> None:
    data = os.urandom(2_000_000)
    (tmp_path / "in").write_bytes(data)
    with isthmus.Pipe() as first, isthmus.Pipe() as second:

        def feed() -> None:
            with (tmp_path / "in").open("rb") as source:
                assert first.writer.splice_from(source, 1_000_000) == 1_000_000
                assert first.writer.splice_from(source) == 1_000_000
            first.writer.close()

        def pump() -> None:
            first.reader.read(5)  # what was read ahead goes first
            assert first.reader.splice_to(second.writer) == len(data) - 5
            second.writer.close()

        threads = [in_thread(feed), in_thread(pump)]
        with (tmp_path / "out").open("wb") as target:
            assert second.reader.splice_to(target, timeout=PATIENCE) == len(data) - 5
        for thread in threads:
            thread.join()
        assert second.reader.splice_to(sys.__stderr__.fileno()) == 0  # type: ignore[union-attr]
    assert (tmp_path / "out").read_bytes() == data[5:]


def test_splice_falls_back_where_the_kernel_cannot(tmp_path: Path) -> None:
    with isthmus.Pipe() as pipe, (tmp_path / "log").open("ab") as target:
        pipe.writer.write(b"a" * 50_000)
        assert pipe.reader.splice_to(target, 50_000) == 50_000
        with Path("/proc/self/status").open("rb") as source:  # no splice from there on all kernels
            moved = pipe.writer.splice_from(source)
        pipe.writer.close()
        assert len(pipe.reader.read_all()) == moved > 100
    assert (tmp_path / "log").read_bytes() == b"a" * 50_000


def test_splice_has_timeouts_and_sees_the_end(stream: isthmus.Pipe[Any]) -> None:
    left, right = socket.socketpair()
    with left, right, isthmus.Pipe() as other:
        with pytest.raises(isthmus.Timeout, match="no byte to move"):
            stream.reader.splice_to(left, timeout=0.05)
        with pytest.raises(isthmus.Timeout, match="no byte to move"):
            stream.writer.splice_from(left, timeout=0.05)
        stream.writer.write(b"through a socket")
        assert stream.reader.splice_to(left, 16) == 16
        assert right.recv(100) == b"through a socket"
        right.sendall(b"and back")
        assert stream.writer.splice_from(left, 8) == 8
        assert stream.reader.read() == b"and back"
        with pytest.raises(isthmus.Timeout, match="no room"), Path("/dev/zero").open("rb") as zeros:
            stream.writer.splice_from(zeros, timeout=0.05)
        other.reader.close()
        with pytest.raises(isthmus.ShutDown):
            stream.reader.splice_to(other.writer)


# ---------------------------------------------------------------------------------------- handles


def test_capacity_is_the_kernels(stream: isthmus.Pipe[Any]) -> None:
    with isthmus.Pipe(capacity=10_000) as pipe:
        assert pipe.reader.capacity == pipe.writer.capacity == 16_384
        pipe.writer.capacity = 65_536
        assert pipe.reader.capacity == 65_536
        pipe.writer.write(bytes(50_000))
        with pytest.raises(ValueError, match="more than that is in the pipe"):
            pipe.reader.capacity = 4096
        with pytest.raises(ValueError, match="capacity=0"):
            pipe.reader.capacity = 0


def test_a_capacity_over_the_limit_says_which() -> None:
    with pytest.raises(isthmus.NoSpaceError, match="/proc/sys/fs/pipe-max-size"):
        isthmus.Pipe(capacity=1 << 40)
    out = run_python(
        """
        import isthmus, os, pathlib
        limit = int(pathlib.Path("/proc/sys/fs/pipe-max-size").read_text())
        isthmus.Pipe().close()  # imports what it needs, which another user perhaps may not read
        if os.getuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        try:
            isthmus.Pipe(capacity=limit * 2)
        except isthmus.NoSpaceError as error:
            print(error)
        """
    )
    limit = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    assert f"over the limit of {limit} in /proc/sys/fs/pipe-max-size" in out


def test_closed_handles_say_so_and_nothing_leaks() -> None:
    before = open_fds()
    pipe = isthmus.Pipe(type=bytes)
    reader, writer = pipe
    assert not pipe.closed
    with pipe:
        pass
    pipe.close()
    assert (pipe.closed, reader.closed, writer.closed) == (True, True, True)
    calls: list[Callable[[], object]] = [
        reader.recv,
        lambda: reader.recv(1),
        reader.fileno,
        lambda: reader.capacity,
        lambda: writer.send(b"x"),
        lambda: writer.send(bytes(100_000), 1),
        lambda: writer.send_many([b"a", b"b"]),
        writer.flush,
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert "closed" in repr(pipe)
    assert "closed" in repr(reader)
    isthmus.Pipe()  # closed when it is collected
    isthmus.Pipe.two_way()
    with pytest.raises(TypeError):
        isthmus.Pipe(type=3)
    with pytest.raises(TypeError):
        isthmus.Pipe.two_way(type=bytes, back=3)
    assert open_fds() == before


def test_an_end_of_any_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\nb\n")
    with (tmp_path / "file").open("rb") as file:
        with isthmus.PipeReader(file) as reader:  # a duplicate: the file stays open
            assert list(reader) == [b"a\n", b"b\n"]
        assert not file.closed
        with pytest.raises(ValueError, match="open for reading only"):
            isthmus.PipeWriter(file)
    with pytest.raises(ValueError, match="-1 is no descriptor"):
        isthmus.PipeReader(-1)


def test_descriptors_are_not_inherited_by_programs(messages: isthmus.Pipe[bytes]) -> None:
    for end in messages:
        assert not os.get_inheritable(end.fileno())


def test_tee_copies_and_takes_nothing(stream: isthmus.Pipe[Any]) -> None:
    with isthmus.Pipe() as copy:
        stream.writer.write(b"x" * 100_000)
        assert stream.reader.tee_to(copy.writer, 60_000) == 60_000
        assert copy.reader.read_exactly(60_000) == b"x" * 60_000
        assert stream.reader.read_exactly(100_000) == b"x" * 100_000
        with pytest.raises(isthmus.Timeout):
            stream.reader.tee_to(copy.writer, timeout=0.05)
        stream.writer.write(b"one\ntwo\n")
        assert stream.reader.readline() == b"one\n"  # what was read ahead is copied from here
        assert stream.reader.tee_to(copy.writer) == 4
        assert copy.reader.read() == b"two\n"
        assert stream.reader.read() == b"two\n"
        stream.writer.close()
        assert stream.reader.tee_to(copy.writer) == 0
