"""`Pipe` without a type: bytes, lines, and what the kernel moves."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from streams import in_thread
from support import PATIENCE


def feed(writer: isthmus.PipeWriter[Any], data: bytes) -> None:
    """Writes bytes, and closes."""
    with writer:
        writer.write(data)


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
