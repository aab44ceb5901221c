"""`Fifo`: names, opening, messages, and foreign programs; deaths and requests are in `test_fifo_*.py`."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from streams import SENDER, blob, compiled, fill, in_thread, note, number_of, open_fds
from support import PATIENCE, Peer, run_python

Start = Callable[..., Peer]
TESTS = Path(__file__).parents[1]
SIZES = [0, 5, 4079, 4080, 4081, 4088, 4089, 8112, 100_000, 1_000_000, 3]
"""Of blobs, which have 8 bytes more: around what fits in one packet."""


# ---------------------------------------------------------------------------------------- names


def test_it_is_made_with_the_mode_and_taken_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "f"
    before = os.umask(0o077)
    try:
        isthmus.Fifo(path, mode=0o622)
        status = path.stat()
        assert stat.S_ISFIFO(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o622
    finally:
        os.umask(before)
    again = isthmus.Fifo(path, mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o622
    assert isthmus.Fifo.open(path).path == again.path == str(path)
    with pytest.raises(FileExistsError):
        isthmus.Fifo.create(path)
    again.unlink()
    with pytest.raises(FileNotFoundError):
        again.unlink()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        isthmus.Fifo.open(path)
    with pytest.raises(FileNotFoundError):
        again.reader()
    isthmus.Fifo.create(path).unlink()
    with pytest.raises(ValueError, match="mode="):
        isthmus.Fifo(path, mode=0o10600)
    with pytest.raises(ValueError, match="limit="):
        isthmus.Fifo(path, limit=-1)


def test_what_is_no_fifo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(isthmus.IncompatibleError, match="is no FIFO"):
            isthmus.Fifo(tmp_path / name)
        with pytest.raises(isthmus.IncompatibleError):
            isthmus.Fifo.open(tmp_path / name)


def test_handles_pickle_by_path_and_close(fifo: isthmus.Fifo[bytes]) -> None:
    gc.collect()  # what earlier tests have left
    before = open_fds()
    copy: isthmus.Fifo[bytes] = pickle.loads(pickle.dumps(fifo))
    assert (copy.path, copy.type) == (fifo.path, bytes)
    reader, writer = copy.reader(), copy.writer()
    copy.close()
    assert copy.closed
    assert reader.closed
    assert writer.closed
    calls: list[Callable[[], object]] = [
        copy.reader,
        copy.writer,
        lambda: reader.recv(1),
        functools.partial(writer.send, b"x"),
        reader.fileno,
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert open_fds() == before
    with pytest.raises(TypeError):
        isthmus.Fifo(fifo.path, type=3).reader()
    assert open_fds() == before


# ---------------------------------------------------------------------------------------- opening


def test_opening_never_deadlocks(fifo: isthmus.Fifo[bytes]) -> None:
    for timeout in (0, 0.05):
        with pytest.raises(isthmus.Timeout, match="for reading"):
            fifo.writer(timeout)
    reader = fifo.reader(0)  # no writer is there
    with pytest.raises(isthmus.Empty):
        reader.recv(0.01)
    writer = fifo.writer(0)
    writer.send(b"x")
    assert reader.recv(0) == b"x"


def test_two_processes_that_open_two_fifos_crosswise(tmp_path: Path, spawn: Start) -> None:
    code = """
        import isthmus, sys
        ours, theirs = isthmus.Fifo(sys.argv[1], type=str), isthmus.Fifo(sys.argv[2], type=str)
        reader = ours.reader(20)
        writer = theirs.writer(20)
        writer.send("hello")
        print(reader.recv(20), flush=True)
        """
    one = spawn(code, tmp_path / "a", tmp_path / "b")
    two = spawn(code, tmp_path / "b", tmp_path / "a")
    one.expect("hello")
    two.expect("hello")


def test_a_writer_waits_for_the_reader(fifo: isthmus.Fifo[bytes], spawn: Start) -> None:
    peer = spawn(SENDER, TESTS, fifo.path, 0, 1, 10)
    time.sleep(0.1)
    reader = fifo.reader()
    peer.expect("open")
    assert number_of(reader.recv(PATIENCE)) == 0


@pytest.mark.parametrize(
    "call", ["fifo.writer()", "reader.recv()", "other.reader()", "full.send(bytes(10**7))"]
)
def test_ctrl_c_ends_every_wait(tmp_path: Path, call: str) -> None:
    out = run_python(
        f"""
        import isthmus, os, signal, sys, threading
        fifo = isthmus.Fifo(sys.argv[1] + "/a", type=bytes)
        other = isthmus.Fifo(sys.argv[1] + "/b", type=bytes)
        reader = other.reader()
        full = other.writer()
        try:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            {call}
        except KeyboardInterrupt:
            print("interrupted")
        while True:  # nothing of what was given up is received
            try:
                reader.recv(0)
                print("a message")
            except isthmus.Empty:
                break
        full.send(b"next", 20)
        assert reader.recv(20) == b"next"
        """,
        tmp_path,
    )
    assert out == "interrupted\n"


# ---------------------------------------------------------------------------------------- messages


def test_messages_of_all_sizes(fifo: isthmus.Fifo[bytes]) -> None:
    reader, writer = fifo.reader(), fifo.writer()
    thread = in_thread(lambda: [writer.send(blob(n, size)) for n, size in enumerate(SIZES)])  # type: ignore[func-returns-value]
    assert [number_of(reader.recv(PATIENCE)) for _ in SIZES] == list(range(len(SIZES)))
    thread.join()
    assert reader.abandoned == 0


def test_types(tmp_path: Path) -> None:
    with isthmus.Fifo(tmp_path / "f", type=dict[str, int]) as fifo:
        reader, writer = fifo.reader(), fifo.writer()
        writer.send({"a": 1})
        assert reader.recv(0) == {"a": 1}
        with isthmus.Fifo(tmp_path / "f", type=list[int]) as other:
            other.writer().send([1])
        with pytest.raises(isthmus.InvalidMessage, match=r"dict\[str, int\]"):
            reader.recv(0)
        writer.send({"b": 2})
        assert reader.recv(0) == {"b": 2}
    with isthmus.Fifo(tmp_path / "f", type=bytes, limit=100) as fifo:
        reader_of_100, small = fifo.reader(), fifo.writer()
        with pytest.raises(isthmus.TooLarge, match="101 bytes is over the limit of 100"):
            small.send(bytes(101))
        for wrong in ("text", 3):
            with pytest.raises(TypeError):
                small.send(wrong)  # type: ignore[arg-type]
        with isthmus.Fifo(tmp_path / "f", type=bytes) as large:
            large.writer().send(bytes(5000))  # the reader takes no more than 100 bytes in parts
        small.send(b"after")
        assert reader_of_100.recv(0) == b"after"
        assert reader_of_100.abandoned == 1


def test_bytes_and_messages_are_not_mixed(fifo: isthmus.Fifo[bytes], lines: isthmus.Fifo[Any]) -> None:
    pairs = [(each.reader(), each.writer()) for each in (fifo, lines)]
    calls: list[Callable[[], object]] = [
        lambda: pairs[0][0].read(timeout=0),
        lambda: pairs[0][1].write(b"x"),
        lambda: pairs[1][0].recv(0),
        functools.partial(pairs[1][1].send, b"x"),
    ]
    for call in calls:
        with pytest.raises(isthmus.Unsupported):
            call()


@pytest.mark.parametrize("size", [100, 20_000])
def test_many_writers_at_once(fifo: isthmus.Fifo[bytes], spawn: Start, size: int) -> None:
    reader = fifo.reader()
    count = 150
    peers = [spawn(SENDER, TESTS, fifo.path, number * count, count, size) for number in range(4)]
    got = [number_of(reader.recv(PATIENCE)) for _ in range(4 * count)]
    assert sorted(got) == list(range(4 * count))
    for number in range(4):  # those of one writer are in order
        own = [each for each in got if each // count == number]
        assert own == sorted(own)
    for peer in peers:
        peer.finish()
    assert reader.abandoned == 0


def test_threads_share_a_writer(fifo: isthmus.Fifo[bytes]) -> None:
    reader, writer = fifo.reader(), fifo.writer()

    def send(first: int) -> None:
        for number in range(40):
            writer.send(blob(first + number, [10, 30_000][number % 2]))

    threads = [in_thread(functools.partial(send, first)) for first in (0, 100, 200)]
    got = sorted(number_of(reader.recv(PATIENCE)) for _ in range(120))
    assert got == [first + number for first in (0, 100, 200) for number in range(40)]
    for thread in threads:
        thread.join()


def test_a_message_that_found_no_room_is_never_received(fifo: isthmus.Fifo[bytes]) -> None:
    reader, writer = fifo.reader(), fifo.writer()
    for timeout in (0, 0.05):
        with pytest.raises(isthmus.Full) as caught:
            writer.send(bytes(5_000_000), timeout)
        assert caught.value.sent == 0
    with pytest.raises(isthmus.Full):
        writer.send(b"small", 0)
    with pytest.raises(isthmus.Empty):
        reader.recv(0)  # takes the parts, and has no message
    writer.send(b"after")
    assert reader.recv(0) == b"after"
    assert reader.abandoned == 1  # for the others there was no room at all


def test_messages_that_stick_together_come_in_order(fifo: isthmus.Fifo[bytes]) -> None:
    """Of a program that does not write in the kernel's packet mode one read brings many."""
    reader, writer = fifo.reader(), fifo.writer()
    raw = os.open(fifo.path, os.O_WRONLY)
    packets = [
        b"\xf1\x1f\0\0" + len(data).to_bytes(4, "little") + data
        for data in map(str.encode, map(str, range(3000)))
    ]
    for piece in (packets[:1000], [b"hello\n"], packets[1000:2000], [b"bye\n"], packets[2000:]):
        os.write(raw, b"".join(piece))
    os.close(raw)
    got: list[bytes] = []
    while True:
        try:
            got.append(reader.recv(0))
        except isthmus.InvalidMessage as error:
            got.append(error.data)
        except isthmus.Empty:
            break
    wanted = [str(number).encode() for number in range(3000)]
    assert got == [*wanted[:1000], b"hello\n", *wanted[1000:2000], b"bye\n", *wanted[2000:]]
    writer.send(b"after")
    assert reader.recv(0) == b"after"


def test_ends_whose_descriptor_was_handed_out_work_on(fifo: isthmus.Fifo[bytes]) -> None:
    reader, writer = fifo.reader(), fifo.writer()
    writer.send(b"before")
    assert os.get_blocking(reader.fileno())
    assert os.get_blocking(writer.fileno())
    assert reader.recv(0) == b"before"
    for timeout in (0, 0.05):
        with pytest.raises(isthmus.Empty):
            reader.recv(timeout)
    count = fill(writer)
    with pytest.raises(isthmus.Full):
        writer.send(b"x", 0.05)
    assert [reader.recv(0) for _ in range(count)] == [b"x" * 1000] * count
    thread = in_thread(functools.partial(writer.send, blob(1, 3_000_000)))
    assert number_of(reader.recv(PATIENCE)) == 1
    thread.join()


def test_closing_in_another_thread_ends_the_waits(fifo: isthmus.Fifo[bytes]) -> None:
    for what in ("recv", "recv with a timeout", "send"):
        reader, writer = fifo.reader(PATIENCE), fifo.writer()
        fill(writer) if what == "send" else None
        found: list[type[BaseException]] = []
        calls: dict[str, Callable[[], object]] = {
            "recv": reader.recv,
            "recv with a timeout": functools.partial(reader.recv, PATIENCE),
            "send": functools.partial(writer.send, b"x"),
        }
        thread = in_thread(functools.partial(note, found, calls[what]))
        time.sleep(0.05)
        (writer if what == "send" else reader).close()
        thread.join(PATIENCE)
        assert found == [isthmus.ClosedError]
        reader.close()
        writer.close()


def test_ctrl_c_at_any_moment_tears_nothing(tmp_path: Path) -> None:
    out = run_python(
        """
        import isthmus, sys
        sys.path.insert(0, sys.argv[1])
        from streams import receive_under_ctrl_c
        fifo = isthmus.Fifo(sys.argv[2], type=bytes)
        reader = fifo.reader()
        receive_under_ctrl_c(reader, fifo.writer)
        print(reader.abandoned)
        """,
        TESTS,
        tmp_path / "f",
    )
    assert out == "0\n"


# ---------------------------------------------------------------------------------------- foreign programs


def test_echo_and_cat(lines: isthmus.Fifo[Any]) -> None:
    reader = lines.reader()
    for word in ("one", "two"):
        subprocess.run(["sh", "-c", f"echo {word} > {lines.path}"], check=True, timeout=PATIENCE)
    assert [reader.readline(PATIENCE), reader.readline(PATIENCE)] == [b"one\n", b"two\n"]
    reader.close()
    with subprocess.Popen(["cat", lines.path], stdout=subprocess.PIPE) as cat:
        with lines.writer(PATIENCE) as writer:
            writer.write(b"to cat\n")
            writer.write(bytes(30_000))
        out, _ = cat.communicate(timeout=PATIENCE)
    assert out == b"to cat\n" + bytes(30_000)


def test_the_end_comes_with_the_last_writer(lines: isthmus.Fifo[Any], fifo: isthmus.Fifo[bytes]) -> None:
    reader = lines.reader(ends_with_writers=True)
    with pytest.raises(isthmus.Empty):
        reader.read(timeout=0.05)  # nobody was there yet
    subprocess.run(["sh", "-c", f"printf 'a\\nb' > {lines.path}"], check=True, timeout=PATIENCE)
    assert list(reader) == [b"a\n", b"b"]
    messages = fifo.reader(ends_with_writers=True)
    with pytest.raises(isthmus.Empty):
        messages.recv(0)
    with fifo.writer() as first, fifo.writer() as second:
        first.send(b"1")
        second.send(b"2" * 10_000)
    assert list(messages) == [b"1", b"2" * 10_000]
    with pytest.raises(isthmus.ShutDown):
        messages.recv()


def test_lines_of_many_writers_stay_whole(lines: isthmus.Fifo[Any], spawn: Start) -> None:
    reader = lines.reader()
    code = """
        import isthmus, sys
        writer = isthmus.Fifo.open(sys.argv[1]).writer(20)
        for number in range(300):
            writer.write(sys.argv[2].encode() * (number * 13 % 4000) + b"\\n")
        """
    peers = [spawn(code, lines.path, letter) for letter in "ab"]
    shell = subprocess.Popen(["sh", "-c", f"for i in 1 2 3 4 5; do echo cccccc > {lines.path}; done"])
    got = [reader.readline(PATIENCE) for _ in range(605)]
    assert all(len(set(line.strip())) <= 1 for line in got)
    assert sorted(map(len, got)) == sorted([number * 13 % 4000 + 1 for number in range(300)] * 2 + [7] * 5)
    for peer in peers:
        peer.finish()
    assert shell.wait(PATIENCE) == 0


def test_what_others_write_between_messages_is_said(fifo: isthmus.Fifo[bytes]) -> None:
    reader, writer = fifo.reader(), fifo.writer()
    shell = ["sh", "-c", f"echo hello > {fifo.path}"]
    for size in (3, 10_000):
        subprocess.run(shell, check=True, timeout=PATIENCE)
        writer.send(blob(1, size))  # sticks to it in the kernel
        subprocess.run(shell, check=True, timeout=PATIENCE)
    got: list[bytes] = []
    while True:
        try:
            got.append(reader.recv(0))
        except isthmus.InvalidMessage as error:
            got.append(error.data)
        except isthmus.Empty:
            break
    assert got == [b"hello\n", blob(1, 3), b"hello\nhello\n", blob(1, 10_000), b"hello\n"]


def test_a_c_program_writes_messages(fifo: isthmus.Fifo[bytes], tmp_path: Path) -> None:
    path = compiled(
        r"""
        #include <fcntl.h>
        #include <string.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            int fd = open(argv[1], O_WRONLY);
            unsigned char packet[8 + 5] = {0xf1, 0x1f, 0, 0, 5, 0, 0, 0};
            memcpy(packet + 8, "hello", 5);
            for (int i = 0; i < 3; i++)
                if (write(fd, packet, sizeof packet) != sizeof packet) return 1;
            return 0;
        }
        """,
        tmp_path,
    )
    reader = fifo.reader()
    subprocess.run([path, fifo.path], check=True, timeout=PATIENCE)
    assert [reader.recv(0) for _ in range(3)] == [b"hello"] * 3


def test_packets_that_lie_are_refused(fifo: isthmus.Fifo[bytes]) -> None:
    reader = fifo.reader()
    writer = fifo.writer()
    raw = os.open(fifo.path, os.O_WRONLY)
    magic = b"\xf1\x1f"
    part = magic + b"\1\0" + (4).to_bytes(4, "little") + b"sender!!" + bytes(4)
    for packet in (
        magic,
        magic + b"\0\0\xff\xff\xff\xff",
        magic + b"\7\0\1\0\0\0x",
        magic + b"\0\1\1\0\0\0x",
        part + (1 << 31).to_bytes(4, "little") + bytes(8) + b"abcd",  # far too large
        part + (100).to_bytes(4, "little") + (50).to_bytes(4, "little") + bytes(4) + b"abcd",  # no beginning
        part + (8).to_bytes(4, "little") + bytes(8) + b"abcd",
        part + (8).to_bytes(4, "little") + (6).to_bytes(4, "little") + bytes(4) + b"abcd",  # a gap
        magic + b"\2\0\0\0\0\0" + b"nobody!!" + bytes(16),
    ):
        os.write(raw, packet)
        writer.send(b"good")
        for _ in range(3):
            try:
                assert reader.recv(0) == b"good"
                break
            except isthmus.InvalidMessage:
                continue
        else:
            raise AssertionError(f"after {packet!r} nothing is received")
    os.close(raw)
