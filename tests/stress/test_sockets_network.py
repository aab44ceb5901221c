"""Streams and datagrams between two hosts, over a wire that delays, loses, reorders and is cut."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from network import FROM, Network, can_make_networks
from support import Peer

pytestmark = pytest.mark.root

SERVER = """
import sys, isthmus
with isthmus.Listener(sys.argv[1], keepalive=2) as listener:
    print("listens", flush=True)
    for stream in listener:
        try:
            with stream:
                for message in stream:
                    stream.send(message)
                print("finished", flush=True)
        except isthmus.IsthmusError as error:
            print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    if why := can_make_networks():
        pytest.skip(why)
    with Network() as made:
        yield made


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    started: list[Peer] = []
    yield started
    for peer in started:
        peer.reap()


@pytest.mark.parametrize("host", [FROM[0], "[fd99::1]"])
def test_a_stream_over_a_bad_wire_brings_everything_in_order(
    network: Network, peers: list[Peer], host: str
) -> None:
    server = network.start(0, SERVER, f"tcp://{host}:5000")
    peers.append(server)
    server.expect("listens")
    network.delay, network.jitter, network.loss = 0.005, 0.01, 0.02
    client = network.start(
        1,
        """
import sys, threading, isthmus
with isthmus.Stream(sys.argv[1], timeout=60) as stream:
    messages = [bytes([number % 256]) * (number * 97 % 3000) for number in range(300)]
    sender = threading.Thread(target=stream.send_many, args=(messages,))
    sender.start()
    assert [stream.recv(60) for _ in messages] == messages
    sender.join()
print("all came", flush=True)
""",
        f"tcp://{host}:5000",
    )
    peers.append(client)
    client.expect("all came", patience=90)
    assert network.lost > 0
    network.loss = 0.0
    server.expect("finished", patience=60)


def test_a_cut_wire_is_noticed_on_both_sides(network: Network, peers: list[Peer]) -> None:
    server = network.start(0, SERVER, f"tcp://{FROM[0]}:5000")
    peers.append(server)
    server.expect("listens")
    client = network.start(
        1,
        """
import sys, isthmus
stream = isthmus.Stream(sys.argv[1], keepalive=2)
stream.send("hello")
print(stream.recv(30), flush=True)
sys.stdin.readline()
try:
    stream.recv(60)  # waits, and sends nothing itself: keepalive has to notice
except isthmus.PeerDied as error:
    print(error, flush=True)
sys.stdin.readline()
stream.reconnect(60, backoff=isthmus.Backoff(0.1))
stream.send("again")
print(stream.recv(30), flush=True)
stream.close()
try:
    isthmus.Stream("tcp://10.98.0.1:1", timeout=1)
except (isthmus.Unreachable, isthmus.Timeout) as error:
    print(type(error).__name__, flush=True)
""",
        f"tcp://{FROM[0]}:5000",
    )
    peers.append(client)
    client.expect("hello")
    network.cut = True
    client.send()
    assert client.line(60) == f"tcp://{FROM[0]}:5000 stopped answering: the connection timed out"
    assert server.line(60).startswith("PeerDied tcp://10.99.0.2:")
    network.cut = False
    client.send()
    client.expect("again", patience=60)
    server.expect("finished", patience=60)
    client.expect("Unreachable")


def test_connecting_over_a_cut_wire_times_out(network: Network, peers: list[Peer]) -> None:
    network.cut = True
    client = network.start(
        1,
        """
import sys, isthmus
try:
    isthmus.Stream(sys.argv[1], timeout=0.5)
except isthmus.Timeout as error:
    print(error, flush=True)
""",
        f"tcp://{FROM[0]}:5000",
    )
    peers.append(client)
    client.expect(f"connecting to tcp://{FROM[0]}:5000: not done in 0.5 s")


def test_losses_and_reordering_of_datagrams_are_seen(network: Network, peers: list[Peer]) -> None:
    receiver = network.start(
        0,
        """
import sys, isthmus
with isthmus.Datagram(at=sys.argv[1], numbered=True) as here:
    print("ready", flush=True)
    numbers = []
    while (received := here.recv_from(30)).message != b"end":
        numbers.append(received.number)
    stats = here.stats()
    expected = max(numbers) - numbers[0] + 1 if numbers[0] == min(numbers) else 0
    print(len(numbers), stats.late, stats.missing, stats.duplicate, flush=True)
""",
        f"udp://{FROM[0]}:5000",
    )
    peers.append(receiver)
    receiver.expect("ready")
    network.delay, network.jitter, network.loss = 0.001, 0.01, 0.1
    sender = network.start(
        1,
        """
import sys, time, isthmus
with isthmus.Datagram(sys.argv[1], numbered=True) as there:
    for number in range(1000):
        there.send(b"%d" % number)
        time.sleep(0.0005)
    print("sent", flush=True)
    sys.stdin.readline()
    there.send(b"end")
""",
        f"udp://{FROM[0]}:5000",
    )
    peers.append(sender)
    sender.expect("sent", patience=60)
    time.sleep(0.5)  # what is under way comes before the end, or is missing
    network.loss = network.jitter = 0.0
    sender.send()
    came, late, missing, double = map(int, receiver.line(60).split())
    assert came < 1000
    assert late > 0
    assert double == 0
    # What came before the first that was seen nobody can miss.
    assert 0 <= 1000 - came - missing < 20


@pytest.mark.parametrize(
    ("at", "group"),
    [
        ("udp://0.0.0.0:0", "239.1.2.3"),
        ("udp://[::]:0", "ff02::123"),
        ("udp://[::]:0", "ff05::123"),
        ("udp://*:0", "ff02::123"),
    ],
    ids=["ipv4", "link", "site", "both"],
)
def test_a_group_is_heard_on_the_other_host(network: Network, peers: list[Peer], at: str, group: str) -> None:
    """Who joined, and nobody else; and the sender's address takes answers, one of the link included."""
    member = network.start(
        0,
        """
import sys, isthmus
at, group = sys.argv[1:]
with isthmus.Datagram(at=at, share=True) as one, isthmus.Datagram(at=one.address, share=True) as two:
    for here in (one, two):
        here.join(group, "wire")
    print(two.address, flush=True)
    for here in (one, two):
        received = here.recv_from(30)
        here.send(b"answer to " + received.message, received.sender)
    two.leave(group, "wire")
    print("left", flush=True)
    print(one.recv(30).decode(), flush=True)
    print(isthmus.select(two, timeout=0), flush=True)
    sys.stdin.readline()
""",
        at,
        group,
    )
    peers.append(member)
    port = member.line().rpartition(":")[2]
    sender = network.start(
        1,
        """
import sys, isthmus
at, target = sys.argv[1:]
with isthmus.Datagram(at=at) as here:
    here.multicast(hops=1, interface="wire")
    here.send(b"all", target)
    print([here.recv(30).decode() for _ in range(2)], flush=True)
    sys.stdin.readline()
    here.send(b"again", target)
""",
        at,
        f"udp://{f'[{group}]' if ':' in group else group}:{port}",
    )
    peers.append(sender)
    assert sender.line() == "['answer to all', 'answer to all']"
    member.expect("left")
    sender.send()
    member.expect("again")
    member.expect("[]")
    member.send()
    member.finish()


def test_a_stream_over_an_address_of_the_link(network: Network, peers: list[Peer]) -> None:
    server = network.start(
        0,
        """
import subprocess, isthmus
show = "ip -6 -o addr show dev wire scope link".split()
own = subprocess.check_output(show, text=True).split("inet6 ")[1].split("/")[0]
with isthmus.Listener(f"tcp://[{own}%wire]:0") as listener:
    print(listener.address, flush=True)
    with listener.accept(30) as stream:
        stream.send(stream.peer)
        print(*stream, flush=True)
""",
    )
    peers.append(server)
    address = server.line()
    assert "%wire]:" in address
    client = network.start(
        1,
        """
import sys, isthmus
with isthmus.Stream(sys.argv[1]) as stream:
    peer = stream.recv(30)
    own = stream._sock.getsockname()
    assert peer == f"tcp://[{own[0].partition('%')[0]}%wire]:{own[1]}", (peer, own)
    stream.send("hello")
print("done", flush=True)
""",
        address,
    )
    peers.append(client)
    client.expect("done")
    server.expect("hello")
