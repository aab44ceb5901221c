"""`Pipe`: the other end, whatever becomes of it: ended, killed, stopped, a child, any program."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import select
import signal
import socket
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import forking
import isthmus
from isthmus import _descriptors as descriptors
from streams import (
    SIZES,
    blob,
    compiled,
    echo_back,
    in_thread,
    number_of,
    program,
    send_blobs,
    when_some_is_inside,
)
from support import PATIENCE, Watchdog, process_state, run_python, wait_until

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
        killing = in_thread(lambda: when_some_is_inside(messages.writer, process.kill))
        with pytest.raises(isthmus.PeerDied, match="bytes went"):
            messages.writer.send(bytes(50_000_000))
        with pytest.raises(isthmus.ShutDown):
            messages.writer.send(b"x")
        killing.join()


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
