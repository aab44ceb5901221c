"""Two hosts on one machine: network namespaces, with a wire between them that delays, loses and cuts.

The kernel's own means for that (`tc netem`) is missing in many kernels, so the wire is ours: a TUN device
in each namespace, and a thread here that carries the packets from one to the other.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import selectors
import socket
import subprocess
import sys
import threading
import time
from typing import Self

from support import PATIENCE, Peer, wait_until

FROM = {0: "10.99.0.1", 1: "10.99.0.2"}
"""Addresses of the hosts; each also has fd99::1, fd99::2."""

_END = """
import fcntl, os, selectors, socket, struct, subprocess, sys

number = int(sys.argv[2])
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"wire", 0x1001))  # TUNSETIFF: TUN without a header
for command in (
    "link set lo up",
    f"addr add 10.99.0.{number + 1}/24 dev wire",
    f"addr add fd99::{number + 1}/64 dev wire nodad",
    "link set wire up multicast on",
):
    subprocess.run(["ip", *command.split()], check=True)
wire = socket.socket(fileno=int(sys.argv[1]))
print("up", flush=True)
with selectors.DefaultSelector() as selector:
    selector.register(tun, selectors.EVENT_READ)
    selector.register(wire, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == tun:
                wire.send(os.read(tun, 65536))
            else:
                packet = wire.recv(65536)
                if not packet:
                    sys.exit()
                os.write(tun, packet)
"""


class Network:
    """Hosts 0 and 1, and the wire. Change `delay`, `jitter`, `loss` and `cut` at any time."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.jitter = 0.0
        self.loss = 0.0
        self.cut = False
        self.lost = 0
        self._chance = random.Random(20261121)
        self._ends: list[socket.socket] = []
        self._hosts: list[subprocess.Popen[bytes]] = []
        self._stop = threading.Event()
        self._carrier = threading.Thread(target=self._carry)

    def __enter__(self) -> Self:
        for number in (0, 1):
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with there:
                host = subprocess.Popen(
                    ["unshare", "--net", sys.executable, "-c", _END, str(there.fileno()), str(number)],
                    pass_fds=[there.fileno()], stdout=subprocess.PIPE,
                )  # fmt: skip
            self._ends.append(here)
            self._hosts.append(host)
            assert host.stdout is not None
            assert host.stdout.readline() == b"up\n"
        self._carrier.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._carrier.join(PATIENCE)
        for end in self._ends:
            end.close()
        for host in self._hosts:
            host.wait(PATIENCE)
            assert host.stdout is not None
            host.stdout.close()

    def start(self, number: int, code: str, *arguments: object) -> Peer:
        """A Python process on that host."""
        process = f"/proc/{self._hosts[number].pid}/ns/net"
        enter = f"""
import os, sys
os.execvp("nsenter", ["nsenter", "--net={process}", sys.executable, "-W", "error", *sys.argv[1:]])
"""
        return Peer(enter, "-c", code, *arguments)

    def _carry(self) -> None:
        flying: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        with selectors.DefaultSelector() as selector:
            for number, end in enumerate(self._ends):
                selector.register(end, selectors.EVENT_READ, number)
            while not self._stop.is_set():
                rest = max(0.0, flying[0][0] - time.monotonic()) if flying else 0.05
                for key, _ in selector.select(min(rest, 0.05)):
                    packet = self._ends[key.data].recv(65536)
                    if not packet:
                        return
                    if self.cut or self._chance.random() < self.loss:
                        self.lost += 1
                        continue
                    due = time.monotonic() + self.delay + self._chance.random() * self.jitter
                    heapq.heappush(flying, (due, next(numbers), 1 - key.data, packet))
                while flying and flying[0][0] <= time.monotonic():
                    _, _, to, packet = heapq.heappop(flying)
                    try:
                        self._ends[to].send(packet, socket.MSG_DONTWAIT)
                    except BlockingIOError:  # a full wire loses
                        self.lost += 1
                    except BrokenPipeError:
                        return


def can_make_networks() -> str:
    """Why this machine cannot; "" where it can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    if not os.path.exists("/dev/net/tun"):  # noqa: PTH110 - a device
        return "needs /dev/net/tun"
    done = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True)
    return "" if done.returncode == 0 else "may not make network namespaces"


__all__ = ["FROM", "Network", "can_make_networks", "wait_until"]
