"""IPv6: streams, listeners and datagrams, alone and beside IPv4; groups are in test_sockets_network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
from isthmus import aio
from isthmus.socket._address import of_socket, parse
from sockets import KEY, Accepting, Certificates, accepting, certificates, echo_server
from support import PATIENCE

__all__ = ["accepting", "certificates"]


def port_of(address: str | None) -> str:
    assert address is not None
    return address.rpartition(":")[2]


@pytest.mark.parametrize("host", ["[::1]", "[::]"])
def test_a_server_of_ipv6_alone_is_not_there_for_ipv4(host: str) -> None:
    with echo_server(f"tcp://{host}:0") as server:
        assert server.address.startswith(f"tcp://{host}:")
        port = port_of(server.address)
        with isthmus.Stream(f"tcp://[::1]:{port}") as stream:
            stream.send("over IPv6")
            assert stream.recv(PATIENCE) == "over IPv6"
        with pytest.raises(isthmus.Refused):
            isthmus.Stream(f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("listens", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("first", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "asyncio"])
def test_of_a_name_with_several_addresses_the_one_that_answers_is_taken(
    listens: str, first: int, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def both(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in {"both.test", b"both.test"}:
            return look_up(host, *arguments, **options)
        found = [answer for own in ("127.0.0.1", "::1") for answer in look_up(own, *arguments, **options)]
        return sorted(found, key=lambda answer: answer[0] != first)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with echo_server(f"tcp://{listens}:0") as server:
        address = f"tcp://both.test:{port_of(server.address)}"
        stream = asyncio.run(connected(address)) if awaited else isthmus.Stream(address)
        with stream:
            stream.send("found")
            assert stream.recv(PATIENCE) == "found"
            assert stream.peer == address


async def connected(address: str) -> isthmus.Stream[Any]:
    return (await aio.Stream.connect(address)).sync


def test_both_sides_name_each_other(accepting: Callable[..., Accepting]) -> None:
    server = accepting("tcp://[::1]:0", key=KEY)
    with isthmus.Stream(server.address, key=KEY) as stream, server.one() as other:
        assert stream.peer == stream.address == other.address == server.address
        own = stream._sock.getsockname()
        assert other.peer == f"tcp://[::1]:{own[1]}"
        assert other.credentials is None
        stream._sock.close()
        with pytest.raises(isthmus.PeerDied, match=rf"tcp://\[::1\]:{own[1]} is gone"):
            other.recv(PATIENCE)


def test_tls_over_ipv6(certificates: Certificates) -> None:
    with echo_server("tcp://[::1]:0", tls=certificates.mutual) as server:
        with isthmus.Stream(server.address, tls=certificates.connecting) as stream:
            stream.send(b"x" * 100_000)
            assert stream.recv(PATIENCE) == b"x" * 100_000


def test_workers_share_a_port_of_ipv6() -> None:
    with isthmus.Listener("tcp://[::1]:0", reuse_port=True) as one:
        with isthmus.Listener(one.address, reuse_port=True) as two:
            assert one.port == two.port
        with pytest.raises(OSError, match="listens there already"):
            isthmus.Listener(one.address)


def test_awaited_over_ipv6() -> None:
    async def main() -> None:
        async with aio.Listener("tcp://[::1]:0") as listener, aio.Datagram(at="udp://[::1]:0") as here:
            connecting = asyncio.create_task(aio.Stream.connect(listener.address))
            async with await listener.accept(PATIENCE) as other, await connecting as stream:
                await stream.send("over IPv6")
                assert await other.recv(PATIENCE) == "over IPv6"
            async with aio.Datagram(here.address) as there:
                await there.send(b"question")
                received = await here.recv_from(PATIENCE)
                await here.send(b"answer", received.sender)
                assert await there.recv(PATIENCE) == b"answer"

    asyncio.run(asyncio.wait_for(main(), PATIENCE * 2))


def test_a_datagram_socket_for_both() -> None:
    with isthmus.Datagram(at="udp://*:0") as here:
        port = port_of(here.address)
        for host in ("127.0.0.1", "[::1]"):
            with isthmus.Datagram(f"udp://{host}:{port}") as there:
                there.send(host.encode())
                received = here.recv_from(PATIENCE)
                assert received.message == host.encode()
                assert received.sender == there.address
                here.send(b"answer", received.sender)
                assert there.recv(PATIENCE) == b"answer"
    with isthmus.Datagram(at="udp://[::]:0") as six:
        with isthmus.Datagram(f"udp://127.0.0.1:{port_of(six.address)}") as four:
            four.send(b"to nobody")
            with pytest.raises(isthmus.Refused):
                four.recv(PATIENCE)


def test_the_largest_datagram_over_ipv6() -> None:
    with isthmus.Datagram(at="udp://[::1]:0") as here, isthmus.Datagram(here.address) as there:
        there.send(b"x" * 65507)
        assert len(here.recv(PATIENCE)) == 65507
        with pytest.raises(isthmus.TooLarge, match="fit into no datagram"):
            there.send(b"x" * 65528)


def test_a_socket_for_both_joins_groups_of_ipv4() -> None:
    with isthmus.Datagram(at="udp://*:0") as here, isthmus.Datagram(at="udp://*:0") as sender:
        here.join("239.1.2.4", "lo")
        sender.multicast(hops=1, interface="lo")
        sender.send(b"to all", f"udp://239.1.2.4:{port_of(here.address)}")
        assert here.recv(PATIENCE) == b"to all"
        here.leave("239.1.2.4", "lo")


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with isthmus.Listener("tcp://*:0") as listener:
        assert [sock.family for sock in listener.sockets] == [socket.AF_INET]
        socket.create_connection(("127.0.0.1", listener.port)).close()
    with isthmus.Datagram(at="udp://*:0") as here:
        with isthmus.Datagram(f"udp://127.0.0.1:{port_of(here.address)}") as there:
            there.send(b"x")
            assert here.recv(PATIENCE) == b"x"


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("::1", 5, 0, 0), "tcp://[::1]:5"),
        (("fe80::1", 5, 0, 1), "tcp://[fe80::1%lo]:5"),
        (("fe80::1", 5, 0, 987654), "tcp://[fe80::1%987654]:5"),
        (("::ffff:10.0.0.1", 5, 0, 0), "tcp://10.0.0.1:5"),
    ],
)
def test_addresses_that_the_kernel_reports(sockaddr: Any, text: str) -> None:
    address = of_socket("tcp", sockaddr)
    assert str(address) == text
    assert parse(text, "tcp") == address


def test_nobody_there_over_ipv6() -> None:
    with isthmus.Listener("tcp://[::1]:0") as gone:
        address = gone.address
    with pytest.raises(isthmus.Refused, match=r"tcp://\[::1\]:\d+: connection refused"):
        isthmus.Stream(address)
    with pytest.raises(OSError, match="assign"):
        isthmus.Listener("tcp://[2001:db8::1]:0")
