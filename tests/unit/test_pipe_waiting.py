"""`Pipe`: timeouts, threads, and Ctrl+C."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from streams import blob, fill, in_thread, note, number_of
from support import PATIENCE, run_python


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
        try:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
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
    run_python(
        """
        import isthmus, sys
        sys.path.insert(0, sys.argv[1])
        from streams import receive_under_ctrl_c
        there, back = isthmus.Pipe.two_way(type=bytes)
        receive_under_ctrl_c(there, lambda: back)
        """,
        Path(__file__).parents[1],
    )
