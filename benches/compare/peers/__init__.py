"""Every peer, in the order of the tables."""

from __future__ import annotations

from . import cloudtoid, fifo, iceoryx, isthmus_peer, messaging, posix, standard, surviving
from .base import Channel, LockPeer, Peer, Place, Receiver, Sender

ISTHMUS = isthmus_peer.QUEUE
PEERS: tuple[Peer, ...] = (
    standard.PIPE,
    standard.QUEUE,
    standard.RAW_PIPE,
    standard.SOCKETPAIR,
    messaging.ZMQ,
    messaging.NNG,
    posix.QUEUE,
    fifo.QUEUE,
    iceoryx.PUBLISH,
    cloudtoid.BLOCKING,
    cloudtoid.POLLED,
)
LOCKS: tuple[LockPeer, ...] = (standard.LOCK, posix.SEMAPHORE, surviving.SEMAPHORE, surviving.FILE)
ISTHMUS_LOCK = isthmus_peer.MUTEX

__all__ = [
    "ISTHMUS",
    "ISTHMUS_LOCK",
    "LOCKS",
    "PEERS",
    "Channel",
    "LockPeer",
    "Peer",
    "Place",
    "Receiver",
    "Sender",
]
