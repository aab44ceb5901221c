"""`FifoServer`, `FifoClient`: requests and replies, and whoever of them is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from streams import in_thread
from support import PATIENCE, Peer, process_state

Start = Callable[..., Peer]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[isthmus.FifoServer[int, str]]:
    """A server that answers numbers with text, in a thread."""
    handle: isthmus.FifoServer[int, str] = isthmus.FifoServer(tmp_path / "server", type=int, reply=str)
    with handle:

        def serve() -> None:
            for request in handle:
                if request.message >= 0:
                    request.reply(f"got {request.message}" + "." * request.message)

        thread = in_thread(serve)
        yield handle
        handle.close()
        thread.join()


def client(server: isthmus.FifoServer[int, str]) -> isthmus.FifoClient[int, str]:
    return isthmus.FifoClient(server.path, type=int, reply=str, timeout=PATIENCE)


def test_requests_and_replies(server: isthmus.FifoServer[int, str], tmp_path: Path) -> None:
    with client(server) as one, client(server) as two:
        assert one.call(3, PATIENCE) == "got 3..."
        assert two.call(100_000, PATIENCE) == "got 100000" + "." * 100_000
        assert one.call(0, PATIENCE) == "got 0"
        with pytest.raises(isthmus.Empty):
            one.call(-1, 0.05)  # is not answered
        assert one.call(5, PATIENCE) == "got 5....."
        assert len(list(tmp_path.iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["server"]


def test_a_reply_that_comes_too_late_is_thrown_away(tmp_path: Path) -> None:
    server: isthmus.FifoServer[int, int] = isthmus.FifoServer(tmp_path / "s", type=int, reply=int)
    with server, isthmus.FifoClient[int, int](tmp_path / "s", type=int, reply=int) as asking:
        with pytest.raises(isthmus.Empty):
            asking.call(1, 0.05)
        late = server.recv(0)
        answer = in_thread(lambda: [late.reply(1), server.recv(PATIENCE).reply(2)])
        assert asking.call(2, PATIENCE) == 2
        answer.join()


def test_many_clients_at_once(server: isthmus.FifoServer[int, str], spawn: Start) -> None:
    code = """
        import isthmus, sys
        with isthmus.FifoClient(sys.argv[1], type=int, reply=str, timeout=30) as client:
            for number in range(100):
                assert client.call(number, 30) == f"got {number}" + "." * number
                if number % 10 == 9:
                    print(number, flush=True)
        """
    peers = [spawn(code, server.path) for _ in range(3)]
    for number in range(9, 100, 10):  # however slow they are: only who stands still is late
        for peer in peers:
            peer.expect(str(number))
    for peer in peers:
        peer.finish()


def test_clients_that_are_killed_or_stopped_do_not_stop_the_server(tmp_path: Path, spawn: Start) -> None:
    code = """
        import isthmus, sys
        client = isthmus.FifoClient(sys.argv[1], type=int, reply=bytes, timeout=20)
        print("ready", flush=True)
        client.call(1)
        """
    with isthmus.FifoServer[int, bytes](tmp_path / "s", type=int) as server:
        killed, stopped = spawn(code, server.path), spawn(code, server.path)
        for peer in (killed, stopped):
            peer.expect("ready")
        requests = [server.recv(PATIENCE), server.recv(PATIENCE)]
        killed.kill()
        stopped.stop()
        answers: list[bool | None] = []
        for request in requests:
            try:
                answers.append(request.reply(bytes(3_000_000), timeout=0.1))
            except isthmus.Full:
                answers.append(None)
        assert sorted(answers, key=str) == [False, None]
        stopped.kill()
        for request in requests:
            assert request.reply(b"") is False
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # what they left is removed


def test_a_server_that_dies(tmp_path: Path, spawn: Start) -> None:
    code = """
        import isthmus, sys, time
        server = isthmus.FifoServer(sys.argv[1])
        print("ready", flush=True)
        server.recv()
        print("asked", flush=True)
        time.sleep(600)
        """
    path = tmp_path / "s"
    first = spawn(code, path)
    first.expect("ready")
    with isthmus.FifoClient[bytes, bytes](path, timeout=PATIENCE) as asking:
        threading.Thread(target=lambda: [first.expect("asked"), first.kill()]).start()  # type: ignore[func-returns-value]
        with pytest.raises(isthmus.PeerDied, match="before it answered"):
            asking.call(b"x")
        with pytest.raises(isthmus.ShutDown):
            asking.call(b"x")
        with isthmus.FifoServer[bytes, bytes](path) as second:
            thread = in_thread(lambda: second.recv(PATIENCE).reply(b"from the second"))
            assert asking.call(b"x", PATIENCE) == b"from the second"
            thread.join()
    assert process_state(first.pid) == ""


def test_requests_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with isthmus.FifoServer[int, int](path, type=int, reply=int) as server:
        raw: isthmus.FifoWriter[bytes] = isthmus.Fifo.open(path, type=bytes).writer()
        for text in (b"", b"12345678", b"12345678\xff\xffs.1", b"12345678\3\0../", b"12345678\7\0s./../x"):
            raw.send(text)
            with pytest.raises(isthmus.InvalidMessage, match="no request"):
                server.recv(0)
        name = b"s.1-x"
        raw.send(b"12345678" + len(name).to_bytes(2, "little") + name + b"\xc1")
        with pytest.raises(isthmus.InvalidMessage, match="not of type int"):
            server.recv(0)
        raw.send(b"12345678" + len(name).to_bytes(2, "little") + name + b"\1")
        assert server.recv(0).reply(1) is False  # there is no such client
