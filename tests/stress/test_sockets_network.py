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
