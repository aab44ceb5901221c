"""`Pipe`: messages, and handles; bytes, waiting, and the other end are in `test_pipe_*.py`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus
from streams import SIZES, blob, fill, in_thread, number_of, open_fds, send_blobs
from support import PATIENCE, run_python


@dataclass
class Job:
    """A message."""

    name: str
    size: int


def send_twice(writer: isthmus.PipeWriter[Any], value: object) -> None:
    writer.send(value)
    writer.send(value, timeout=PATIENCE)


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
    gc.collect()  # what earlier tests have left
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
