"""Streams, listeners and datagram sockets given to children of multiprocessing, whatever starts them."""

from __future__ import annotations

import contextlib
import copy
import functools
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import aio
from socket_workers import answer_datagram, answer_some, echo_in_a_loop, echo_messages, send_numbers
from sockets import Certificates, Connected, certificates, connected, kind, loose
from support import PATIENCE, wait_until

__all__ = ["certificates", "connected", "kind"]

METHODS = ["fork", "spawn", "forkserver"]


class Here:
    """Stands for the child that multiprocessing is about to start: descriptors go to this process."""

    def duplicate_for_child(self, number: int) -> int:
        """A descriptor of the child."""
        return os.dup(number)

    class DupFd:
        """A descriptor on its way."""

        def __init__(self, number: int) -> None:
            self.number = number

        def detach(self) -> int:
            return self.number


@contextlib.contextmanager
def again(given: Any) -> Iterator[Any]:
    """What a child would get, in this process."""
    set_spawning_popen(Here())  # type: ignore[arg-type]
    try:
        made = pickle.loads(ForkingPickler.dumps(given))
    finally:
        set_spawning_popen(None)
    yield made
    made.close(finish=False)


def ended(child: Any) -> bool:
    return child.exitcode is not None


@pytest.fixture(params=METHODS)
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Starts a child by this method; insists that it ends well."""
    context: Any = multiprocessing.get_context(request.param)
    children: list[Any] = []

    def begin(target: Callable[..., None], *arguments: object) -> Any:
        children.append(context.Process(target=target, args=arguments))
        children[-1].start()
        return children[-1]

    yield begin
    for child in children:
        wait_until(functools.partial(ended, child), "the child to end")
        assert child.exitcode == 0
        child.join()
        child.close()


# ---- streams


@pytest.mark.parametrize("face", ["sync", "asyncio"])
def test_a_stream_goes_to_a_child(start: Callable[..., Any], face: str) -> None:
    one, other = isthmus.Stream.pair()
    with one, other:
        one.send("before")
        sync = face == "sync"
        child = start(echo_messages, other) if sync else start(echo_in_a_loop, aio.Stream(other))
        other.close(finish=False)
        one.send("after")
        one.finish()
        assert list(one) == [[child.pid, "before"], [child.pid, "after"]]


def test_a_child_gives_back_its_copy_only(start: Callable[..., Any], tmp_path: Path) -> None:
    stream, server = loose("unix", tmp_path, None)  # type: ignore[arg-type]
    with stream, server:
        start(isthmus.Stream.close, server)
        start(isthmus.Stream.close, stream)
        server.send("from the parent")
        assert stream.recv(PATIENCE) == "from the parent"


@pytest.mark.parametrize("kind", ["unix", "tcp", "tcp6"])
def test_what_was_read_ahead_goes_along(kind: str, tmp_path: Path) -> None:
    """Wherever the bytes that came end: the child has the messages that nobody has taken, once."""
    messages = [b"", b"one", b"x" * 300, b"y" * 40_000, b"z"]
    wire = b"".join(len(message).to_bytes(4, "little") + message for message in messages) + b"\xff" * 4
    cuts = [*range(330), 20_000, len(wire) - 6, len(wire) - 3, len(wire)]
    for cut in cuts[:: 1 if kind == "unix" else 37]:
        one, other = loose(kind, tmp_path, None, type=bytes)  # type: ignore[arg-type]
        with one:
            one._sock.sendall(wire[:cut])
            first = [other.recv(PATIENCE)] if cut >= 4 else []
            other.poll(0)
            with again(other) as child:
                other.close(finish=False)
                one._sock.sendall(wire[cut:])
                assert first + list(child) == messages
                assert child.peer == other.peer
                assert child.type is bytes


@pytest.mark.parametrize(("framing", "sent"), [("lines", "one\n\ntwo\r\nthr"), ("raw", "bytes")])
def test_lines_and_bytes_that_were_read_ahead(framing: Any, sent: str) -> None:
    one, other = isthmus.Stream.pair(framing=framing)
    with one, other:
        one._sock.sendall(b"first\n" + sent.encode())
        if framing == "lines":
            assert other.recv(PATIENCE) == "first"
            with again(other) as child:
                one._sock.sendall(b"ee")
                one.finish()
                assert list(child) == ["one", "", "two", "three"]
                assert other.recv(0) == "one"  # a copy, as in a forked child
        else:
            assert other.read(2, PATIENCE) == b"fi"
            with again(other) as child:
                assert child.read(9, PATIENCE) == b"rst\nbytes"


def test_descriptors_and_files_that_were_read_ahead(tmp_path: Path) -> None:
    one, other = isthmus.Stream.pair(descriptors=3)
    (tmp_path / "file").write_bytes(b"what is in it")
    with one, other, (tmp_path / "file").open("rb") as file:
        one.send("first")
        one.send("passed", descriptors=[file])
        one._sock.sendmsg(
            [b"\xfc\xff\xff\xff\x01\0\0\0"], [(1, 1, file.fileno().to_bytes(4, "little"))]
        )  # SOL_SOCKET, SCM_RIGHTS
        assert other.recv(PATIENCE) == "first"
        with again(other) as child:
            one._sock.sendall(b"\x06\0\0\0\xa5later")
            one.send_file(file)
            one.finish()
            for text in ("passed", "later"):
                message, found = child.recv_with_descriptors(PATIENCE)
                assert message == text
                with os.fdopen(found[0], "rb") as passed:
                    assert os.pread(passed.fileno(), 100, 0) == b"what is in it"
                    assert not os.get_inheritable(passed.fileno())
            assert child.poll(PATIENCE)
            with again(child) as third, (tmp_path / "copy").open("wb") as copied:
                assert third.recv_file(copied, timeout=PATIENCE) == 13
                with pytest.raises(isthmus.ShutDown):
                    third.recv(PATIENCE)
        assert (tmp_path / "copy").read_bytes() == b"what is in it"


def test_what_was_not_sent_yet_goes_first() -> None:
    one, other = isthmus.Stream.pair(type=bytes)
    with one, other:
        one.send(b"kept", flush=False)
        with again(one) as child:
            child.send(b"of the child")
        assert [other.recv(PATIENCE), other.recv(PATIENCE)] == [b"kept", b"of the child"]
        large = b"m" * 5_000_000
        one.send(large, 0)  # begun, so it counts as sent
        with pytest.raises(isthmus.Full), again(one):
            pass
        rest = threading.Thread(target=one.finish)
        rest.start()
        assert other.recv(PATIENCE) == large
        rest.join(PATIENCE)
        with again(one) as child, pytest.raises(isthmus.ClosedError, match="finished by this side"):
            child.send(b"more")


def in_a_fork(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("flush", [True, False])
def test_what_a_parent_keeps_a_forked_child_does_not_send(flush: bool) -> None:
    one, other = isthmus.Stream.pair()
    with one, other:
        one.send("of the parent", flush=False)

        def work() -> None:
            one.send("of the child", flush=flush)
            one.flush()

        in_a_fork(work)
        one.finish()
        assert list(other) == ["of the child", "of the parent"]


def test_a_message_that_a_parent_has_begun_only_it_can_finish() -> None:
    one, other = isthmus.Stream.pair(type=bytes)
    with one, other:
        large = b"m" * 5_000_000
        one.send(large, 0)  # begun, so it counts as sent

        def work() -> None:
            with pytest.raises(isthmus.Unsupported, match="the parent of this process is in the middle"):
                one.send(b"torn")

        in_a_fork(work)
        rest = threading.Thread(target=one.finish)
        rest.start()
        assert list(other) == [large]
        rest.join(PATIENCE)


def test_a_stream_is_pickled_for_a_new_child_only(
    connected: Connected, kind: str, certificates: Certificates
) -> None:
    one, other = connected()
    for given in (one, other, aio.Stream(one)):
        with pytest.raises(TypeError, match=r"pickled only for a child .* Process\(args=…\)"):
            pickle.dumps(given)
    with pytest.raises(TypeError, match="pickled only"):
        copy.copy(one)
    if kind == "tls":
        with pytest.raises(TypeError, match="the state of its TLS is here"):
            again(one).__enter__()
        return
    waiting = threading.Thread(target=other.recv)
    waiting.start()
    wait_until(other._receiving.locked, "a thread to receive")
    with pytest.raises(TypeError, match="while a thread here receives"):
        again(other).__enter__()
    one.send("x")
    waiting.join(PATIENCE)
    one._sock.sendall(b"\xf1\xff\xff\xff")
    assert other.poll(PATIENCE)
    with pytest.raises(isthmus.CorruptError):
        again(other).__enter__()
    one.close()
    with pytest.raises(isthmus.ClosedError):
        again(one).__enter__()


# ---- listeners


@pytest.mark.parametrize("kind", ["unix", "tcp6", "tls"])
def test_workers_share_a_listener(
    start: Callable[..., Any], kind: str, tmp_path: Path, certificates: Certificates
) -> None:
    address = f"unix://{tmp_path}/s" if kind == "unix" else "tcp://[::1]:0"
    options: dict[str, Any] = {"tls": certificates.listening} if kind == "tls" else {}
    trusting: dict[str, Any] = {"tls": certificates.trusting} if kind == "tls" else {}
    with isthmus.Listener(address, **options) as listener:
        pids = [start(answer_some, listener, 3).pid for _ in range(2)]
        seen = []
        for _ in range(6):
            with isthmus.Stream(listener.address, timeout=PATIENCE, **trusting) as stream:
                seen.append(stream.recv(PATIENCE))
                stream.send("thanks")
        assert sorted(seen) == sorted(pids * 3)
        if kind == "unix":  # a child that closes leaves the file to its owner
            assert (tmp_path / "s").exists()
    assert not (tmp_path / "s").exists()


def test_a_listener_is_pickled_for_a_new_child_only(certificates: Certificates) -> None:
    listener = isthmus.Listener("tcp://127.0.0.1:0")
    with pytest.raises(TypeError, match="pickled only for a child"):
        pickle.dumps(listener)
    with pytest.raises(TypeError, match="pickled only for a child"):
        pickle.dumps(aio.Listener(listener))
    listener.close()
    with pytest.raises(isthmus.ClosedError):
        again(listener).__enter__()
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server)
    with isthmus.Listener("tcp://127.0.0.1:0", tls=context) as listener:
        with pytest.raises(TypeError, match=r"its ssl\.SSLContext is here"):
            again(listener).__enter__()


# ---- datagrams


@pytest.mark.parametrize("kind", ["udp6", "unix"])
def test_a_datagram_socket_goes_to_a_child(start: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    at = (f"unix://{tmp_path}/a", f"unix://{tmp_path}/b") if kind == "unix" else ("udp://[::1]:0",) * 2
    with isthmus.Datagram(at=at[0], type=list) as here:
        assert here.address is not None
        child = start(answer_datagram, here)
        with isthmus.Datagram(here.address, at=at[1], type=list) as there:
            there.send(["question"])
            assert there.recv(PATIENCE) == [child.pid, ["question"]]
    assert list(tmp_path.iterdir()) == []


def test_each_process_is_a_source_of_numbers_of_its_own(start: Callable[..., Any]) -> None:
    with isthmus.Datagram(at="udp://127.0.0.1:0", type=int, numbered=True) as here:
        assert here.address is not None
        with isthmus.Datagram(here.address, type=int, numbered=True) as there:
            there.send(0)
            start(send_numbers, there, [1, 2, 3])
            got = [here.recv(PATIENCE) for _ in range(4)]
            there.send(4)
            assert [*got, here.recv(PATIENCE)] == [0, 1, 2, 3, 4]
            stats = here.stats()
            assert (stats.received, stats.missing, stats.duplicate) == (5, 0, 0)


def test_a_datagram_socket_is_pickled_for_a_new_child_only() -> None:
    datagram = isthmus.Datagram(at="udp://127.0.0.1:0")
    with pytest.raises(TypeError, match="pickled only for a child"):
        pickle.dumps(datagram)
    with pytest.raises(TypeError, match="pickled only for a child"):
        pickle.dumps(aio.Datagram(datagram))
    datagram.close()
    with pytest.raises(isthmus.ClosedError):
        again(datagram).__enter__()
